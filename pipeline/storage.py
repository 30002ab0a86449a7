"""Paths and URLs to filesystems: the one place that knows where files live.

Every path that a user gives may be local or a URL (``s3://bucket/key``). Credentials come from the
environment as for any S3 client, the endpoint from ``AWS_ENDPOINT_URL``; neither is logged or written.
"""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from hiwl_core.errors import UserError

__all__ = [
    "absolute",
    "exists",
    "find_files",
    "hidden",
    "in_threads",
    "is_file",
    "list_files",
    "open_input",
    "prepare_folder",
    "read_bytes",
    "remove",
    "write_bytes",
]

GLOB_CHARACTERS = frozenset("*?[")
# Object storage answers after tens of milliseconds: many requests wait at once.
READERS = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def absolute(path: str) -> str:
    """The path in a form that any worker on any node understands: a URL unchanged, a local path absolute."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def exists(path: str) -> bool:
    """Whether there is a file or folder at a path or URL."""
    filesystem, place = _resolve(path)
    return bool(filesystem.exists(place))


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
    if not GLOB_CHARACTERS & set(path) and not exists(path):
        raise UserError(f"no file or folder {path!r}: check the path (globs need quotes)")
    names = [name for name, _ in list_files(path)]
    if is_file(path):
        return names
    wanted = [name for name in names if name.lower().endswith(tuple(suffixes))]
    if not wanted:
        raise UserError(f"no {' or '.join(suffixes)} file in {path!r}: check the path (globs need quotes)")
    return wanted


def list_files(path: str) -> list[tuple[str, int]]:
    """Names and sizes of a file, of the files in a folder, searched to the bottom, or of those a glob names.

    Names that begin with ``_`` or ``.`` are left out, at every level: manifests and markers live there.

    Returns
    -------
    list of (str, int)
        Absolute paths or URLs with their bytes, sorted; empty if there is nothing.
    """
    filesystem, place = _resolve(path)
    if GLOB_CHARACTERS & set(place):
        found, root = filesystem.glob(place, detail=True), None
    elif filesystem.isfile(place):
        return [(_full_name(filesystem, place), int(filesystem.size(place) or 0))]
    else:
        found, root = filesystem.find(place, detail=True), place
    return [
        (_full_name(filesystem, name), int(info.get("size") or 0))
        for name, info in sorted(found.items())
        if info.get("type") != "directory"
        and not hidden(posixpath.relpath(name, root) if root else posixpath.basename(name))
    ]


def is_file(path: str) -> bool:
    """Whether there is a file, not a folder, at a path or URL."""
    filesystem, place = _resolve(path)
    return bool(filesystem.isfile(place))


def hidden(name: str) -> bool:
    """Whether a file, or a folder on the way to it, is a marker or a manifest by its name."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))


def open_input(path: str) -> fsspec.core.OpenFile:
    """A seekable binary file for reading, as a context manager."""
    return fsspec.open(path, "rb")


def read_bytes(path: str) -> bytes:
    """The whole of a file.

    Raises
    ------
    UserError
        If there is no such file.
    """
    filesystem, place = _resolve(path)
    try:
        return bytes(filesystem.cat_file(place))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no file {path!r}") from None


def write_bytes(path: str, content: bytes) -> None:
    """Write a file whole or not at all, over an older one if there is any.

    A local file is written beside its place, flushed to the disk and renamed; in object storage one PUT is
    whole by nature. A reader sees the old content or the new, whatever dies in between.
    """
    filesystem, place = _resolve(path)
    if not isinstance(filesystem, LocalFileSystem):
        filesystem.pipe_file(place, content)
        return
    folder, name = os.path.split(place)
    os.makedirs(folder, exist_ok=True)
    partial = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, place)
    except BaseException:
        if os.path.exists(partial):
            os.remove(partial)
        raise


def prepare_folder(path: str) -> None:
    """Make a folder ready for parts: it can be written, and what a killed run left half written is removed.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    probe = f"{path}/_probe"
    write_bytes(probe, b"")
    remove(probe)
    filesystem, place = _resolve(path)
    if isinstance(filesystem, LocalFileSystem):
        for partial in Path(place).glob(".*.partial"):
            partial.unlink()


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Results of a function of a small file, in order; object storage answers many requests at once."""
    with ThreadPoolExecutor(READERS) as readers:
        yield from readers.map(function, items)


def remove(path: str) -> None:
    """Remove a file or a folder with all in it, if it is there."""
    filesystem, place = _resolve(path)
    if filesystem.exists(place):
        filesystem.rm(place, recursive=True)


def _resolve(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, place = fsspec.core.url_to_fs(absolute(path))
    except (ImportError, ValueError) as error:
        raise UserError(f"cannot use the path {path!r}: {error}") from None
    return filesystem, place


def _full_name(filesystem: fsspec.AbstractFileSystem, name: str) -> str:
    return name if isinstance(filesystem, LocalFileSystem) else filesystem.unstrip_protocol(name)
