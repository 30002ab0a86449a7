import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout
from hiwl_core.decoding import Cutout, decode_image
from hiwl_core.resampling import resample_planes, zoom_to
from hiwl_core.statuses import UnreadableCutout
from tests.broken_inputs import encode
from tests.drawings import draw_galaxy

ORIGINALS = Path(__file__).parents[3] / "shared" / "galaxyzoo" / "originals"
PLAIN = Preprocessing(120, 120, (0, 0, 0), (1, 1, 1))
SCALED = Preprocessing(120, 48, (0, 0, 0), (1, 1, 1))


def ellipse(scale: float, side: int, semimajor: float = 6.0, ratio: float = 0.4) -> bytes:
    """A PNG of an elliptical galaxy of a given size in arcsec, off by a whisker from being symmetric."""
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) * scale
    along, across = x * 0.8 + y * 0.6, -x * 0.6 + y * 0.8
    brightness = 240 * np.exp(-np.hypot(along, across / ratio) / semimajor * 1.5)
    return encode(Image.fromarray(np.repeat(brightness[..., None], 3, axis=2).astype(np.uint8)), "PNG")


def pixels(cutout: Cutout | bytes, preprocessing: Preprocessing = SCALED) -> np.ndarray:
    status, result = read_cutout(cutout, (EvalTransform(preprocessing),), preprocessing.center_crop)[:2]
    assert status == "ok"
    return result[0].astype(float)


@pytest.mark.parametrize("preprocessing", [PLAIN, SCALED])
@pytest.mark.parametrize(("scale", "side"), [(0.396, 140), (0.2, 300), (0.31, 151), (0.9, 70)])
def test_one_galaxy_at_any_scale_looks_the_same(
    preprocessing: Preprocessing, scale: float, side: int
) -> None:
    wanted = 0.25
    expected = pixels(ellipse(wanted, 200), preprocessing)
    got = pixels(Cutout(ellipse(scale, side), scale, wanted), preprocessing)
    # A coarse image has lost the peak of the galaxy; all else agrees to a level or two of 255.
    assert np.abs(got - expected).mean() < 1.0
    if scale != wanted:
        assert np.abs(pixels(ellipse(scale, 300), preprocessing) - expected).mean() > 3.0


def test_the_size_in_pixels_is_the_size_on_the_sky_over_the_wanted_scale() -> None:
    for wanted in (0.15, 0.3):
        seen = pixels(Cutout(ellipse(0.2, 600), 0.2, wanted), PLAIN)[..., 0]
        half_light = (seen > 240 * math.exp(-0.75)).sum()
        # The contour at half the semimajor axis: pi a b square arcsec.
        assert half_light == pytest.approx(math.pi * 3.0**2 * 0.4 / wanted**2, rel=0.04)


def test_nothing_changes_where_no_scale_is_wanted() -> None:
    image = draw_galaxy("SPI", 3, size=200)
    expected = EvalTransform(SCALED)(decode_image(image).image)
    for cutout in (image, Cutout(image), Cutout(image, 0.4), Cutout(image, float("nan"), None)):
        assert np.array_equal(pixels(cutout), expected)


def test_the_own_scale_leaves_the_pixels_alone() -> None:
    image = draw_galaxy("SPI", 3, size=200)
    assert np.array_equal(pixels(Cutout(image, 0.4, 0.4), PLAIN), pixels(image, PLAIN))


@pytest.mark.parametrize(
    ("cutout", "status"),
    [
        (Cutout(None, 0.2, 0.2), "missing"),
        (Cutout(b"broken", 0.2, 0.2), "undecodable"),
        # 120 pixels of 0.5 arcsec are 150 of 0.4.
        (Cutout(ellipse(0.4, 149), 0.4, 0.5), "too_small"),
        (Cutout(ellipse(0.4, 150), 0.4, 0.5), "ok"),
        # Small in pixels is not small on the sky.
        (Cutout(ellipse(0.4, 60), 0.4, 0.2), "ok"),
        (Cutout(ellipse(0.4, 60), 0.4, None), "too_small"),
        (Cutout(ellipse(0.4, 200), None, 0.4), "no_scale"),
        (Cutout(ellipse(0.4, 200), 0.4, float("nan")), "no_scale"),
        (Cutout(ellipse(0.4, 200), 0.4, float("inf")), "no_scale"),
        (Cutout(ellipse(0.4, 200), 0.4, 0.0), "no_scale"),
        (Cutout(ellipse(0.4, 200), 0.4, -0.4), "no_scale"),
        (Cutout(ellipse(0.4, 200), float("nan"), 0.4), "no_scale"),
        (Cutout(ellipse(0.4, 200), 0.0, 0.4), "no_scale"),
        (Cutout(ellipse(0.4, 200), 0.4, 1e-9), "no_scale"),
        (Cutout(ellipse(0.4, 200), 1e-300, 1e300), "no_scale"),
    ],
)
def test_status_of_a_resampled_cutout(cutout: Cutout, status: str) -> None:
    got, result = read_cutout(cutout, (EvalTransform(SCALED),), SCALED.center_crop)[:2]
    assert got == status
    assert (result is not None) == (status == "ok")


def test_a_zoom_is_the_ratio_of_the_scales() -> None:
    assert zoom_to(0.5, 0.25) == 2.0
    with pytest.raises(UnreadableCutout, match="no_scale: the wanted pixel scale is nan"):
        zoom_to(float("nan"), 0.25)


@pytest.mark.skipif(not ORIGINALS.is_dir(), reason="the Galaxy Zoo originals are not here")
@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_real_galaxies_taken_at_another_scale_come_back(factor: float) -> None:
    preprocessing = Preprocessing(240, 96, (0, 0, 0), (1, 1, 1))
    for path in sorted(ORIGINALS.glob("*.jpg"))[::50]:
        image = Image.open(io.BytesIO(path.read_bytes()))
        side = round(424 * factor)
        other = encode(image.resize((side, side), Image.Resampling.LANCZOS), "PNG")
        # Its scale is 1 where the image was taken, so 424 / side here.
        got = pixels(Cutout(other, 424 / side, 1.0), preprocessing)
        assert np.abs(got - pixels(path.read_bytes(), preprocessing)).mean() < 1.0


@pytest.mark.parametrize("zoom", [0.3, 0.97, 1.0, 1.4, 3.1])
@pytest.mark.parametrize("sharp", [True, False])
def test_planes_are_resampled_as_by_pillow(zoom: float, sharp: bool) -> None:
    random, size = np.random.default_rng(0), 24
    planes = random.normal(0, 1, (2, 90, 81)).astype(np.float32)
    # At the end of an axis too, where the filter lacks pixels.
    for x, y in ((40.2, 44.9), (size * zoom / 2 - 0.5, 89.5 - size * zoom / 2)):
        half = size * zoom / 2
        box = (x + 0.5 - half, y + 0.5 - half, x + 0.5 + half, y + 0.5 + half)
        filter_ = Image.Resampling.BICUBIC if sharp else Image.Resampling.BILINEAR
        expected = [
            np.asarray(Image.fromarray(plane).resize((size, size), filter_, box=box)) for plane in planes
        ]
        got = resample_planes(planes, (x, y), zoom, size, sharp)
        np.testing.assert_allclose(got, expected, atol=1e-4)
