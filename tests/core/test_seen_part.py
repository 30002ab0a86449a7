"""Of a FITS image only what the network sees is made into colors: the same comes of it as of the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout, seen_pixels
from hiwl_core.decoding import Cutout
from hiwl_core.fits_cutouts import rgb_from_fits
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import OK, UnreadableCutout
from hiwl_core.unobserved import seen_share
from tests.broken_inputs import encode, fits_file

RGB = RgbSettings()
SCALE = 0.2
SKY = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CRPIX1": 30.0,
    "CRPIX2": 30.0,
    "CDELT1": -SCALE / 3600,
    "CDELT2": SCALE / 3600,
}
HOLES = ("none", "nan", "many nan", "sentinel", "zeros", "strip", "band")


def image_of(random: np.random.Generator) -> np.ndarray:
    """Three bands of any shape and type, with a galaxy in the middle and something wrong somewhere."""
    height, width = random.integers(38, 75, 2)
    rows, columns = np.mgrid[:height, :width]
    light = 20 * np.exp(-np.hypot(rows - height / 2, columns - width / 2) / random.uniform(2, 9))
    planes = light + random.normal(0, 0.5, (3, height, width))
    band, row, column = int(random.integers(3)), int(random.integers(height)), int(random.integers(width))
    part: tuple[int | slice, ...] = (band, slice(row, row + 7), slice(column, column + 7))
    match random.choice(HOLES):
        case "nan":
            planes[band, row, column] = np.nan
        case "many nan":
            planes[band, row : row + 12] = np.inf
        case "sentinel":
            planes[part] = -9999
        case "zeros":
            planes[part] = 0
        case "strip":
            planes[band, :, column : column + 5] = 0
        case "band":
            planes[band] = 0
    return planes.astype(random.choice([">f4", "<f4", ">f8"]))


def expected(content: bytes, cutout: Cutout, transform: EvalTransform, smallest: int) -> tuple[str, object]:
    """What is read of the whole image, as of a picture."""
    try:
        sky = rgb_from_fits(content, RGB)
    except UnreadableCutout as error:
        return error.status, None
    read = read_cutout(
        cutout._replace(image=encode(Image.fromarray(sky.pixels), "PNG"), pixel_scale=SCALE),
        [transform],
        smallest,
    )
    if read.status != OK or sky.unobserved is None:
        return read.status, read.pixels
    share = seen_share(sky.unobserved, transform.preprocessing.center_crop * read.zoom)
    return ("bad_pixels", None) if share >= 0.1 else (read.status, read.pixels)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_comes_of_the_whole_image(seed: int) -> None:
    random = np.random.default_rng(seed)
    smaller = 0
    for _ in range(40):
        planes = image_of(random)
        content = fits_file(planes, **SKY)
        crop = int(random.integers(8, 37))
        transform = EvalTransform(Preprocessing(crop, int(random.integers(6, 40)), (0, 0, 0), (1, 1, 1)))
        wanted = None if random.random() < 0.4 else SCALE * random.uniform(0.4, 2.5)
        cutout = Cutout(content, None, wanted)
        read = read_cutout(cutout, [transform], crop)
        status, pixels = expected(content, cutout, transform, crop)
        assert read.status == status
        if status == OK:
            assert isinstance(pixels, tuple)
            (got,), (whole,) = read.pixels, pixels
            # Resampled from other numbers of the same pixels, a level in a thousand is rounded otherwise.
            most = 0 if wanted is None else 1
            assert np.abs(got.astype(int) - whole).max() <= most
            np.testing.assert_array_equal(seen_pixels(cutout, [transform])[0], got)
            smaller += rgb_from_fits(content, RGB, lambda _, side=crop: side).pixels.shape != (
                *planes.shape[1:],
                3,
            )
    assert smaller > 5


def test_what_is_unknown_is_said_after_what_is_wrong() -> None:
    """A scale that is not known ends no other way than before: what the pixels are comes first."""
    planes = np.random.default_rng(0).normal(1, 1, (3, 60, 60)).astype(np.float32)
    transform = EvalTransform(Preprocessing(20, 20, (0, 0, 0), (1, 1, 1)))
    assert read_cutout(Cutout(fits_file(planes), None, 0.3), [transform], 20).status == "no_scale"
    planes[1, :10] = math.nan
    assert read_cutout(Cutout(fits_file(planes), None, 0.3), [transform], 20).status == "bad_pixels"
