"""An object in S3 as a file to seek and read in, which brings only what is read."""

from __future__ import annotations

import io
from typing import Any

from pipeline.storage.retries import error_code
from pipeline.storage.s3_store import S3Store

__all__ = ["RangedFile"]

# Most Parquet footers and zip directories lie whole in the end of a file that one request brings.
TAIL_BYTES = 64 * 1024
FIRST_WINDOW, LAST_WINDOW = 64 * 1024, 8 * 2**20


class RangedFile(io.RawIOBase):
    """An object as a seekable file: each read is a request for a range, tried again by itself.

    The end of the object comes with the opening. Reads that follow each other ask for more and more ahead, up
    to 8 MiB, which bounds the memory; a jump asks for little. Ranges of an object that was overwritten
    meanwhile are refused rather than mixed.
    """

    def __init__(self, store: S3Store, path: str) -> None:
        super().__init__()
        self._store, self._path = store, path
        self._position, self._window = 0, FIRST_WINDOW
        self._block_start, self._block = 0, b""
        try:
            self._tail, answer = store.read(path, Range=f"bytes=-{TAIL_BYTES}")
            self._size = int(answer.get("ContentRange", f"/{len(self._tail)}").rsplit("/", 1)[-1])
            self._etag = str(answer.get("ETag", ""))
        except OSError as error:
            # An empty object has no last byte.
            if error_code(error) not in ("InvalidRange", "416"):
                raise
            self._tail, self._size, self._etag = b"", 0, ""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset} before the start of {self._path}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        tail_start = self._size - len(self._tail)
        if self._position >= tail_start:
            start, block = tail_start, self._tail
        else:
            if not 0 <= self._position - self._block_start < len(self._block):
                self._fetch(wanted)
            start, block = self._block_start, self._block
        offset = self._position - start
        piece = memoryview(block)[offset : offset + wanted]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _fetch(self, wanted: int) -> None:
        follows = self._block and self._position == self._block_start + len(self._block)
        self._window = min(2 * self._window, LAST_WINDOW) if follows else FIRST_WINDOW
        stop = min(self._position + min(max(wanted, self._window), LAST_WINDOW), self._size)
        conditions = {"IfMatch": self._etag} if self._etag else {}
        try:
            self._block, _ = self._store.read(
                self._path, Range=f"bytes={self._position}-{stop - 1}", **conditions
            )
        except OSError as error:
            if error_code(error) in ("PreconditionFailed", "412"):
                raise OSError(f"{self._path} was overwritten while it was read") from None
            raise
        self._block_start = self._position
