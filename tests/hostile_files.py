"""Files that were made to eat a machine: small on the disk, large or endless when they are read."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from PIL import Image

from tests.drawings import draw_galaxy

__all__ = ["HOSTILE", "write_hostile"]

MEGABYTE = 2**20
ROWS = 256


def write_hostile(kind: str, folder: Path) -> Path:
    """Write a shard of a kind of `HOSTILE`, beside a good row where there can be one."""
    suffix = ".tgz" if kind.startswith("tar") else ".parquet"
    path = folder / f"{kind.replace(' ', '-')}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    HOSTILE[kind](path)
    return path


def _table(images: pa.Array, ids: list[object] | None = None) -> pa.Table:
    numbers = list(range(len(images))) if ids is None else ids
    return pa.table({"object_id": numbers, "image": images})


def _dictionary(path: Path, size: int, nested: bool = False) -> None:
    """One image in all rows, as a dictionary of one value."""
    good = draw_galaxy("CRS", 0)
    values = pa.array([good + np.random.default_rng(0).bytes(size)], pa.binary())
    image: pa.Array = pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), values)
    if nested:
        image = pa.StructArray.from_arrays([image, pa.nulls(ROWS, pa.string())], ["bytes", "path"])
    pq.write_table(_table(image), path, dictionary_pagesize_limit=2**30, store_schema=False)


def _zeros(path: Path) -> None:
    """Cells of zeros, which come to 2 GB and pack to nothing."""
    cell = bytes(64 * MEGABYTE)
    schema = pa.schema([("object_id", pa.int64()), ("image", pa.large_binary())])
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=False) as writer:
        image = pa.array([cell] * 30, pa.large_binary())
        writer.write_table(pa.table({"object_id": list(range(30)), "image": image}, schema=schema))


def _carried(path: Path) -> None:
    """A long text in all rows of a column that is to be carried through."""
    note = pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), pa.array(["x" * 8 * MEGABYTE]))
    table = _table(pa.array([draw_galaxy("CRS", 0)] * ROWS, pa.binary())).append_column("note", note)
    pq.write_table(table, path, dictionary_pagesize_limit=2**30, store_schema=False)


def _tar(path: Path, kind: bytes, content: bytes) -> None:
    """A member after headers of a kind, of gigabytes in all."""
    block = gzip.compress(bytes(64 * MEGABYTE), compresslevel=1)
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 48 * 64 * MEGABYTE
    with path.open("wb") as file:
        file.write(gzip.compress(_member("0.jpg", draw_galaxy("CRS", 0))))
        file.write(gzip.compress(header.tobuf(tarfile.GNU_FORMAT)))
        file.write(gzip.compress(content))
        for _ in range(48):
            file.write(block)


def _member(name: str, content: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info.tobuf() + content + bytes(-len(content) % 512)


def _fits(path: Path, units: int = 0, cards: int = 0) -> None:
    primary = fits.PrimaryHDU(np.zeros((64, 64), np.float32))
    buffer = io.BytesIO()
    primary.writeto(buffer)
    content = buffer.getvalue()
    if cards:
        # As text: astropy would take minutes to write them.
        head, data = content[:2880], content[2880:]
        lines = head.rstrip(b" ")[:-3] + b"HISTORY nothing".ljust(80) * cards + b"END".ljust(80)
        content = lines + b" " * (-len(lines) % 2880) + data
    if units:
        extension = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((1, 1), np.uint8))]).writeto(extension)
        content += extension.getvalue()[2880:] * units
    pq.write_table(_table(pa.array([content, draw_galaxy("CRS", 0)], pa.binary())), path, compression="none")


def _bomb(path: Path) -> None:
    """A PNG of 30,000 x 30,000 pixels, a FITS header of as many, a gzip of 2 GB."""
    png = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(png, "PNG")
    header = fits.Header([("SIMPLE", True), ("BITPIX", -64), ("NAXIS", 2)])
    header["NAXIS1"], header["NAXIS2"] = 30_000, 30_000
    packed = gzip.compress(b"SIMPLE  =" + bytes(64 * MEGABYTE)) * 32
    images = [png.getvalue(), header.tostring().encode(), packed, draw_galaxy("CRS", 0)]
    pq.write_table(_table(pa.array(images, pa.binary())), path)


HOSTILE: dict[str, Callable[[Path], None]] = {
    "dictionary of 8 MB in 256 rows": lambda path: _dictionary(path, 8 * MEGABYTE),
    "dictionary of 64 MB in 256 rows": lambda path: _dictionary(path, 64 * MEGABYTE),
    "dictionary in a struct": lambda path: _dictionary(path, 8 * MEGABYTE, nested=True),
    "zeros that unpack to 2 GB": _zeros,
    "text of 8 MB in 256 rows": _carried,
    "tar with a name of 3 GB": lambda path: _tar(path, tarfile.GNUTYPE_LONGNAME, b""),
    "tar with a pax header of 3 GB": lambda path: _tar(path, tarfile.XHDTYPE, b"9999999999 path=x"),
    "FITS with 10,000 extensions": lambda path: _fits(path, units=10_000),
    "FITS with 48 MB of cards": lambda path: _fits(path, cards=600_000),
    "bombs": _bomb,
}
"""What each is called, and what writes it."""
