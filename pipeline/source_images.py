"""Images of a folder or zip, read on a worker, and the check that an image can be decoded to its last row."""

from __future__ import annotations

import io
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image, UnidentifiedImageError

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.shards import MAX_SHARD_BYTES

__all__ = ["image_problem", "read_files", "read_members"]

FORMATS = ("JPEG", "PNG")
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
MAX_PIXELS = 89_478_485
"""Pillow's own bound on a decompression bomb, 256 MB of 24-bit pixels, where Pillow only warns."""
TOO_LARGE = f"larger than {MAX_SHARD_BYTES // 2**20} MB"
ATTEMPTS = 4
URL_READERS = 16


def image_problem(content: bytes | None) -> str | None:
    """Why an image cannot be used, or None if it can.

    Parameters
    ----------
    content : bytes or None
        An encoded image; None where there is none.

    Returns
    -------
    str or None
        ``null image``, ``empty file``, ``not a JPEG or PNG``, ``truncated``, ``decompression bomb`` or
        ``undecodable`` with the decoder's words.
    """
    if content is None:
        return "null image"
    if not content:
        return "empty file"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    return "decompression bomb"
                image.load()
    except Image.DecompressionBombError:
        return "decompression bomb"
    except UnidentifiedImageError:
        return "broken header" if content.startswith(SIGNATURES) else "not a JPEG or PNG"
    except Exception as error:  # on hostile bytes Pillow raises almost anything
        words = " ".join(str(error).split()) or type(error).__name__
        return "truncated" if "truncated" in words.lower() else f"undecodable: {words}"
    return None


def read_files(files: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[bytes | None, str | None]]:
    """The contents of files, in order, or the reason why one has none.

    Raises
    ------
    OSError
        If the storage fails again and again.
    """
    # Object storage answers after tens of milliseconds, so many requests wait at once; a disk needs no more.
    with ThreadPoolExecutor(URL_READERS if files and "://" in files[0] else 1) as readers:
        yield from readers.map(_read_file, files, sizes)


def read_members(
    archive: str, members: Sequence[str], sizes: Sequence[int]
) -> Iterator[tuple[bytes | None, str | None]]:
    """The contents of a zip file's members, in order, or the reason why one has none."""
    with storage.open_input(archive) as file, zipfile.ZipFile(file) as opened:
        for member, size in zip(members, sizes, strict=True):
            if size > MAX_SHARD_BYTES:
                yield None, TOO_LARGE
                continue
            try:
                yield opened.read(member), None
            except (zipfile.BadZipFile, zlib.error, EOFError):
                yield None, "damaged in the zip file"
            except (RuntimeError, NotImplementedError) as error:  # encrypted, or packed by an unknown method
                yield None, f"cannot be unpacked: {' '.join(str(error).split())}"


def _read_file(path: str, size: int) -> tuple[bytes | None, str | None]:
    if size > MAX_SHARD_BYTES:
        return None, TOO_LARGE
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return storage.read_bytes(path), None
        except UserError:
            return None, "no such file"
        except PermissionError:
            return None, "permission denied"
        except OSError:
            # A fault of the machine, not of the image: tried again, with a bound.
            if attempt == ATTEMPTS:
                raise
            time.sleep(2.0**attempt)
    raise AssertionError("the last attempt returns or raises")
