"""Colors in single precision are those that astropy makes in double, level for level."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.visualization import make_lupton_rgb

from hiwl_core.lupton import lupton_rgb
from hiwl_core.recipe_sections import RgbSettings

SIDE = 60
TYPES = (np.float32, np.float64, np.dtype(">f4"), np.dtype(">f8"), np.int16, np.int32)


def expected(bands: list[np.ndarray], rgb: RgbSettings) -> np.ndarray:
    with np.errstate(all="ignore"):
        doubles = [band.astype(np.float64) - rgb.minimum for band in bands]
        pixels: np.ndarray = make_lupton_rgb(*doubles, stretch=rgb.stretch, Q=rgb.q)
    return pixels


@pytest.mark.parametrize("seed", range(40))
def test_any_image_has_the_colors_of_astropy(seed: int) -> None:
    """Noise and galaxies from far below the stretch to far above it, of any type, at any stretch."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    unit = 10 ** random.uniform(-12, 6)
    kind = TYPES[seed % len(TYPES)]
    if kind in (np.int16, np.int32):
        unit = 50
    bands = []
    for _ in range(3):
        galaxy = 10 ** random.uniform(-2, 4) * np.exp(-np.hypot(rows, columns) / random.uniform(2, 20))
        noise = random.normal(0, 10 ** random.uniform(-3, 0.5), (SIDE, SIDE))
        bands.append(np.clip((galaxy + noise) * unit, -3e4, 3e4 if unit == 50 else None).astype(kind))
    bands[0][:5], bands[1][:3], bands[2][:5] = 0, 0, 0
    rgb = RgbSettings(
        stretch=unit * 10 ** random.uniform(-2, 2),
        q=10 ** random.uniform(-9, 2),
        minimum=float(random.choice([0, -0.1, 3])) * unit,
    )
    np.testing.assert_array_equal(lupton_rgb(*bands, rgb), expected(bands, rgb))


@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-30, 1e15, 1e30, 3e38, 1e200, np.inf, -np.inf, np.nan])
def test_the_ends_of_the_numbers(value: float) -> None:
    """Bands that cancel each other, and what single precision cannot hold."""
    random = np.random.default_rng(0)
    bands = [random.normal(0, 1, (SIDE, SIDE)) for _ in range(3)]
    bands[0][:20] = value
    bands[1][:10], bands[2][:10] = -bands[0][:10], np.nextafter(0, 1)
    with np.errstate(all="ignore"):
        bands[2][10:20] = -(bands[0][10:20] + bands[1][10:20])
    np.testing.assert_array_equal(lupton_rgb(*bands, RgbSettings()), expected(bands, RgbSettings()))


def test_stretches_beyond_single_precision() -> None:
    bands = [np.random.default_rng(band).normal(0, 1, (SIDE, SIDE)) for band in range(3)]
    for stretch in (1e-300, 1e-40, 1e40, 1e300):
        rgb = RgbSettings(stretch=stretch)
        np.testing.assert_array_equal(lupton_rgb(*bands, rgb), expected(bands, rgb))
