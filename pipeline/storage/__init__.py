"""Reading and writing files, wherever they live: all file access goes through here.

Every path that a user gives may be local or a URL (``s3://bucket/key``). Credentials come from the
environment as for any S3 client, the endpoint from ``AWS_ENDPOINT_URL``; neither is logged or written.
Requests to remote stores are tried again with a bound; see `pipeline.storage.retries` for what they raise.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar, cast

from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from hiwl_core.errors import UserError
from pipeline.storage.listing import Entry, exists, file_meant, find_files, hidden, iter_entries, list_files
from pipeline.storage.partials import dead_partials, partial_name
from pipeline.storage.places import GLOB_CHARACTERS, absolute, arrow_path, filesystem_of, in_s3
from pipeline.storage.ranged_file import RangedFile
from pipeline.storage.retries import StoreError, retried
from pipeline.storage.s3_store import SETTLE_SECONDS, shared_store

__all__ = [
    "GLOB_CHARACTERS",
    "Entry",
    "StoreError",
    "absolute",
    "arrow_path",
    "create_bytes",
    "exists",
    "find_files",
    "hidden",
    "in_threads",
    "iter_entries",
    "list_files",
    "open_input",
    "prepare_folder",
    "read_bytes",
    "remove",
    "remove_empty",
    "remove_partials",
    "sha256_of",
    "write_bytes",
]

# Object storage answers after tens of milliseconds: many requests wait at once.
READERS = 16
CALLED_AHEAD = 8 * READERS
READ_BUFFER = 64 * 1024
# As filesystems say that they have no hard links.
WITHOUT_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK})

Item = TypeVar("Item")
Result = TypeVar("Result")


def open_input(path: str) -> BinaryIO:
    """A seekable binary file for reading, as a context manager; of a remote one, only what is read comes.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    if in_s3(path):
        return cast(BinaryIO, io.BufferedReader(RangedFile(shared_store(), path), READ_BUFFER))
    filesystem, place = filesystem_of(path)
    if isinstance(filesystem, LocalFileSystem):
        return open(place, "rb")
    return cast(BinaryIO, retried(lambda: filesystem.open(place, "rb"), path))


def sha256_of(file: BinaryIO) -> str:
    """The digest of what an open file has from here on."""
    # Files have `readinto`, which their type does not say.
    return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


def read_bytes(path: str) -> bytes:
    """The whole of a file.

    Raises
    ------
    UserError
        If there is no such file.
    """
    try:
        if in_s3(path):
            return shared_store().read(path)[0]
        filesystem, place = filesystem_of(path)
        return bytes(retried(lambda: filesystem.cat_file(place), path))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no file {path!r}{file_meant(path)}") from None


def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole or not at all, over an older one if there is any.

    A local file is written beside its place, flushed to the disk and renamed; in object storage one PUT, or
    one upload of parts, is whole by nature. A reader sees the old content or the new, whatever dies in
    between.
    """
    if in_s3(path):
        shared_store().write(path, content)
        return
    filesystem, place = filesystem_of(path)
    if not isinstance(filesystem, LocalFileSystem):
        _put(filesystem, place, path, content)
        return
    folder = os.path.dirname(place)
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, partial_name())
    try:
        _write_whole(partial, content)
        os.replace(partial, place)
    except BaseException as error:
        # What has no room for a file may still have none to forget it.
        with suppress(OSError):
            os.remove(partial)
        if isinstance(error, OSError):
            # The file that was wanted, and not the name that it has meanwhile, which says nothing.
            error.filename = path
        raise


def _put(filesystem: AbstractFileSystem, place: str, path: str, content: bytes, **condition: str) -> None:
    """Write a file of a remote store."""
    try:
        retried(lambda: filesystem.pipe_file(place, content, **condition), path)
    except FileNotFoundError:
        raise UserError(f"no bucket or folder for {path}: check the path, or make it first") from None


def create_bytes(path: str, content: bytes) -> bool:
    """Write a small file if there is none of its name; of several who try at once one is told yes.

    Parameters
    ----------
    path : str
    content : bytes
        That nobody else would write, such as with a random token in it.

    Returns
    -------
    bool
        Whether the file is this call's.
    """
    if in_s3(path):
        return shared_store().create(path, content)
    filesystem, place = filesystem_of(path)
    if not isinstance(filesystem, LocalFileSystem):
        if retried(lambda: filesystem.exists(place), path):
            return False
        # That it is there already may be by an attempt of this very call, whose answer was lost.
        with suppress(FileExistsError):
            _put(filesystem, place, path, content, mode="create")
        # Not all know that condition: there, who wrote last has it, and the others see that.
        time.sleep(SETTLE_SECONDS)
        return read_bytes(path) == content
    folder = os.path.dirname(place)
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, partial_name())
    try:
        _write_whole(partial, content)
        os.link(partial, place)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        return _create_without_link(place, content)
    finally:
        with suppress(FileNotFoundError):
            os.remove(partial)
    return True


def _write_whole(place: str, content: bytes, mode: str = "wb") -> None:
    with open(place, mode) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _create_without_link(place: str, content: bytes) -> bool:
    try:
        _write_whole(place, content, "xb")
    except FileExistsError:
        return False
    return True


def prepare_folder(path: str, inner: Sequence[str] = ()) -> None:
    """Make a folder ready for parts: it can be written, and what dead processes left half written is removed.

    Parameters
    ----------
    path : str
    inner : sequence of str
        See `remove_partials`.

    Raises
    ------
    OSError
        If a local folder cannot be written.
    UserError
        If a store refuses it.
    """
    # A name that nobody has: a file of the user's is neither overwritten nor removed.
    probe = f"{path}/_probe-{secrets.token_hex(8)}"
    write_bytes(probe, b"")
    remove(probe)
    remove_partials(path, inner)


def remove_partials(path: str, inner: Sequence[str] = ()) -> None:
    """Remove what dead processes of ours left half written at the top of a folder.

    Parameters
    ----------
    path : str
    inner : sequence of str
        Names of folders in it that are all ours, and are searched to the bottom.
    """
    if in_s3(path):
        return
    filesystem, place = filesystem_of(path)
    if isinstance(filesystem, LocalFileSystem):
        for partial in dead_partials(place, inner):
            partial.unlink(missing_ok=True)


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = CALLED_AHEAD
) -> Iterator[Result]:
    """Results of a function of a small file, in order; object storage answers many requests at once.

    So many are called ahead of need, and not all: there may be a million, and results may be large.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(READERS) as readers:
        try:
            for item in items:
                waiting.append(readers.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def remove_empty(path: str) -> None:
    """Remove a local folder with nothing in it; stores have none."""
    if in_s3(path):
        return
    filesystem, place = filesystem_of(path)
    if isinstance(filesystem, LocalFileSystem):
        # With something in it, or gone.
        with suppress(OSError):
            os.rmdir(place)


def remove(path: str) -> None:
    """Remove a file or a folder with all in it, if it is there; never a whole bucket."""
    if in_s3(path):
        shared_store().delete(path)
        return
    filesystem, place = filesystem_of(path)
    if filesystem.exists(place):
        filesystem.rm(place, recursive=True)
