"""What is far from the training galaxies scores higher, and the threshold keeps its promise."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load, save

from hiwl_core.errors import UserError
from hiwl_core.flags import EMPTY
from hiwl_core.pixel_statistics import STATISTICS, pixel_statistics
from hiwl_core.unlikeness import Unlikeness
from tests.drawings import CLASSES, draw_galaxy

SIDE = 64
WIDE = 80
FALSE_ALARMS = 0.05


@cache
def drawings() -> np.ndarray:
    encoded = [draw_galaxy(CLASSES[i % 5], i, SIDE) for i in range(150)]
    return np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in encoded])


def galaxies(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of five classes about a plane of twelve dimensions, a drawing of each, and the classes."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(len(drawings()), size=count)
    targets = shown % 5
    plane = np.random.default_rng(0).normal(size=(12, WIDE))
    centers = np.random.default_rng(1).normal(scale=2.0, size=(5, 12))
    features = (centers[targets] + rng.normal(size=(count, 12))) @ plane
    features += rng.normal(scale=0.3, size=features.shape)
    return features.astype(np.float32), drawings()[shown], targets


@pytest.fixture(scope="module")
def validation() -> tuple[np.ndarray, np.ndarray]:
    return galaxies(400, seed=2)[:2]


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, np.ndarray]:
    return galaxies(400, seed=3)[:2]


@pytest.fixture(scope="module")
def measure(validation: tuple[np.ndarray, np.ndarray]) -> Unlikeness:
    features, pixels, targets = galaxies(500, seed=1)
    return Unlikeness.fit(features, pixel_statistics(pixels), targets, *validation, FALSE_ALARMS)


def test_the_threshold_holds_on_galaxies_that_it_was_not_fitted_on(
    measure: Unlikeness, validation: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray]
) -> None:
    own, others = measure.score(*validation), measure.score(*held_out)
    assert np.median(own) == pytest.approx(0, abs=1e-4)
    assert 0.03 < (own > measure.threshold).mean() <= FALSE_ALARMS
    # Three standard deviations of two samples of 400.
    assert abs((others > measure.threshold).mean() - FALSE_ALARMS) < 0.046
    assert others.dtype == np.float32
    assert others.shape == (400,)


def test_the_farther_features_are_the_higher_is_the_score(
    measure: Unlikeness, held_out: tuple[np.ndarray, np.ndarray]
) -> None:
    features, pixels = held_out
    direction = np.random.default_rng(4).normal(size=WIDE)
    scores = [measure.score(features + step * direction, pixels).mean() for step in (0, 1, 2, 4)]
    assert scores == sorted(scores)
    assert (measure.score(features + 4 * direction, pixels) > measure.threshold).mean() > 0.95


def test_features_between_two_classes_are_unlike_both(
    measure: Unlikeness, held_out: tuple[np.ndarray, np.ndarray]
) -> None:
    features, pixels = held_out
    turned = np.random.default_rng(5).permuted(features, axis=1)
    assert (measure.score(turned, pixels) > measure.threshold).mean() > 0.95


def test_pixels_alone_may_be_unlike(measure: Unlikeness, held_out: tuple[np.ndarray, np.ndarray]) -> None:
    features, pixels = held_out
    for other in (np.full_like(pixels, 90), 255 - pixels, np.repeat(pixels[:, ::2], 2, axis=1)[:, :SIDE]):
        assert measure.score(features, other).mean() > measure.score(features, pixels).mean()
    assert (measure.score(features, 255 - pixels) > measure.threshold).all()


def test_scores_do_not_depend_on_the_batch(
    measure: Unlikeness, held_out: tuple[np.ndarray, np.ndarray]
) -> None:
    features, pixels = held_out
    whole = measure.score(features, pixels)
    parts = [measure.score(features[i : i + 4], pixels[i : i + 4]) for i in range(0, 40, 4)]
    assert np.concatenate(parts) == pytest.approx(whole[:40], abs=1e-6)
    assert measure.score(features[:0], pixels[:0]).shape == (0,)


def test_nor_do_those_of_features_of_which_nothing_lies_beside_the_axes() -> None:
    rng = np.random.default_rng(5)
    features = (rng.normal(size=(600, 4)) @ rng.normal(size=(4, WIDE))).astype(np.float32)
    pixels, targets = galaxies(600, seed=5)[1:]
    parts = features[:400], pixel_statistics(pixels[:400]), targets[:400]
    flat = Unlikeness.fit(*parts, features[400:], pixels[400:], FALSE_ALARMS)
    whole = flat.score(features[400:], pixels[400:])
    alone = [flat.score(features[i : i + 1], pixels[i : i + 1]) for i in range(400, 440)]
    assert np.concatenate(alone) == pytest.approx(whole[:40], abs=1e-6)


def test_it_survives_as_bytes(measure: Unlikeness, held_out: tuple[np.ndarray, np.ndarray]) -> None:
    content = measure.to_bytes()
    again = Unlikeness.from_bytes(content)
    np.testing.assert_array_equal(again.score(*held_out), measure.score(*held_out))
    assert again.threshold == measure.threshold
    assert again.to_bytes() == content
    assert len(content) < 1.5e6


def test_pixels_are_flagged_by_limits_that_are_kept(measure: Unlikeness) -> None:
    noise = np.random.default_rng(6).normal(8, 4, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
    assert Unlikeness.from_bytes(measure.to_bytes()).pixel_flags(noise) == EMPTY


def test_few_galaxies_of_few_classes_are_enough() -> None:
    features, pixels, targets = galaxies(12, seed=7)
    small = Unlikeness.fit(features, pixel_statistics(pixels), targets, features, pixels)
    scores = small.score(features, pixels)
    assert np.isfinite(scores).all()
    assert (scores <= small.threshold).all()
    single = Unlikeness.fit(features, pixel_statistics(pixels), targets * 0, features, pixels)
    assert np.isfinite(single.score(features, pixels)).all()


def test_damaged_bytes_are_said(measure: Unlikeness) -> None:
    content = measure.to_bytes()
    arrays = load(content)
    lacking = {name: values for name, values in arrays.items() if name != "axes"}
    for damaged in (
        b"",
        content[:-100],
        b"x" + content,
        save(lacking),
        save({**arrays, "scale": np.ones(3)}),
    ):
        with pytest.raises(UserError, match="copy the bundle again"):
            Unlikeness.from_bytes(damaged)
    spoiled = replace(measure, location=measure.location * np.float32("nan"))
    with pytest.raises(UserError, match="location"):
        Unlikeness.from_bytes(spoiled.to_bytes())


def test_what_cannot_be_fitted_is_said() -> None:
    features, pixels, targets = np.ones((4, 8), np.float32), np.zeros((4, 32, 32, 3), np.uint8), np.arange(4)
    statistics = np.zeros((4, STATISTICS), np.float32)
    for given, words in (
        ((features, statistics[:3], targets, features, pixels), "4 training galaxies .* 3 statistics"),
        ((features, statistics, targets, features, pixels[:2]), "4 validation galaxies .* 2 pixels"),
        ((features, statistics, targets, features[:1], pixels[:1]), "1 validation galaxies"),
        ((features * np.nan, statistics, targets, features, pixels), "not all finite"),
    ):
        with pytest.raises(UserError, match=words):
            Unlikeness.fit(*given)
    with pytest.raises(UserError, match="false_alarms 1.5"):
        Unlikeness.fit(features, statistics, targets, features, pixels, 1.5)


@pytest.mark.parametrize("side", [32, 45, 64, 100, 240])
def test_statistics_are_finite_at_any_size(side: int) -> None:
    rng = np.random.default_rng(8)
    images = np.stack(
        [rng.integers(0, 256, (side, side, 3)), np.zeros((side, side, 3)), np.full((side, side, 3), 255)]
    )
    found = pixel_statistics(images.astype(np.uint8))
    assert found.shape == (3, STATISTICS)
    assert np.isfinite(found).all()
