import io

import numpy as np
import pytest
import torch
from PIL import Image

from hiwl_core.cutouts import EvalTransform, Preprocessing, normalize, read_cutout
from hiwl_core.decoding import Scratch, decode_image, decode_pixels
from hiwl_core.recipe import load_recipe
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


def test_the_papers_eval_transform_is_a_plain_crop() -> None:
    transform = EvalTransform(Preprocessing(240, 240, (0, 0, 0), (1, 1, 1)))
    pixels = transform(marked(424, 240))
    assert pixels.shape == (240, 240, 3)
    assert (pixels[..., 0] == 200).all()


@pytest.mark.parametrize("shape", [(6, 6), (7, 9), (9, 7), (5, 8), (8, 5), (3, 4), (4, 11), (12, 13)])
def test_the_crop_is_torchvisions(shape: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    expected = v2.CenterCrop(6)(torch.from_numpy(image).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(EvalTransform(Preprocessing(6, 6, (0, 0, 0), (1, 1, 1)))(image), expected)


@pytest.mark.parametrize("size", [32, 96, 300])
def test_scaling_is_pillows_within_a_level(size: int) -> None:
    image = decode_image(draw_galaxy("SPI", 4, size=280)).image
    got = EvalTransform(Preprocessing(240, size, (0, 0, 0), (1, 1, 1)))(image)
    expected = image.crop((20, 20, 260, 260)).resize((size, size), Image.Resampling.BILINEAR)
    assert np.abs(got.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpegs_are_decoded_to_pillows_pixels(mode: str, options: dict[str, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (61, 47, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(buffer, "JPEG", **options)
    got = decode_pixels(buffer.getvalue()).pixels
    np.testing.assert_array_equal(got, np.asarray(decode_image(buffer.getvalue()).image))


def test_scratch_holds_the_last_image_and_lets_a_large_one_go() -> None:
    scratch = Scratch()
    first = scratch.array(40, 30)
    assert np.shares_memory(first, scratch.array(20, 30))
    assert not np.shares_memory(scratch.array(4000, 4000), scratch.array(4000, 4000))


def test_normalization_of_the_paper() -> None:
    pixels = torch.full((2, 3, 3, 3), 255, dtype=torch.uint8)
    out = normalize(pixels, PAPER.mean, PAPER.std)
    assert out.shape == (2, 3, 3, 3)
    expected = [(1 - m) / s for m, s in zip(PAPER.mean, PAPER.std, strict=True)]
    assert out[0, :, 0, 0].tolist() == pytest.approx(expected)
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_any_mode_becomes_rgb(kind: str, mode: str) -> None:
    if (kind, mode) == ("JPEG", "RGBA"):
        pytest.skip("JPEG has no transparency")
    assert decode_image(encode(Image.new(mode, (20, 20)), kind)).image.mode == "RGB"


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
    got, pixels = read_cutout(encoded, (transform,), smallest=64)[:2]
    assert got == status
    assert (pixels is not None) == (status == "ok")
    if pixels is not None:
        assert pixels[0].shape == (32, 32, 3)
        assert pixels[0].dtype == np.uint8
