"""A hundred images that are broken or odd, each with the status that it must get; always the same hundred."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.drawings import draw_galaxy

__all__ = [
    "INPUTS",
    "SMALLEST",
    "BrokenInput",
    "bomb_jpeg",
    "bomb_png",
    "broken_inputs",
    "encode",
    "fits_file",
    "png_16_bit",
]

SMALLEST = 64
"""Pixels that a cutout must have: those of the tests' small bundle."""
SIZE = 80
COPIES = 4


@dataclass(frozen=True)
class BrokenInput:
    """An odd input: what is odd, the bytes, and what must become of it.

    `ok` is expected of what is whole, if seldom seen.
    """

    kind: str
    image: Any
    expected_status: str


def broken_inputs() -> list[BrokenInput]:
    """A hundred inputs of 25 kinds, four of each, by kind."""
    return [
        BrokenInput(kind, make(np.random.default_rng([index, copy])), status)
        for index, (kind, status, make) in enumerate(_kinds())
        for copy in range(COPIES)
    ]


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def fits_file(*images: np.ndarray | None, names: tuple[str, ...] = (), **header: Any) -> bytes:
    """A FITS file: the first image is the primary one (None: without pixels), the others extensions."""
    from astropy.io import fits

    first = fits.PrimaryHDU(images[0])
    first.header.update(header)
    others = [
        fits.ImageHDU(image, name=name)
        for image, name in zip(images[1:], names or [""] * len(images), strict=False)
    ]
    buffer = io.BytesIO()
    fits.HDUList([first, *others]).writeto(buffer)
    return buffer.getvalue()


def png_16_bit(pixels: np.ndarray) -> bytes:
    """A PNG of uint16, gray of shape (H, W) or RGB of shape (H, W, 3); Pillow cannot write the latter."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return _png(width, height, 16, 0 if pixels.ndim == 2 else 2, zlib.compress(rows))


def bomb_png(side: int = 30_000) -> bytes:
    """A whole PNG of `side` x `side` black RGB pixels, a few MB: 2.7 GB once decoded."""
    # Blocks of deflate that end in a full flush can be repeated: so it is made in milliseconds.
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(100 * (1 + 3 * side))) + packer.flush(zlib.Z_FULL_FLUSH)
    repeats, rest = divmod(side, 100)
    end = zlib.compressobj(9, zlib.DEFLATED, -15)
    last = end.compress(bytes(rest * (1 + 3 * side))) + end.flush()
    adler = struct.pack(">HH", side * (1 + 3 * side) % 65521, 1)
    return _png(side, side, 8, 2, b"\x78\xda" + block * repeats + last + adler)


def bomb_jpeg(side: int = 30_000) -> bytes:
    """A JPEG whose header says `side` x `side` pixels."""
    small = bytearray(encode(Image.new("RGB", (16, 16)), "JPEG"))
    start = small.index(b"\xff\xc0")
    small[start + 5 : start + 9] = struct.pack(">HH", side, side)
    return bytes(small)


def _png(width: int, height: int, depth: int, color: int, packed: bytes) -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)),
        (b"IDAT", packed),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _kinds() -> Iterator[tuple[str, str, Callable[[np.random.Generator], Any]]]:
    """Name, expected status and maker of each kind."""
    yield "null", "missing", lambda rng: None
    yield "empty", "undecodable", lambda rng: b""
    yield "text", "undecodable", lambda rng: b"404: no cutout here\n" * int(rng.integers(1, 99))
    yield "noise", "undecodable", lambda rng: rng.bytes(int(rng.integers(1, 9999)))
    yield "wrong magic", "undecodable", lambda rng: b"\x89PNG\r\n\x1a\n" + _jpeg(rng)[8:]
    yield "JPEG cut off", "undecodable", lambda rng: _cut(rng, _jpeg(rng))
    yield "PNG cut off", "undecodable", lambda rng: _cut(rng, encode(_noise(rng), "PNG"))
    yield "PNG with a flipped bit", "undecodable", _flipped_png
    yield "another format", "undecodable", _another_format
    yield "1 x 1 pixel", "too_small", lambda rng: encode(Image.new("RGB", (1, 1)), "PNG")
    yield "narrow", "too_small", lambda rng: encode(_noise(rng, (200, SMALLEST - 1)), "JPEG")
    bomb = bomb_png()
    yield "PNG bomb", "too_large", lambda rng: bomb
    yield "JPEG bomb", "too_large", lambda rng: bomb_jpeg(int(rng.integers(5_000, 65_000)))
    yield "CMYK JPEG", "ok", lambda rng: encode(_noise(rng).convert("CMYK"), "JPEG")
    yield "gray JPEG", "ok", lambda rng: encode(_noise(rng).convert("L"), "JPEG")
    yield "16-bit gray PNG", "ok", lambda rng: png_16_bit(_bright(rng, (SIZE, SIZE)))
    yield "16-bit RGB PNG", "ok", lambda rng: png_16_bit(_bright(rng, (SIZE, SIZE, 3)))
    yield "palette PNG", "ok", lambda rng: encode(_noise(rng).convert("P"), "PNG", transparency=3)
    yield "transparent PNG", "ok", lambda rng: encode(_noise(rng).convert("RGBA"), "PNG")
    yield "animated PNG", "ok", _animated
    yield "turned by EXIF", "ok", _turned
    yield "FITS of NaN", "bad_pixels", lambda rng: fits_file(_with_nans(rng, 0.05))
    yield "FITS without a band", "missing_band", _without_a_band
    yield "FITS of a wrong dimension", "undecodable", _wrong_dimension
    yield "FITS cut off", "undecodable", lambda rng: _cut(rng, fits_file(_flux(rng)))


def _jpeg(rng: np.random.Generator) -> bytes:
    return draw_galaxy("SPI", int(rng.integers(1000)))


def _noise(rng: np.random.Generator, shape: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (*shape, 3)).astype(np.uint8))


def _bright(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(0, 2**16, shape).astype(np.uint16)


def _flux(rng: np.random.Generator, shape: tuple[int, ...] = (SIZE, SIZE)) -> np.ndarray:
    return rng.gamma(1.0, 2.0, shape).astype(np.float32)


def _with_nans(rng: np.random.Generator, share: float) -> np.ndarray:
    flux = _flux(rng)
    flux[rng.random(flux.shape) < share] = np.nan
    return flux


def _cut(rng: np.random.Generator, content: bytes) -> bytes:
    # Inside the pixels: the last bytes of a file may be padding or an end marker.
    return content[: int(len(content) * rng.uniform(0.4, 0.85))]


def _flipped_png(rng: np.random.Generator) -> bytes:
    content = bytearray(encode(_noise(rng), "PNG"))
    content[int(rng.integers(60, len(content) - 60))] ^= 1 << int(rng.integers(8))
    return bytes(content)


def _another_format(rng: np.random.Generator) -> bytes:
    return encode(_noise(rng), str(rng.choice(["GIF", "BMP", "TIFF", "WEBP"])))


def _animated(rng: np.random.Generator) -> bytes:
    return encode(_noise(rng), "PNG", save_all=True, append_images=[_noise(rng), _noise(rng)])


def _turned(rng: np.random.Generator) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(2, 9))
    return encode(_noise(rng, (SIZE, SIZE + 20)), "JPEG", exif=exif)


def _without_a_band(rng: np.random.Generator) -> bytes:
    return fits_file(None, _flux(rng), _flux(rng), names=("G", "R"))


def _wrong_dimension(rng: np.random.Generator) -> bytes:
    return fits_file(_flux(rng, ((99,), (3, 3, 9, 9))[int(rng.integers(2))]))


def with_rows_in_footer(parquet: bytes, rows: int, said: int) -> bytes:
    """A Parquet file of `rows` rows whose footer says another number, of as many digits in base 64."""

    def field(number: int) -> bytes:
        # Field 3 of FileMetaData in Thrift's compact protocol, and the type of the list that follows it.
        digits, rest = [], 2 * number
        while rest >= 128:
            digits.append(rest % 128 + 128)
            rest //= 128
        return bytes([0x16, *digits, rest, 0x19])

    start = len(parquet) - 8 - int.from_bytes(parquet[-8:-4], "little")
    at = parquet.index(field(rows), start)
    assert len(field(rows)) == len(field(said))
    return parquet[:at] + field(said) + parquet[at + len(field(rows)) :]


INPUTS = broken_inputs()
"""Once for all who ask for tests by them."""
