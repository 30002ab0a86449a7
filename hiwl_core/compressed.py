"""Files that came packed, such as ``.fits.gz`` and ``.fits.bz2``: unpacked in memory, up to a size.

A FITS file whose images are compressed (``.fits.fz``) is a FITS file like any other, and passes as it is.
"""

from __future__ import annotations

import bz2
import zlib

from hiwl_core.statuses import TOO_LARGE, UNDECODABLE, UnreadableCutout

__all__ = ["MAX_BYTES", "PACKED_MAGICS", "is_packed", "unpacked"]

MAX_BYTES = 128 * 2**20
"""Of an encoded image, and of what a packed file may unpack to."""
GZIP_MAGIC, BZIP2_MAGIC = b"\x1f\x8b", b"BZh"
PACKED_MAGICS = (GZIP_MAGIC, BZIP2_MAGIC)
# zlib's word for a gzip header and its checksums.
GZIP_WBITS = 31


def is_packed(content: bytes) -> bool:
    """Whether bytes are a gzip or bzip2 file by their beginning."""
    return content[:3].startswith(PACKED_MAGICS)


def unpacked(content: bytes, most: int | None = None) -> bytes:
    """What a gzip or bzip2 file holds, whatever it claims of its size; other bytes as they are.

    Parameters
    ----------
    content : bytes
    most : int, optional
        Bytes that it may unpack to; by default `MAX_BYTES`.

    Raises
    ------
    UnreadableCutout
        With the status ``too_large`` if that is more, of which no more is unpacked, and ``undecodable`` if
        the file is damaged or cut off.
    """
    most = MAX_BYTES if most is None else most
    if not is_packed(content):
        return content
    magic = GZIP_MAGIC if content.startswith(GZIP_MAGIC) else BZIP2_MAGIC
    pieces: list[bytes] = []
    size = 0
    # Packed files may be several, one after the other; zeros or other padding may follow the last.
    while content.startswith(magic):
        piece, content = _one_stream(content, magic, most + 1 - size)
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise UnreadableCutout(TOO_LARGE, f"a packed file of more than {most // 2**20} MB")
    return b"".join(pieces)


def _one_stream(content: bytes, magic: bytes, most: int) -> tuple[bytes, bytes]:
    """What the first packed stream holds, up to some bytes, and what follows the stream."""
    stream = zlib.decompressobj(GZIP_WBITS) if magic == GZIP_MAGIC else bz2.BZ2Decompressor()
    try:
        piece = stream.decompress(content, most)
    except (zlib.error, OSError, ValueError, EOFError) as error:
        raise UnreadableCutout(UNDECODABLE, f"a damaged packed file: {error}") from None
    if len(piece) < most and not stream.eof:
        raise UnreadableCutout(UNDECODABLE, "a packed file that is cut off")
    return piece, stream.unused_data
