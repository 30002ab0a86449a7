"""Simulated outliers are what they are said to be."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.simulated_outliers import KINDS, simulate_outliers
from hiwl_core.errors import UserError
from tests.drawings import CLASSES, draw_galaxy

SIDE = 136


@pytest.fixture(scope="module")
def galaxies() -> np.ndarray:
    encoded = [draw_galaxy(CLASSES[i % 5], i, SIDE) for i in range(5)]
    return np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in encoded])


def light(images: np.ndarray, radius: float) -> np.ndarray:
    """Mean level above the image's median within a radius, in pixels, of each image's center."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    gray = images.mean(axis=-1)
    return gray[:, np.hypot(x, y) < radius].mean(axis=1) - np.median(gray, axis=(1, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_again_by_its_seed_and_differs_from_galaxies(
    kind: str, galaxies: np.ndarray
) -> None:
    made = simulate_outliers(kind, galaxies, 2, seed=1)
    assert made.shape == (2, SIDE, SIDE, 3)
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, simulate_outliers(kind, galaxies, 2, seed=1))
    assert (made != simulate_outliers(kind, galaxies, 2, seed=2)).any() or kind == "twice_scale"
    assert np.abs(made.astype(int) - galaxies[:2]).mean() > 1


def test_blank_sky_has_the_corners_level_and_noise_and_no_source(galaxies: np.ndarray) -> None:
    blank = simulate_outliers("blank", galaxies, 5, seed=0)
    corners = galaxies[:, :32, :32].astype(float)
    assert blank.mean() == pytest.approx(corners.mean(), abs=1.5)
    assert blank.std() == pytest.approx(corners.std(), rel=0.25)
    assert np.abs(light(blank, 15)).max() < 2
    assert light(galaxies, 15).min() > 20


def test_scales_change_how_large_a_galaxy_is(galaxies: np.ndarray) -> None:
    twice, half = (simulate_outliers(kind, galaxies, 5) for kind in ("twice_scale", "half_scale"))
    assert (light(twice, 40) > 1.3 * light(galaxies, 40)).all()
    assert (light(half, 40) < 0.6 * light(galaxies, 40)).all()
    # The sky about a shrunk galaxy goes on as it was: there is no frame.
    ring = half[:, SIDE // 4 - 4 : SIDE // 4 + 4, 20:-20].std(axis=(1, 2))
    assert ring == pytest.approx(half[:, :8].std(axis=(1, 2)), abs=1.0)


def test_a_second_galaxy_adds_its_light_beside_the_first(galaxies: np.ndarray) -> None:
    two = simulate_outliers("two_galaxies", galaxies, 5, seed=3)
    added = two.astype(float) - galaxies
    assert (added.mean(axis=(1, 2, 3)) > 0.5).all()


def test_saturated_stars_fill_much_of_the_image_with_white(galaxies: np.ndarray) -> None:
    made = simulate_outliers("saturated", galaxies, 5, seed=0)
    assert ((made > 245).any(axis=3).mean(axis=(1, 2)) > 0.01).all()


def test_a_trail_is_a_bright_line_from_edge_to_edge(galaxies: np.ndarray) -> None:
    made = simulate_outliers("trail", galaxies, 5, seed=0)
    added = (made.astype(int) - galaxies).max(axis=3) > 25
    edges = np.zeros((SIDE, SIDE), dtype=bool)
    edges[:3] = edges[-3:] = edges[:, :3] = edges[:, -3:] = True
    assert ((added & edges).sum(axis=(1, 2)) >= 4).all()
    assert (added.mean(axis=(1, 2)) < 0.25).all()


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("comet", (3, 80, 80, 3), "no outliers of the kind 'comet'"),
        ("blank", (1, 80, 80, 3), "two or more square RGB cutouts"),
        ("blank", (3, 80, 70, 3), "two or more square RGB cutouts"),
        ("blank", (3, 32, 32, 3), "two or more square RGB cutouts"),
    ],
)
def test_what_cannot_be_made_is_said(kind: str, shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        simulate_outliers(kind, np.zeros(shape, np.uint8), 1)
