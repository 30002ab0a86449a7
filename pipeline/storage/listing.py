"""What files there are: behind a folder, a glob or a single path."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import glob_translate

from hiwl_core.errors import UserError
from hiwl_core.near_names import or_meant
from pipeline.storage.places import GLOB_CHARACTERS, absolute, filesystem_of, full_name, in_s3
from pipeline.storage.retries import retried
from pipeline.storage.s3_store import S3Store, shared_store

__all__ = [
    "Entry",
    "exists",
    "file_meant",
    "find_files",
    "hidden",
    "is_pattern",
    "iter_entries",
    "list_files",
]

MOST_BESIDE = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a listing.

    Parameters
    ----------
    path : str
        Absolute path or URL.
    size : int
        Bytes.
    mark : str
        Differs where the content does: the ETag in S3; size and time of change of a local file; what another
        filesystem has of the kind, or empty.
    """

    path: str
    size: int
    mark: str


def iter_entries(path: str) -> Iterator[Entry]:
    """A file, the files in a folder, searched to the bottom, or those that a glob names, as they are found.

    In no order, and never all in memory where the store can help it: S3 gives pages of a thousand, local
    folders are walked. Names that begin with ``_`` or ``.`` are left out, at every level below the folder (of
    a glob: below its part without wildcards): manifests and markers live there.

    Raises
    ------
    UserError
        If the store refuses, has no such bucket, or nobody answers at its endpoint.
    """
    if in_s3(path):
        return _s3_entries(shared_store(), path)
    filesystem, place = filesystem_of(path)
    if isinstance(filesystem, LocalFileSystem) and not is_pattern(path):
        return _local_entries(place)
    return _other_entries(filesystem, place, path)


def exists(path: str) -> bool:
    """Whether there is a file or folder at a path or URL.

    Raises
    ------
    UserError
        If the store refuses, has no such bucket, or nobody answers at its endpoint.
    """
    if in_s3(path):
        store = shared_store()
        if not path.endswith("/") and store.head(path) is not None:
            return True
        bucket, key = store.split(path)
        page = next(store.pages(path, bucket, f"{key.rstrip('/')}/".lstrip("/"), limit=1))
        return bool(page.get("Contents")) or not key
    filesystem, place = filesystem_of(path)
    return bool(retried(lambda: filesystem.exists(place), path))


def is_pattern(path: str) -> bool:
    """Whether a path is a glob: it has such characters, and there is nothing whose name has them.

    Parameters
    ----------
    path : str
        Local or URL.
    """
    return bool(GLOB_CHARACTERS & set(path)) and not exists(path)


def list_files(path: str) -> list[tuple[str, int]]:
    """Names and sizes of the files that `iter_entries` finds.

    Returns
    -------
    list of (str, int)
        Absolute paths or URLs with their bytes, sorted; empty if there is nothing.
    """
    return sorted((entry.path, entry.size) for entry in iter_entries(path))


def file_meant(path: str) -> str:
    """For the end of a message that there is no such file: one beside it that may be meant, or nothing."""
    if "://" in path:
        return ""
    folder, name = os.path.split(path.rstrip("/"))
    with suppress(OSError):
        beside = sorted(os.listdir(folder or "."))
        # To compare a million names takes a minute.
        return or_meant(name, beside) if len(beside) <= MOST_BESIDE else ""
    return ""


def find_files(path: str, suffixes: Sequence[str]) -> list[str]:
    """Files behind a command-line argument: a file, a folder (searched to the bottom) or a glob.

    Parameters
    ----------
    path : str
        Local or URL.
    suffixes : sequence of str
        Endings of the wanted files in a folder or glob, such as ``".parquet"``; a file is wanted as it is.

    Returns
    -------
    list of str
        Absolute paths or URLs, sorted, never empty.

    Raises
    ------
    UserError
        If there is nothing at the path, or nothing with a wanted ending.
    """
    names = [name for name, _ in list_files(path)]
    if names == [absolute(path).removeprefix("file://")]:
        return names
    wanted = [name for name in names if name.lower().endswith(tuple(suffixes))]
    if not wanted:
        if not names and not GLOB_CHARACTERS & set(path) and not exists(path):
            raise UserError(
                f"no file or folder {path!r}: check the path (globs need quotes){file_meant(path)}"
            )
        others = f", only others such as {names[0].rsplit('/', 1)[-1]!r}" if names else ""
        images = "; `hiwl ingest` packs images" if others else ""
        raise UserError(
            f"no {' or '.join(suffixes)} file in {path!r}{others}: check the path (globs need quotes){images}"
        )
    return wanted


def hidden(name: str) -> bool:
    """Whether a file, or a folder on the way to it, is a marker or a manifest by its name."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))


def _s3_entries(store: S3Store, path: str) -> Iterator[Entry]:
    scheme = path.split("://")[0]
    bucket, key = store.split(path)

    def entry(name: str, size: Any, etag: Any) -> Entry:
        return Entry(f"{scheme}://{bucket}/{name}", int(size), str(etag).strip('"'))

    is_glob = bool(GLOB_CHARACTERS & set(key)) and is_pattern(path)
    # A name with an ending is probably a file: asked first, so that a file costs one request.
    asked = "." in posixpath.basename(key) and not is_glob
    if asked and (found := store.head(path)):
        yield entry(key, found["ContentLength"], found.get("ETag", ""))
        return
    literal = re.split(r"[*?\[]", key)[0] if is_glob else key
    root = literal[: literal.rfind("/") + 1] if is_glob else f"{key.rstrip('/')}/".lstrip("/")
    wanted = re.compile(glob_translate(key)) if is_glob else None
    # A glob of one level asks for that level alone.
    delimiter = "/" if is_glob and "/" not in key[len(root) :] and "**" not in key else ""
    anything = False
    for page in store.pages(path, bucket, literal if is_glob else root, delimiter):
        for found in page.get("Contents", []):
            anything, name = True, found["Key"]
            if name.endswith("/") or hidden(name[len(root) :]) or (wanted and not wanted.match(name)):
                continue
            yield entry(name, found["Size"], found.get("ETag", ""))
    if not anything and not is_glob and not asked and key and (found := store.head(path)):
        yield entry(key, found["ContentLength"], found.get("ETag", ""))


def _local_entries(place: str) -> Iterator[Entry]:
    if os.path.isfile(place):
        yield _local_entry(place, os.stat(place))
        return
    # Each with all that it lies in: a link to one of those would be walked for ever.
    folders = [(place, frozenset([_identity(os.stat(place))]))] if os.path.isdir(place) else []
    while folders:
        folder, around = folders.pop()
        with os.scandir(folder) as found:
            for item in found:
                if hidden(item.name):
                    continue
                try:
                    if item.is_dir():
                        identity = _identity(item.stat())
                        if identity not in around:
                            folders.append((item.path, around | {identity}))
                        continue
                    # A link to nothing is a file that cannot be read: for its reader to say.
                    state = item.stat(follow_symlinks=os.path.exists(item.path))
                except FileNotFoundError:
                    continue
                yield _local_entry(item.path, state)


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _local_entry(path: str, state: os.stat_result) -> Entry:
    return Entry(path, state.st_size, f"{state.st_size:x}-{state.st_mtime_ns:x}")


def _other_entries(filesystem: fsspec.AbstractFileSystem, place: str, path: str) -> Iterator[Entry]:
    """Of globs, and of filesystems that know no pages: their whole listing at once."""
    if is_pattern(path):
        place = _with_literal_folders(place) if isinstance(filesystem, LocalFileSystem) else place
        literal = re.split(r"[*?\[]", place)[0]
        root = literal[: literal.rfind("/") + 1]
        found = retried(lambda: filesystem.glob(place, detail=True), path)
    else:
        # A single file is found under its own name, which is no name below a folder.
        root = place.rstrip("/") + "/"
        try:
            found = retried(lambda: filesystem.find(place, detail=True), path)
        except FileNotFoundError:
            # As Google's says that there is no such bucket.
            return
        if isinstance(found, list):
            # As Azure's says that it is a single file.
            found = {name: filesystem.info(name) for name in found}
    for name, info in found.items():
        if info.get("type") == "directory" or hidden(name.removeprefix(root) if name != place else ""):
            continue
        full, size = full_name(filesystem, name, path), int(info.get("size") or 0)
        if isinstance(filesystem, LocalFileSystem):
            yield _local_entry(full, os.stat(full))
        else:
            yield Entry(full, size, _other_mark(info))


def _with_literal_folders(place: str) -> str:
    """A local glob in which folders that are there, such as ``cat [v2]``, stand for themselves."""
    parts = place.split("/")
    there = 1
    while there < len(parts) and os.path.isdir("/".join(parts[: there + 1])):
        there += 1
    return "/".join([*map(glob.escape, parts[:there]), *parts[there:]])


def _other_mark(info: dict[str, Any]) -> str:
    keys = ("ETag", "etag", "md5Hash", "md5", "mtime", "LastModified", "last_modified", "updated", "created")
    return next((str(info[key]).strip('"') for key in keys if info.get(key)), "")
