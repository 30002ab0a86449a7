from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from hiwl_core.augmentation import Draw, TrainTransform
from hiwl_core.decoding import decode_image
from hiwl_core.recipe import load_recipe
from hiwl_core.recipe_sections import Augmentation
from tests.drawings import CLASSES, draw_galaxy

RECIPES = {name: load_recipe(name).stage1 for name in ("paper", "cpu")}
GALAXIES = [np.asarray(decode_image(draw_galaxy(name, 1, size=272)).image) for name in CLASSES]
NOISE = np.random.default_rng(0).integers(256, size=(257, 300, 3)).astype(np.uint8)


def transform(recipe: str) -> TrainTransform:
    return TrainTransform(RECIPES[recipe].augmentation, RECIPES[recipe].input_size)


def by_torchvision(image, draw: Draw, ours: TrainTransform):  # type: ignore[no-untyped-def]
    """Steps (1) to (5) with the same draw, by torchvision: of a tensor or a Pillow image."""
    # Not above: each process that shares the tests would wait two seconds for it, whichever it has.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as v2

    image = v2.center_crop(image, [ours.augmentation.center_crop])
    image = v2.rotate(image, draw.angle, InterpolationMode(ours.augmentation.rotation_interpolation))
    size = [ours.input_size, ours.input_size]
    image = v2.resized_crop(image, draw.top, draw.left, draw.height, draw.width, size, antialias=True)
    image = v2.horizontal_flip(image) if draw.horizontal_flip else image
    return v2.vertical_flip(image) if draw.vertical_flip else image


def differences(ours: TrainTransform, image: np.ndarray, seeds: range, pillow: bool = False) -> np.ndarray:
    """Gray levels between this transform and torchvision's, for some draws."""
    found = []
    for seed in seeds:
        draw = ours.draw(seed)
        if pillow:
            expected = np.asarray(by_torchvision(Image.fromarray(image), draw, ours))
        else:
            tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
            expected = by_torchvision(tensor, draw, ours).permute(1, 2, 0).numpy()
        found.append(ours.apply(image, draw).astype(int) - expected)
    return np.abs(found)


@pytest.mark.parametrize("image", [*GALAXIES, NOISE], ids=[*CLASSES, "noise"])
def test_the_same_pixels_as_torchvision_to_a_gray_level(image: np.ndarray) -> None:
    levels = differences(transform("cpu"), image, range(20))
    assert levels.max() <= 1
    assert levels.mean() < 0.02


@pytest.mark.parametrize("image", [*GALAXIES, NOISE], ids=[*CLASSES, "noise"])
def test_the_papers_nearest_rotation_is_torchvisions(image: np.ndarray) -> None:
    # A place halfway between two pixels may be rounded to either.
    levels = differences(transform("paper"), image, range(20))
    assert (levels > 0).mean() < 1e-3
    assert levels.mean() < 0.01


def test_galaxies_are_as_pillow_rotates_and_resizes_them() -> None:
    # Pillow cuts fractions off where torch rounds, and draws the edge of the rotated frame another way.
    for image in GALAXIES:
        levels = differences(transform("cpu"), image, range(20), pillow=True)
        assert levels[:, 16:80, 16:80].max() <= 2
        assert levels.mean() < 0.75


@pytest.mark.parametrize(("horizontal", "vertical"), product([False, True], repeat=2))
def test_without_rotation_the_same_to_a_gray_level(horizontal: bool, vertical: bool) -> None:
    ours = transform("cpu")
    draw = Draw(0.0, 3, 11, 240, 231, horizontal, vertical)
    tensor = torch.from_numpy(NOISE).permute(2, 0, 1)
    expected = by_torchvision(tensor, draw, ours).permute(1, 2, 0).numpy()
    assert np.abs(ours.apply(NOISE, draw).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(200, 201), (300, 255), (255, 300)])
def test_of_a_small_image_the_missing_part_is_black_as_in_torchvision(shape: tuple[int, int]) -> None:
    small = np.full((*shape, 3), 200, np.uint8)
    assert differences(transform("cpu"), small, range(5)).max() <= 1


def test_draws_have_torchvisions_distributions() -> None:
    from torchvision.transforms import RandomResizedCrop

    paper = RECIPES["paper"].augmentation
    draws = [transform("paper").draw(seed) for seed in range(4000)]
    torch.manual_seed(0)
    frame = torch.empty(3, 256, 256)
    crops = [RandomResizedCrop.get_params(frame, [*paper.scale], [*paper.aspect_ratio]) for _ in draws]
    angles = torch.empty(len(draws)).uniform_(-25, 25).tolist()
    expected = {
        name: [crop[i] for crop in crops] for i, name in enumerate(("top", "left", "height", "width"))
    }
    for name, values in {**expected, "angle": angles}.items():
        ours = [getattr(draw, name) for draw in draws]
        assert largest_gap(ours, values) < 1.95 * np.sqrt(2 / len(draws)), name
    for name in ("horizontal_flip", "vertical_flip"):
        assert np.mean([getattr(draw, name) for draw in draws]) == pytest.approx(0.5, abs=0.04)
    together = np.mean([draw.horizontal_flip and draw.vertical_flip for draw in draws])
    assert together == pytest.approx(0.25, abs=0.035)


def largest_gap(first: list[float], second: list[float]) -> float:
    """Kolmogorov and Smirnov's distance; beyond 1.95 sqrt(2 / n) by chance once in a thousand."""
    values = np.union1d(first, second)
    shares = [
        np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (first, second)
    ]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize("ratio", [(3.0, 4.0), (0.2, 0.25)])
def test_where_no_crop_fits_the_largest_that_is_allowed(ratio: tuple[float, float]) -> None:
    from torchvision.transforms import RandomResizedCrop

    settings = RECIPES["paper"].augmentation.model_copy(update={"scale": (1.0, 1.0), "aspect_ratio": ratio})
    draw = TrainTransform(settings, 64).draw(0)
    expected = RandomResizedCrop.get_params(torch.empty(3, 256, 256), [1.0, 1.0], [*ratio])
    assert (draw.top, draw.left, draw.height, draw.width) == expected


def test_the_papers_settings() -> None:
    ours = transform("paper")
    assert ours.input_size == 240
    assert ours.augmentation == Augmentation(
        center_crop=256,
        rotation=25,
        scale=(0.9, 1.0),
        aspect_ratio=(3 / 4, 4 / 3),
        horizontal_flip=0.5,
        vertical_flip=0.5,
        rotation_interpolation="nearest",
    )


def test_each_seed_is_another_draw_and_the_same_seed_the_same() -> None:
    ours = transform("paper")
    assert np.array_equal(ours(GALAXIES[3], 5), ours(GALAXIES[3], 5))
    assert not np.array_equal(ours(GALAXIES[3], 5), ours(GALAXIES[3], 6))
    assert ours.draw(2**62 - 1) != ours.draw(2**62 - 2)


def test_arrays_and_images_read_only_or_not_are_the_same_to_it() -> None:
    for settings in ({}, {"rotation": 0.0}):
        ours = TrainTransform(RECIPES["cpu"].augmentation.model_copy(update=settings), 96)
        pixels = GALAXIES[0].copy()
        expected = ours(Image.fromarray(pixels), 5)
        assert np.array_equal(ours(pixels, 5), expected)
        pixels.flags.writeable = False
        assert np.array_equal(ours(pixels, 5), expected)


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    transform("paper")(GALAXIES[3], 5)
    assert torch.rand(1) == expected


def test_a_recipe_can_keep_the_axis_ratio() -> None:
    keep = Augmentation(
        center_crop=256, rotation=0, scale=(0.5, 1), aspect_ratio=(1, 1), horizontal_flip=0, vertical_flip=0
    )
    y, x = np.mgrid[:256, :256] - 127.5
    circle = np.repeat((np.hypot(x, y) < 50)[..., None] * 255, 3, axis=2).astype(np.uint8)
    ratios = []
    for seed in range(20):
        mask = TrainTransform(keep, 128)(circle, seed)[..., 0] > 127
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        ratios.append(len(columns) / len(rows))
    assert ratios == pytest.approx([1.0] * 20, abs=0.04)
