"""Images of a folder or zip, read on a worker."""

from __future__ import annotations

import zipfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from hiwl_core.compressed import MAX_BYTES
from hiwl_core.errors import UserError
from hiwl_core.statuses import TOO_LARGE
from pipeline import storage

__all__ = ["Content", "read_files", "read_members"]

LARGER = f"{TOO_LARGE}: larger than {MAX_BYTES // 2**20} MB"
URL_READERS = 16
FILES_AHEAD = 64

Content = tuple[bytes | None, str | None]


def read_files(files: Sequence[str], sizes: Sequence[int]) -> Iterator[Content]:
    """The contents of files, in order, or the reason why one has none.

    Raises
    ------
    OSError
        If the storage fails again and again.
    """
    # Object storage answers after tens of milliseconds, so many requests wait at once; a disk needs no more.
    with ThreadPoolExecutor(URL_READERS if files and "://" in files[0] else 1) as readers:
        reading: deque[Future[Content]] = deque()
        for file, size in zip(files, sizes, strict=True):
            if len(reading) == FILES_AHEAD:
                yield reading.popleft().result()
            reading.append(readers.submit(_read_file, file, size))
        while reading:
            yield reading.popleft().result()


def read_members(archive: str, members: Iterable[str], sizes: Iterable[int]) -> Iterator[Content]:
    """The contents of a zip file's members, in order, or the reason why one has none."""
    with storage.open_input(archive) as file, zipfile.ZipFile(file) as opened:
        for member, size in zip(members, sizes, strict=True):
            if size > MAX_BYTES:
                yield None, LARGER
                continue
            try:
                yield opened.read(member), None
            except (zipfile.BadZipFile, zlib.error, EOFError):
                yield None, "damaged in the zip file"
            except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed by an unknown method
                yield None, f"cannot be unpacked: {' '.join(str(error).split())}"


def _read_file(path: str, size: int) -> Content:
    if size > MAX_BYTES:
        return None, LARGER
    try:
        return storage.read_bytes(path), None
    except PermissionError:
        return None, "permission denied"
    except UserError:
        # A store that refuses everything is no fault of this image.
        if storage.exists(path):
            raise
        return None, "no such file"
