"""What the headers of a survey's files say: bands, masks and weights, and where each image is on the sky."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiwl_core.errors import UserError, words_of
from hiwl_core.fits_headers import card, celestial_wcs, has_sky, scale_of, sky_cards
from hiwl_core.fits_planes import COMPANIONS, MOST_BANDS, cube_bands, image_shape, tokens
from hiwl_core.statuses import UnreadableCutout
from pipeline import storage
from pipeline.cutouts.tiles import PixelSource, Place, TileImage, opened
from pipeline.ingestion.source import stem
from pipeline.shards.sky_positions import unit_vectors

__all__ = ["MASK_PLANES", "Wanted", "describe_files"]

MASK_PLANES = ("BAD", "SAT", "CR", "NO_DATA", "SATUR", "ALLMASK")
"""Of masks whose header names their planes: those that make a pixel bad. Rubin's, and the Legacy Surveys'."""

MASKS = frozenset(["mask", "maskbits", "flag", "flags", "dq", "bpm", "badpix"])
WEIGHTS = frozenset(["wht", "weight", "weights", "ivar", "invvar", "var", "variance"])
GRID_DIGITS = 0.1
"""Of a pixel: images whose corners are as near as that have one grid."""


@dataclass(frozen=True)
class Wanted:
    """What to look for in the files: the bands, and the names of the planes of masks that are bad."""

    bands: tuple[str, ...]
    mask_planes: tuple[str, ...]


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
            found.append((path, [], f"FITS: {words_of(error)}"))
    return found


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
        described = _place(header, (shape[-2], shape[-1]))
        if described is None:
            continue
        place, grid = described
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
            yield TileImage(source, role, band, place, grid, bits)


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


def _place(header: Any, shape: tuple[int, int]) -> tuple[Place, tuple[int, ...]] | None:
    """Where an image is, and its grid; None without right ascension and declination."""
    cards = sky_cards(header)
    try:
        wcs = celestial_wcs(cards)
        if wcs is None or wcs.wcs.lngtyp.strip() != "RA":
            return None
        scale = scale_of(wcs)
        right, top = shape[1] - 1, shape[0] - 1
        points = np.array([[right / 2, top / 2], [0, 0], [right, 0], [0, top], [right, top]])
        degrees = wcs.all_pix2world(points, 0)[:, [wcs.wcs.lng, wcs.wcs.lat]]
        grid = np.rint(degrees[1:4] / (scale / 3600 * GRID_DIGITS))
        vectors = unit_vectors(degrees[:, 0], degrees[:, 1])
        # With the outer half of the pixels.
        radius = float(np.degrees(np.linalg.norm(vectors[1:] - vectors[0], axis=1).max())) + scale / 3600
        ra, dec = map(float, degrees[0])
        place = Place(cards.tostring(), shape, scale, ra, dec, radius)
        return place, (*shape, *(int(one) for one in grid.ravel()))
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
