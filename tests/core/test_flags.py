"""Each flag is raised by its defect, and by no clean galaxy."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from PIL import Image

from hiwl_core.defects import DefectLimits, measure_defects
from hiwl_core.drift import FLAGS as DRIFT_FLAGS
from hiwl_core.errors import UserError
from hiwl_core.flags import (
    BORDER,
    EMPTY,
    FLAG_DESCRIPTIONS,
    FLAGS,
    OFF_CENTER,
    PART_MISSING,
    SATURATED,
    UNLIKE,
    VIEWS_DISAGREE,
    flag_names,
)
from tests.drawings import CLASSES, draw_galaxy

SIDES = (64, 100, 128)


@cache
def drawn(seed: int, side: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(draw_galaxy(CLASSES[seed % 5], seed, side))))


def clean(seed: int, side: int) -> np.ndarray:
    return drawn(seed, side).copy()


def cut_off(image: np.ndarray) -> np.ndarray:
    image[:, -2:] = 0
    return image


def wedge(image: np.ndarray) -> np.ndarray:
    side = len(image)
    y, x = np.mgrid[:side, :side]
    image[x + 2 * y < 0.6 * side] = 0
    return image


def hole(image: np.ndarray) -> np.ndarray:
    tenth = len(image) // 10
    image[2 * tenth : 4 * tenth, 5 * tenth : 8 * tenth] = 37
    return image


def moved(image: np.ndarray) -> np.ndarray:
    return np.roll(image, len(image) // 5, axis=1)


def star(image: np.ndarray) -> np.ndarray:
    side = len(image)
    y, x = np.mgrid[:side, :side] - side / 2
    image[np.hypot(x, y) < 0.1 * side] = 255
    return image


def sky(image: np.ndarray) -> np.ndarray:
    return np.random.default_rng(0).normal(8, 4, image.shape).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def limits() -> dict[int, DefectLimits]:
    return {side: DefectLimits.fit(clean(seed, side) for seed in range(20)) for side in SIDES}


@pytest.mark.parametrize("side", SIDES)
def test_no_clean_galaxy_is_flagged(side: int, limits: dict[int, DefectLimits]) -> None:
    assert [limits[side].flags(clean(seed, side)) for seed in range(100, 120)] == [0] * 20


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    ("defect", "bit"),
    [
        (cut_off, BORDER),
        (wedge, BORDER),
        (hole, PART_MISSING),
        (moved, OFF_CENTER),
        (star, SATURATED),
        (sky, EMPTY),
    ],
)
def test_a_defect_raises_its_flag_and_no_other(
    defect: Callable[[np.ndarray], np.ndarray], bit: int, side: int, limits: dict[int, DefectLimits]
) -> None:
    # Round and in-between galaxies, whose light fills the center.
    for seed in (100, 101, 105, 106):
        assert flag_names(limits[side].flags(defect(clean(seed, side)))) == [FLAGS[bit]]


def test_what_one_in_a_thousand_validation_galaxies_has_is_no_defect(limits: dict[int, DefectLimits]) -> None:
    # A survey whose cutouts all end in a black column.
    used = DefectLimits.fit(cut_off(clean(seed, 64)) for seed in range(20))
    assert used.flags(cut_off(clean(100, 64))) == 0
    assert limits[64].flags(cut_off(clean(100, 64))) == BORDER


def test_the_offset_is_in_halves_of_the_side() -> None:
    for side in (64, 128):
        y, x = np.mgrid[:side, :side] - (side - 1) / 2
        dot = 200 * (np.hypot(x - 0.2 * side / 2, y) < 0.05 * side)
        image = np.repeat(dot[..., None], 3, axis=2).astype(np.uint8)
        assert measure_defects(image).offset == pytest.approx(0.2, abs=0.03)


def test_an_all_black_image_is_missing_and_empty(limits: dict[int, DefectLimits]) -> None:
    assert limits[128].flags(np.zeros((128, 128, 3), np.uint8)) == BORDER | EMPTY


def test_the_limits_survive_as_an_array(limits: dict[int, DefectLimits]) -> None:
    again = DefectLimits(*limits[64].to_array().tolist())
    np.testing.assert_array_equal(again.to_array(), limits[64].to_array())


def test_flags_have_names_and_descriptions() -> None:
    assert dict(FLAGS) == dict(DRIFT_FLAGS)
    assert list(FLAG_DESCRIPTIONS) == list(FLAGS) == [1 << place for place in range(8)]
    assert flag_names(0) == []
    assert flag_names(UNLIKE | VIEWS_DISAGREE) == ["unlike", "views_disagree"]
    for unknown in (256, -1):
        with pytest.raises(UserError, match=f"flags {unknown}"):
            flag_names(unknown)
