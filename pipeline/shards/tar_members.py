"""The files of a tar, in order, up to the byte where it breaks off.

`tarfile` takes a damaged header for the end of the archive and says nothing: rows would be lost silently. So
the headers are read one by one, with tarfile's own parser, and an end that is not marked as one is a break.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

__all__ = ["BrokenTar", "Member", "iter_members"]

GZIP_MAGIC = b"\x1f\x8b"
LONGEST_PADDING = 2**20
"""Zeros after the end mark. Tars are padded to a few kB; more is a file that was made but not filled."""
LONGEST_HEADER = 2**20
"""Bytes of a member's headers, the long ones of names and pax fields among them."""
# What the parser and the decompressor raise for damaged files; a store's own faults are others.
DAMAGE = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
)


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Parameters
    ----------
    name : str
    offset : int
        Byte at which its header begins, in the unpacked tar.
    content : bytes or None
        None if it was not asked for, or is too large.
    size : int
    """

    name: str
    offset: int
    content: bytes | None
    size: int


class _Headers:
    """A stream of which the parser may read so much at a time.

    A long name, or the fields of a pax header, may claim gigabytes, and zeros of gzip are not even claimed.

    Attributes
    ----------
    left : int
        Bytes that may still be read.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.left = LONGEST_HEADER
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        self.left -= size
        if size < 0 or self.left < 0:
            raise tarfile.ReadError(f"a header of more than {LONGEST_HEADER // 2**20} MB")
        return self._stream.read(size)


class BrokenTar(Exception):
    """A tar that breaks off.

    Parameters
    ----------
    offset : int
        Byte of the unpacked tar at which the first member begins that is not whole.
    reason : str
    name : str, optional
        Of that member, if its header can be read.
    """

    def __init__(self, offset: int, reason: str, name: str | None = None) -> None:
        super().__init__(f"byte {offset}: {reason}")
        self.offset, self.name = offset, name


def iter_members(file: BinaryIO, wanted: Callable[[str], bool], largest: int) -> Iterator[Member]:
    """The regular files of a tar, plain or gzipped.

    Parameters
    ----------
    file : binary file
        Seekable.
    wanted : callable
        From a name to whether its content is to be read.
    largest : int
        Bytes of the largest content that is read.

    Raises
    ------
    BrokenTar
        Where the tar breaks off, after all members before.
    OSError
        If the store fails.
    """
    packed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
    # tarfile's parser wants an archive: an empty one, whose file is then ours.
    archive = tarfile.TarFile(fileobj=io.BytesIO(bytes(tarfile.RECORDSIZE)))
    headers = _Headers(stream)
    archive.fileobj = cast(io.BytesIO, headers)
    offset, zeros = 0, 0
    while True:
        try:
            stream.seek(offset)
            headers.left = LONGEST_HEADER
            info = tarfile.TarInfo.fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            offset += tarfile.BLOCKSIZE
            zeros += tarfile.BLOCKSIZE
            if zeros > LONGEST_PADDING:
                raise BrokenTar(offset - zeros, "zeros instead of files") from None
            continue
        except DAMAGE as error:
            # After the end mark there may be anything; a further tar is read on.
            if zeros:
                return
            raise BrokenTar(offset, str(error) or type(error).__name__) from None
        name = info.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if info.size < 0 or archive.offset <= offset:
            raise BrokenTar(offset, f"a file of {info.size} bytes", name)
        if info.isreg():
            readable = wanted(name) and info.size <= largest and not info.issparse()
            content = _content(stream, info, offset, name) if readable else None
            yield Member(name, offset, content, info.size)
        offset, zeros = archive.offset, 0


def _content(stream: BinaryIO, info: tarfile.TarInfo, offset: int, name: str) -> bytes:
    try:
        stream.seek(info.offset_data)
        content = stream.read(info.size)
    except DAMAGE as error:
        raise BrokenTar(offset, str(error) or type(error).__name__, name) from None
    if len(content) < info.size:
        raise BrokenTar(offset, f"{len(content)} of {info.size} bytes", name)
    return content
