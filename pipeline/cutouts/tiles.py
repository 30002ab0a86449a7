"""A survey's tiles: which files show which part of the sky, in which bands, with which masks and weights.

A tile is one grid of pixels on the sky. Images of the same grid, in one file or in several, are its bands,
its masks and its weights, whatever the files are called.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from hiwl_core.compressed import unpacked
from hiwl_core.errors import UserError, words_of
from hiwl_core.fits_headers import celestial_wcs, quiet_astropy
from hiwl_core.plain_fits import claims_nonsense
from hiwl_core.statuses import UNDECODABLE, UnreadableCutout
from pipeline import storage
from pipeline.ingestion.source import stem

__all__ = ["PixelSource", "Place", "Tile", "TileImage", "TilePixels", "join_tiles", "opened", "tile_of"]

MAX_TILE_BYTES = 4 * 2**30
"""Of a tile's file, unpacked."""
PACKED = (".gz", ".bz2")
BEGINNING_BYTES = 256 * 1024


@dataclass(frozen=True)
class PixelSource:
    """Where an image is: its file, its extension there, and its plane if that is a cube."""

    path: str
    extension: int
    plane: int | None = None


@dataclass(frozen=True)
class Place:
    """Where an image is on the sky.

    Parameters
    ----------
    sky : str
        Its WCS, as a FITS header.
    shape : tuple of int
        Rows and columns.
    scale : float
        arcsec/pixel.
    ra, dec : float
        Of its middle, degrees.
    radius : float
        Of a circle about it that holds all of the image, degrees.
    """

    sky: str
    shape: tuple[int, int]
    scale: float
    ra: float
    dec: float
    radius: float


@dataclass(frozen=True)
class TileImage:
    """An image with a place on the sky, as its headers describe it.

    Parameters
    ----------
    source : PixelSource
    role : {"image", "mask", "weight"}
    band : str or None
        Of the wanted ones; None for a mask or weight of all.
    place : Place
    grid : tuple of int
        The same for images of one grid.
    bits : int
        Of a mask: the bits that make a pixel bad; -1 for any.
    """

    source: PixelSource
    role: str
    band: str | None
    place: Place
    grid: tuple[int, ...]
    bits: int = 0


@dataclass
class Tile:
    """One grid of pixels on the sky.

    Parameters
    ----------
    name : str
        Of its first file.
    place : Place
    images : dict of str to PixelSource
        By band.
    weights : list of (band or None, PixelSource)
        Images that are not positive where nothing was observed: weights and variances.
    masks : list of (bits, PixelSource)
    """

    name: str
    place: Place
    images: dict[str, PixelSource] = field(default_factory=dict)
    weights: list[tuple[str | None, PixelSource]] = field(default_factory=list)
    masks: list[tuple[int, PixelSource]] = field(default_factory=list)

    def wcs(self) -> Any:
        """Its celestial WCS."""
        from astropy.io.fits import Header

        return celestial_wcs(Header.fromstring(self.place.sky))


@contextlib.contextmanager
def opened(path: str) -> Iterator[Any]:
    """The extensions of a FITS file, of which is read what is asked for; packed files are unpacked.

    Yields
    ------
    astropy.io.fits.HDUList

    Raises
    ------
    UnreadableCutout
        If the file is not FITS, damaged, or larger than 4 GB.
    """
    from astropy.io import fits

    quiet_astropy()
    with contextlib.ExitStack() as stack:
        local = "://" not in path
        file: BinaryIO | str = path if local else stack.enter_context(storage.open_input(path))
        if path.lower().endswith(PACKED):
            file = io.BytesIO(unpacked(storage.read_bytes(path), MAX_TILE_BYTES))
        if claims_nonsense(_beginning(file)):
            raise UnreadableCutout(UNDECODABLE, "FITS: a header of sizes that cannot be")
        try:
            units = stack.enter_context(fits.open(file, memmap=local and isinstance(file, str)))
        except storage.StoreError:
            raise
        # astropy raises many kinds for broken files.
        except Exception as error:
            raise UnreadableCutout(UNDECODABLE, f"FITS: {words_of(error)}") from None
        yield units


def _beginning(file: BinaryIO | str) -> bytes:
    """Of a file, as much as has its first headers."""
    if isinstance(file, str):
        with storage.open_input(file) as opened_here:
            return opened_here.read(BEGINNING_BYTES)
    content = file.read(BEGINNING_BYTES)
    file.seek(0)
    return content


def join_tiles(images: Sequence[TileImage], bands: Sequence[str]) -> list[Tile]:
    """Images of one grid as tiles, in the order of their files.

    Raises
    ------
    UserError
        If two images of one grid are of the same band.
    """
    tiles: dict[tuple[int, ...], Tile] = {}
    for image in sorted(images, key=lambda one: (one.source.path, one.source.extension)):
        tile = tiles.setdefault(image.grid, Tile(stem(image.source.path), image.place))
        if image.role == "mask":
            tile.masks.append((image.bits, image.source))
        elif image.role == "weight":
            tile.weights.append((image.band, image.source))
        elif image.band in tile.images:
            first = tile.images[image.band]
            raise UserError(
                f"{first.path} and {image.source.path} are both band {image.band!r} of one part of the sky: "
                "name the wanted files by a quoted glob"
            )
        elif image.band is not None:
            tile.images[image.band] = image.source
    with_images = [tile for tile in tiles.values() if tile.images]
    for band in bands:
        if not any(band in tile.images for tile in with_images):
            there = sorted({name for tile in with_images for name in tile.images})
            raise UserError(
                f"no image of band {band!r} with a place on the sky"
                + (f"; there are {', '.join(there)}" if there else "")
                + ": a band is named by EXTNAME, BAND, FILTER or the file's name; see --bands"
            )
    return with_images


def tile_of(tile: dict[str, Any]) -> Tile:
    """The tile that `dataclasses.asdict` made of it, and JSON kept."""
    return Tile(
        tile["name"],
        Place(**{**tile["place"], "shape": tuple(tile["place"]["shape"])}),
        {band: PixelSource(**source) for band, source in tile["images"].items()},
        [(band, PixelSource(**source)) for band, source in tile["weights"]],
        [(bits, PixelSource(**source)) for bits, source in tile["masks"]],
    )


class TilePixels:
    """A tile's pixels for the length of a ``with`` block; each of its files is read once at most.

    Of a local file that is not compressed only the pages are read in which there are wanted pixels.

    Parameters
    ----------
    tile : Tile
    bands : tuple of str

    Raises
    ------
    UnreadableCutout
        On use, if a file is damaged.
    """

    def __init__(self, tile: Tile, bands: tuple[str, ...]) -> None:
        self.tile, self._bands = tile, bands
        self._files: dict[str, Any] = {}
        self._pixels: dict[PixelSource, np.ndarray] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> TilePixels:
        return self

    def __exit__(self, *_: object) -> None:
        self._pixels.clear()
        self._files.clear()
        self._stack.close()

    def window(self, left: int, bottom: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """A part of the tile, which may go beyond it.

        Returns
        -------
        planes : numpy.ndarray of float32, shape (band, height, width)
            NaN where the tile has no pixel, or one that was not observed.
        bad : numpy.ndarray of bool, shape (height, width)
            What its masks call bad.
        """
        planes = np.full((len(self._bands), height, width), np.nan, np.float32)
        bad = np.zeros((height, width), bool)
        rows, columns = self.tile.place.shape
        low, high = max(bottom, 0), min(bottom + height, rows)
        start, end = max(left, 0), min(left + width, columns)
        if low >= high or start >= end:
            return planes, bad
        there = (slice(low - bottom, high - bottom), slice(start - left, end - left))
        here = (slice(low, high), slice(start, end))
        for number, band in enumerate(self._bands):
            if band in self.tile.images:
                # What is beyond single precision is no flux.
                with np.errstate(over="ignore", invalid="ignore"):
                    planes[number][there] = self._of(self.tile.images[band])[here]
        for of_band, source in self.tile.weights:
            with np.errstate(invalid="ignore"):
                nothing = ~(self._of(source)[here] > 0)
            for number, band in enumerate(self._bands):
                if of_band in (None, band):
                    planes[number][there][nothing] = np.nan
        for bits, source in self.tile.masks:
            flags = self._of(source)[here]
            bad[there] |= (flags != 0) if bits == -1 else (flags.astype(np.int64) & bits) != 0
        planes[~np.isfinite(planes)] = np.nan
        return planes, bad

    def _of(self, source: PixelSource) -> np.ndarray:
        if source not in self._pixels:
            if source.path not in self._files:
                self._files[source.path] = self._stack.enter_context(opened(source.path))
            try:
                with np.errstate(all="ignore"):
                    pixels = np.asanyarray(self._files[source.path][source.extension].data)
                pixels = pixels.reshape(-1, *self.tile.place.shape)[source.plane or 0]
            except storage.StoreError:
                raise
            # astropy raises many kinds for broken files.
            except Exception as error:
                words = f"{source.path}: {words_of(error)}"
                raise UnreadableCutout(UNDECODABLE, words) from None
            self._pixels[source] = pixels
        return self._pixels[source]
