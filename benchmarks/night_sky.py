"""The survey of `benchmarks.night`: noise and disks, and a few galaxies of which a model is sure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.wcs import WCS

from benchmarks.cutouts import FIRST_ID, add_galaxies, galaxy_stamps
from hiwl_core.bundle import load_bundle
from hiwl_core.decoding import Cutout
from hiwl_core.inference import CascadeClassifier
from hiwl_core.simulated_image import BAND_NOISE, BLACK_LEVEL, CAMERA_SCALE, render_bands
from hiwl_core.simulation import describe_object
from hiwl_core.stamps import fits_cube

__all__ = ["GRID", "POSITIONS", "write_sky"]

GRID, SIDE, OVERLAP, POSITIONS = 10, 1000, 100, 20_000
BANDS = "irg"
FLUX = 0.0825
"""Of the sky's noise: with it the model's stretch compresses light as that of the simulated pictures does."""
RADIUS, SCALE_FACTOR = 6.0, 0.02
OF_EACH_CLASS = 2
SURE = 0.9


def write_sky(folder: Path, model: str) -> None:
    """Tiles of one projection that overlap, the table of positions, and what stands at some of them."""
    random = np.random.default_rng(0)
    step = SIDE - OVERLAP
    whole = GRID * step + OVERLAP
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [(whole + 1) / 2, (whole + 1) / 2]
    wcs.wcs.cdelt = [-CAMERA_SCALE / 3600, CAMERA_SCALE / 3600]
    places = random.uniform(0, whole, (POSITIONS, 2))
    radii = np.full(POSITIONS, RADIUS)
    galaxies = known_galaxies(model)
    for number, (_, radius, _) in enumerate(galaxies):
        # Some of them where tiles overlap: the larger ones are stitched.
        places[number] = random.uniform(300, whole - 300, 2)
        if number % 3 == 0:
            border = min(max(round(places[number, 0] / step), 1), GRID - 1)
            places[number, 0] = border * step + OVERLAP / 2
        radii[number] = radius
    # Known galaxies stand on whole pixels, and alone.
    places[: len(galaxies)] = np.rint(places[: len(galaxies)])
    distance = np.abs(places[len(galaxies) :, None] - places[None, : len(galaxies)]).max(axis=2).min(axis=1)
    disks = places[len(galaxies) :][distance > 200]
    stamps = {band: galaxy_stamps(number) for number, band in enumerate(BANDS)}
    for column in range(GRID):
        for row in range(GRID):
            corner = np.array([column, row]) * step
            header = wcs[corner[1] : corner[1] + SIDE, corner[0] : corner[0] + SIDE].to_header()
            for number, band in enumerate(BANDS):
                # The sky is one: tiles that overlap have the same noise there.
                image = sky_noise(number, corner) * BAND_NOISE[number] * FLUX
                add_galaxies(image, disks - corner, stamps[band])
                image -= np.float32(BLACK_LEVEL * FLUX)
                for place, (_, _, bands) in zip(places, galaxies, strict=False):
                    paste(image, bands[number], place - corner)
                header["FILTER"] = band
                path = folder / "tiles" / f"tract0_{column},{row}_{band}.fits"
                path.parent.mkdir(parents=True, exist_ok=True)
                fits.writeto(path, image, header, overwrite=True)
    world = wcs.all_pix2world(places, 0)
    ids = FIRST_ID + np.arange(POSITIONS)
    table = {"objectId": ids, "coord_ra": world[:, 0], "coord_dec": world[:, 1], "radius": radii}
    pq.write_table(pa.table(table), folder / "positions.parquet")
    truth = {int(ids[number]): name for number, (name, _, _) in enumerate(galaxies)}
    (folder / "truth.json").write_text(json.dumps(truth))


def sky_noise(band: int, corner: np.ndarray) -> np.ndarray:
    """Noise of a tile, put together of squares that have a seed each."""
    whole = np.empty((SIDE, SIDE), np.float32)
    for low in range(0, SIDE, OVERLAP):
        for left in range(0, SIDE, OVERLAP):
            seed = [band, int(corner[0]) + left, int(corner[1]) + low]
            square = np.random.default_rng(seed).standard_normal((OVERLAP, OVERLAP), np.float32)
            whole[low : low + OVERLAP, left : left + OVERLAP] = square
    return whole


def paste(image: np.ndarray, patch: np.ndarray, place: np.ndarray) -> None:
    """Put a patch over an image, centered on a pixel."""
    half = len(patch) // 2
    left, low = (int(one) - half for one in place)
    rows, columns = (slice(max(first, 0), min(first + len(patch), SIDE)) for first in (low, left))
    if rows.start < rows.stop and columns.start < columns.stop:
        image[rows, columns] = patch[
            rows.start - low : rows.stop - low, columns.start - left : columns.stop - left
        ]


def known_galaxies(model: str) -> list[tuple[str, float, np.ndarray]]:
    """Class, radius in arcsec and bands of galaxies of which the model is sure, some of each class."""
    bundle = load_bundle(model)
    classifier = CascadeClassifier(bundle)
    left = dict.fromkeys(bundle.taxonomy.classes, OF_EACH_CLASS)
    found = []
    for index in range(2000):
        galaxy = describe_object(1, index, 0.0).morphology
        if not left.get(galaxy.truth) or not 6 < galaxy.petrosian_r90 < 14:
            continue
        bands = render_bands(np.random.default_rng([1, index]), galaxy, 424)
        # Odd, so that it has a central pixel.
        bands = (bands[:, 1:, 1:] if bands.shape[1] % 2 == 0 else bands) - np.float32(BLACK_LEVEL)
        bands *= np.float32(FLUX)
        cube = fits_cube(bands, {"BANDS": ",".join(BANDS)})
        _, said = classifier.classify([Cutout(cube, CAMERA_SCALE, SCALE_FACTOR * galaxy.petrosian_r90)])
        number = bundle.taxonomy.classes.index(galaxy.truth)
        if len(said.probabilities) and said.probabilities[0, number] > SURE:
            left[galaxy.truth] -= 1
            found.append((galaxy.truth, galaxy.petrosian_r90, bands))
        if not any(left.values()):
            break
    return found
