import io

import numpy as np
import pytest
import torch
from PIL import Image

from hiwl_core.cutouts import (
    EvalTransform,
    Preprocessing,
    TrainTransform,
    decode_cutout,
    normalize,
    read_cutout,
)
from hiwl_core.recipe import Augmentation, load_recipe
from tests.drawings import draw_galaxy

PAPER = load_recipe("paper").stage1


def encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def marked(size: int, crop: int) -> Image.Image:
    """Black, with the central `crop` pixels red."""
    pixels = np.zeros((size, size, 3), np.uint8)
    edge = (size - crop) // 2
    pixels[edge : edge + crop, edge : edge + crop, 0] = 200
    return Image.fromarray(pixels)


def test_the_papers_train_transform_is_steps_one_to_five() -> None:
    steps = [type(step).__name__ for step in TrainTransform(PAPER.augmentation, 240)._steps.transforms]
    assert steps == [
        "CenterCrop",
        "RandomRotation",
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "RandomVerticalFlip",
    ]
    crop, rotation, resized, *_ = TrainTransform(PAPER.augmentation, 240)._steps.transforms
    assert tuple(crop.size) == (256, 256)
    assert list(rotation.degrees) == [-25, 25]
    assert tuple(resized.scale) == (0.9, 1.0)
    assert tuple(resized.ratio) == pytest.approx((3 / 4, 4 / 3))


def test_the_papers_eval_transform_is_a_plain_crop() -> None:
    transform = EvalTransform(Preprocessing(240, 240, (0, 0, 0), (1, 1, 1)))
    pixels = transform(marked(424, 240))
    assert pixels.shape == (240, 240, 3)
    assert (pixels[..., 0] == 200).all()


def test_normalization_of_the_paper() -> None:
    pixels = torch.full((2, 3, 3, 3), 255, dtype=torch.uint8)
    out = normalize(pixels, PAPER.mean, PAPER.std)
    assert out.shape == (2, 3, 3, 3)
    expected = [(1 - m) / s for m, s in zip(PAPER.mean, PAPER.std, strict=True)]
    assert out[0, :, 0, 0].tolist() == pytest.approx(expected)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_each_seed_is_another_draw_and_the_same_seed_the_same() -> None:
    image = decode_cutout(draw_galaxy("EO", 1, size=280))
    transform = TrainTransform(PAPER.augmentation, 64)
    assert np.array_equal(transform(image, 5), transform(image, 5))
    assert not np.array_equal(transform(image, 5), transform(image, 6))


def test_the_callers_random_numbers_are_left_alone() -> None:
    image = decode_cutout(draw_galaxy("EO", 1, size=280))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    TrainTransform(PAPER.augmentation, 64)(image, 5)
    assert torch.rand(1) == expected


def test_a_recipe_can_keep_the_axis_ratio() -> None:
    keep = Augmentation(
        center_crop=256, rotation=0, scale=(0.5, 1), aspect_ratio=(1, 1), horizontal_flip=0, vertical_flip=0
    )
    y, x = np.mgrid[:256, :256] - 127.5
    circle = Image.fromarray(np.repeat((np.hypot(x, y) < 50)[..., None] * 255, 3, axis=2).astype(np.uint8))
    transform = TrainTransform(keep, 128)
    ratios = []
    for seed in range(20):
        mask = transform(circle, seed)[..., 0] > 127
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        ratios.append(len(columns) / len(rows))
    assert ratios == pytest.approx([1.0] * 20, abs=0.04)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_any_mode_becomes_rgb(kind: str, mode: str) -> None:
    if (kind, mode) == ("JPEG", "RGBA"):
        pytest.skip("JPEG has no transparency")
    assert decode_cutout(encode(Image.new(mode, (20, 20)), kind)).mode == "RGB"


@pytest.mark.parametrize(
    ("encoded", "status"),
    [
        (None, "missing"),
        (b"", "undecodable"),
        (b"not an image", "undecodable"),
        (draw_galaxy("CRS", 0)[:700], "undecodable"),
        (encode(Image.new("RGB", (80, 80)), "GIF"), "undecodable"),
        (encode(Image.new("RGB", (80, 60)), "PNG"), "too_small"),
        (draw_galaxy("CRS", 0), "ok"),
    ],
)
def test_status_of_a_cutout(encoded: bytes | None, status: str) -> None:
    transform = EvalTransform(Preprocessing(64, 32, (0, 0, 0), (1, 1, 1)))
    got, pixels = read_cutout(encoded, (transform,), smallest=64)
    assert got == status
    assert (pixels is not None) == (status == "ok")
    if pixels is not None:
        assert pixels[0].shape == (32, 32, 3)
        assert pixels[0].dtype == np.uint8
