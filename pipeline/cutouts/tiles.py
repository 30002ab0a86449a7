"""A survey's tiles: which files show which part of the sky, in which bands, with which masks and weights.

A tile is one grid of pixels on the sky. Images of the same grid, in one file or in several, are its bands,
its masks and its weights, whatever the files are called.
"""

from __future__ import annotations

import contextlib
import io
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from hiwl_core.compressed import unpacked
from hiwl_core.errors import UserError
from hiwl_core.fits_headers import card, celestial_wcs, has_sky, quiet_astropy, scale_of, sky_cards
from hiwl_core.fits_planes import COMPANIONS, MOST_BANDS, cube_bands, image_shape, tokens
from hiwl_core.plain_fits import claims_nonsense
from hiwl_core.statuses import UNDECODABLE, UnreadableCutout
from pipeline import storage
from pipeline.ingestion.source import stem

__all__ = ["MAX_TILE_BYTES", "PixelSource", "Tile", "TileImage", "describe_files", "join_tiles", "opened"]

MAX_TILE_BYTES = 4 * 2**30
"""Of a tile's file, unpacked."""
PACKED = (".gz", ".bz2")
MASKS = frozenset(["mask", "maskbits", "flag", "flags", "dq", "bpm", "badpix"])
WEIGHTS = frozenset(["wht", "weight", "weights", "ivar", "invvar", "var", "variance"])
GRID_DIGITS = 0.1
"""Of a pixel: images whose corners are as near as that have one grid."""
FILES_A_TASK = 16
BEGINNING_BYTES = 256 * 1024


@dataclass(frozen=True)
class PixelSource:
    """Where an image is: its file, its extension there, and its plane if that is a cube."""

    path: str
    extension: int
    plane: int | None = None


@dataclass(frozen=True)
class TileImage:
    """An image with a place on the sky, as its headers describe it.

    Parameters
    ----------
    source : PixelSource
    role : {"image", "mask", "weight"}
    band : str or None
        Of the wanted ones; None for a mask or weight of all.
    sky : str
        Its WCS, as a FITS header.
    shape : tuple of int
        Rows and columns.
    grid : tuple of int
        The same for images of one grid.
    bits : int
        Of a mask: the bits that make a pixel bad; -1 for any.
    """

    source: PixelSource
    role: str
    band: str | None
    sky: str
    shape: tuple[int, int]
    grid: tuple[int, ...]
    bits: int = 0


@dataclass
class Tile:
    """One grid of pixels on the sky.

    Parameters
    ----------
    name : str
        Of its first file.
    sky : str
        Its WCS, as a FITS header.
    shape : tuple of int
        Rows and columns.
    images : dict of str to PixelSource
        By band.
    weights : list of (band or None, PixelSource)
        Images that are not positive where nothing was observed: weights and variances.
    masks : list of (bits, PixelSource)
    """

    name: str
    sky: str
    shape: tuple[int, int]
    images: dict[str, PixelSource] = field(default_factory=dict)
    weights: list[tuple[str | None, PixelSource]] = field(default_factory=list)
    masks: list[tuple[int, PixelSource]] = field(default_factory=list)

    def wcs(self) -> Any:
        """Its celestial WCS."""
        from astropy.io.fits import Header

        return celestial_wcs(Header.fromstring(self.sky))


@dataclass(frozen=True)
class Wanted:
    """What to look for in the files: the bands, and the names of the planes of masks that are bad."""

    bands: tuple[str, ...]
    mask_planes: tuple[str, ...]


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
            raise UnreadableCutout(UNDECODABLE, " ".join(f"FITS: {error}".split())) from None
        yield units


def _beginning(file: BinaryIO | str) -> bytes:
    """Of a file, as much as has its first headers."""
    if isinstance(file, str):
        with storage.open_input(file) as opened_here:
            return opened_here.read(BEGINNING_BYTES)
    content = file.read(BEGINNING_BYTES)
    file.seek(0)
    return content


def describe_files(paths: Sequence[str], wanted: Wanted) -> list[tuple[str, list[TileImage], str]]:
    """What the headers of some files say; the function of a Ray task.

    Returns
    -------
    list of (path, images, problem)
        A problem for a file that cannot be read.

    Raises
    ------
    UserError
        If an image is of several of the wanted bands.
    """
    found = []
    for path in paths:
        try:
            with opened(path) as units:
                found.append((path, list(_images(path, units, wanted)), ""))
        except UnreadableCutout as error:
            found.append((path, [], error.words))
        except (UserError, storage.StoreError):
            raise
        # astropy raises many kinds for broken headers, some of them only when they are asked for.
        except Exception as error:
            found.append((path, [], " ".join(f"FITS: {error}".split())))
    return found


def join_tiles(images: Sequence[TileImage], bands: Sequence[str]) -> list[Tile]:
    """Images of one grid as tiles, in the order of their files.

    Raises
    ------
    UserError
        If two images of one grid are of the same band.
    """
    tiles: dict[tuple[int, ...], Tile] = {}
    for image in sorted(images, key=lambda one: (one.source.path, one.source.extension)):
        tile = tiles.setdefault(image.grid, Tile(stem(image.source.path), image.sky, image.shape))
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


def _images(path: str, units: Any, wanted: Wanted) -> Iterator[TileImage]:
    primary = units[0].header
    named = set(tokens(stem(path)))
    science_sky = next((unit.header for unit in units if image_shape(unit) and has_sky(unit.header)), primary)
    for number, unit in enumerate(units):
        shape = image_shape(unit)
        lead = shape[:-2]
        if (
            len(shape) < 2
            or 0 in shape
            or any(axis != 1 for axis in lead[:-1])
            or max(lead, default=1) > MOST_BANDS
        ):
            continue
        words = [str(unit.name), *(str(card(unit.header, key)) for key in ("BAND", "FILTER"))]
        own = {token.rstrip("0123456789") or token for token in tokens(words[0])}
        role = _role(own, named if not own - {"primary", "compressed", "image", "sci"} else set())
        if role is None:
            continue
        header = unit.header if has_sky(unit.header) else science_sky
        described = _sky(header, shape[-2:])
        if described is None:
            continue
        sky, grid = described
        bits = _bits(unit.header, wanted.mask_planes) if role == "mask" else 0
        planes: list[tuple[int | None, list[str]]] = [(None, words)]
        if lead and lead[-1] > 1:
            cube = cube_bands([unit.header, primary], lead[-1])
            planes = [(plane, [name]) for plane, name in enumerate(cube)]
        for plane, names in planes:
            band = _band(path, names, str(card(primary, "FILTER")), wanted.bands)
            if band is None and role == "image":
                continue
            source = PixelSource(path, number, plane)
            yield TileImage(source, role, band, sky, (shape[-2], shape[-1]), grid, bits)


def _role(own: set[str], of_file: set[str]) -> str | None:
    """What an image is by the name of its extension, or by that of its file; None if it is not needed."""
    for names in (own, of_file):
        if names & MASKS:
            return "mask"
        if names & WEIGHTS:
            return "weight"
    return None if own & COMPANIONS else "image"


def _band(path: str, words: Sequence[str], primary: str, bands: Sequence[str]) -> str | None:
    """The wanted band that an image's own names, its file's header or its file's name mention."""
    for text in (" ".join(words), primary, posixpath.basename(path)):
        there = set(tokens(text))
        found = [band for band in bands if band.lower() in there]
        if len(found) > 1:
            raise UserError(f"{path}: {text!r} names several bands: {', '.join(found)}; give it one FILTER")
        if found:
            return found[0]
    return bands[0] if len(bands) == 1 else None


def _sky(header: Any, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]] | None:
    """The WCS of an image as text, and its grid; None without right ascension and declination."""
    cards = sky_cards(header)
    try:
        wcs = celestial_wcs(cards)
        if wcs is None or wcs.wcs.lngtyp.strip() != "RA":
            return None
        corners = np.array([[0, 0], [shape[1] - 1, 0], [0, shape[0] - 1]], float)
        degrees = wcs.all_pix2world(corners, 0)
        step = scale_of(wcs) / 3600 * GRID_DIGITS
        grid = np.rint(degrees / step)
        return cards.tostring(), (*shape, *(int(one) for one in grid.ravel()))
    # A header of nonsense: NaN is no integer either.
    except Exception:
        return None


def _bits(header: Any, bad: Sequence[str]) -> int:
    """The bits of a mask that make a pixel bad: those of planes that its header names so, or all."""
    bits, names = 0, 0
    for keyword in header:
        rubin = re.fullmatch(r"MP_(\w+)", keyword)
        legacy = re.fullmatch(r"MBIT_(\d+)", keyword)
        value = card(header, keyword, None)
        name, bit = (rubin[1], value) if rubin else (str(value), legacy[1] if legacy else None)
        if bit is None or not str(bit).isdigit():
            continue
        names += 1
        if any(name == one or name.startswith(f"{one}_") for one in bad):
            bits |= 1 << int(bit)
    return bits if names else -1
