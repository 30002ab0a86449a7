import io

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout
from hiwl_core.decoding import Cutout
from hiwl_core.fits_cutouts import SkyImage, fits_position, rgb_from_bands, rgb_from_fits
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import UnreadableCutout
from tests.broken_inputs import fits_file

pytestmark = pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyWarning")

BANDS = dict(
    zip("ugrizy", np.random.default_rng(5).gamma(1.0, 4.0, (6, 60, 70)).astype(np.float32), strict=True)
)
G, R, I = BANDS["g"], BANDS["r"], BANDS["i"]  # noqa: E741
DEFAULT = RgbSettings()


def sky(scale: float = 0.2, galactic: bool = False) -> dict[str, object]:
    """Header cards of a 60 x 70 pixel image centered on (150, 2) degrees, turned by 30 degrees."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"] if galactic else ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval, wcs.wcs.crpix = [150.0, 2.0], [35.5, 30.5]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    wcs.wcs.pc = [[np.cos(np.pi / 6), -0.5], [0.5, np.cos(np.pi / 6)]]
    return dict(wcs.to_header())


def lupton(
    red: np.ndarray, green: np.ndarray, blue: np.ndarray, stretch: float = 5, q: float = 8
) -> np.ndarray:
    """The formula of Lupton et al. (2004), written down once more; the first row on top."""
    bands = np.stack([red, green, blue]).astype(float)
    intensity = bands.mean(axis=0)
    scaled = np.arcsinh(intensity * q / stretch) * 0.1 * 255 / np.arcsinh(0.1 * q)
    colors = np.clip(bands * np.where(intensity > 0, scaled / intensity, 0), 0, None)
    brightest = colors.max(axis=0)
    colors = np.where(brightest > 255, colors * 255 / np.maximum(brightest, 1), colors)
    return colors.transpose(1, 2, 0)[::-1]


def assert_colors(got: SkyImage, *bands: np.ndarray, **settings: float) -> None:
    assert np.abs(np.asarray(got.image).astype(float) - lupton(*bands, **settings)).max() <= 1.001


def one_band(band: np.ndarray, **header: object) -> bytes:
    return fits_file(band, **header)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(fits_file(np.stack([G, R, I])), id="cube of three"),
        pytest.param(fits_file(np.stack(list(BANDS.values()))), id="cube of six"),
        pytest.param(fits_file(np.stack([I, R, G, BANDS["z"]]), BANDS="irgz"), id="BANDS in one word"),
        pytest.param(fits_file(np.stack([I, G, R]), BANDS="I, G, R"), id="BANDS as a list"),
        pytest.param(fits_file(np.stack([I, G, R]), BAND0="i", BAND1="g", BAND2="r"), id="BAND0"),
        pytest.param(
            fits_file(np.stack([I, G, R]), FILTER1="HSC-I", FILTER2="HSC-G", FILTER3="HSC-R"), id="FILTER1"
        ),
        pytest.param(fits_file(np.stack([G, R, I])[None]), id="a fourth axis of one"),
        pytest.param(fits_file(np.stack([G, R, I]).astype(">f8")), id="double precision"),
        pytest.param(fits_file(None, R, G, I, names=("R", "G", "I")), id="an extension a band"),
        pytest.param(fits_file(None, R, G, I, names=("HSC-R", "HSC-G", "HSC-I")), id="long names"),
        pytest.param(
            fits_file(None, R, R * 0, G, I, names=("SCI_R", "MASK_R", "SCI_G", "SCI_I")), id="with a mask"
        ),
    ],
)
def test_bands_become_colors(content: bytes) -> None:
    assert_colors(rgb_from_fits(content, DEFAULT), I, R, G)


def test_the_filter_keyword_names_a_band() -> None:
    units = [fits.PrimaryHDU(), *(fits.ImageHDU(band) for band in (G, R, I))]
    for unit, name in zip(units[1:], ("g DECam SDSS c0001", "r DECam", "i DECam"), strict=True):
        unit.header["FILTER"] = name
    buffer = io.BytesIO()
    fits.HDUList(units).writeto(buffer)
    assert_colors(rgb_from_fits(buffer.getvalue(), DEFAULT), I, R, G)


def test_compressed_extensions_are_read() -> None:
    images = [np.round(band * 10).astype(np.int16) for band in (G, R, I)]
    units = [fits.CompImageHDU(image, name=name) for image, name in zip(images, "gri", strict=True)]
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *units]).writeto(buffer)
    g, r, i = images
    assert_colors(rgb_from_fits(buffer.getvalue(), DEFAULT), i, r, g)


def test_a_single_band_is_gray_and_settings_are_used() -> None:
    settings = RgbSettings(stretch=2, q=3, minimum=1)
    got = rgb_from_fits(fits_file(R), settings)
    assert_colors(got, R - 1, R - 1, R - 1, stretch=2, q=3)
    pixels = np.asarray(got.image)
    assert (pixels == pixels[..., :1]).all()


def test_tall_images_are_made_of_strips_without_seams() -> None:
    tall = [np.random.default_rng(n).gamma(1, 40, (700, 9)).astype(np.float32) for n in range(3)]
    assert_colors(rgb_from_fits(fits_file(np.stack(tall)), DEFAULT), tall[2], tall[1], tall[0])


def test_a_file_a_band() -> None:
    files = {"g": one_band(G), "R": one_band(R), "i": one_band(I, **sky()), "z": b"not looked at"}
    got = rgb_from_bands(files, DEFAULT)
    assert_colors(got, I, R, G)
    assert got.pixel_scale == pytest.approx(0.2)
    assert (got.ra, got.dec) == pytest.approx((150, 2))


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({"g": one_band(G), "i": one_band(I)}, "missing_band"),
        ({}, "missing_band"),
        ({"g": one_band(G), "r": one_band(R[:50]), "i": one_band(I)}, "undecodable"),
        ({"g": one_band(G), "r": b"", "i": one_band(I)}, "undecodable"),
        ({"g": one_band(G), "r": one_band(R * np.inf), "i": one_band(I)}, "bad_pixels"),
    ],
)
def test_files_that_do_not_make_an_image(files: dict[str, bytes], status: str) -> None:
    with pytest.raises(UnreadableCutout) as caught:
        rgb_from_bands(files, DEFAULT)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("content", "status"),
    [
        pytest.param(fits_file(np.stack([G] * 4)), "missing_band", id="four planes without names"),
        pytest.param(fits_file(np.stack([G, R, I]), BANDS="grz"), "missing_band", id="no i"),
        pytest.param(fits_file(None), "undecodable", id="no image"),
        pytest.param(fits_file(G[0]), "undecodable", id="a line"),
        pytest.param(fits_file(np.zeros((2, 3, 8, 8))), "undecodable", id="four dimensions"),
        pytest.param(fits_file(np.zeros((3, 0, 8))), "undecodable", id="no pixels"),
        pytest.param(
            fits_file(np.zeros((1, 4097), np.uint8), NAXIS1=4097)[:2880], "undecodable", id="header"
        ),
        pytest.param(fits_file(np.zeros((4097, 4097), np.uint8)), "too_large", id="large"),
        pytest.param(fits_file(np.zeros((600, 300, 200), np.uint8)), "too_large", id="many planes"),
        pytest.param(b"SIMPLE  =" + b" " * 5000, "undecodable", id="a header of spaces"),
        pytest.param(b"SIMPLE  =                    T" + b"\xff" * 9000, "undecodable", id="no text"),
    ],
)
def test_files_that_are_no_cutout(content: bytes, status: str) -> None:
    assert read_cutout(content, (), 8)[:2] == (status, None)


def test_a_header_that_promises_too_much_takes_no_memory() -> None:
    content = bytearray(fits_file(np.zeros((10, 10), np.uint8)))
    for axis in (b"NAXIS1  =", b"NAXIS2  ="):
        start = content.index(axis)
        content[start : start + 30] = axis + b"%21d" % 30_000
    assert read_cutout(bytes(content), (), 8)[:2] == ("too_large", None)


def test_a_few_bad_pixels_become_black_and_one_percent_is_too_many() -> None:
    few, many = R.copy(), R.copy()
    few.flat[: few.size // 100 - 1] = np.nan
    many.flat[: many.size // 100 + 1] = -np.inf
    pixels = np.asarray(rgb_from_fits(fits_file(np.stack([G, few, I])), DEFAULT).image)
    # The first pixels of FITS are those of the last row here.
    assert (pixels[-1, :40] == 0).all()
    assert pixels[:-1].mean() > 20
    with pytest.raises(UnreadableCutout, match=r"bad_pixels: 1\.0% of the pixels are not finite"):
        rgb_from_fits(fits_file(np.stack([G, many, I])), DEFAULT)


def test_scale_and_position_come_from_the_wcs() -> None:
    got = rgb_from_fits(fits_file(np.stack([G, R, I]), **sky(0.396)), DEFAULT)
    assert got.pixel_scale == pytest.approx(0.396)
    assert (got.ra, got.dec) == pytest.approx((150, 2))
    # The extensions share the primary header's.
    content = fits_file(None, G, R, I, names=("g", "r", "i"), **sky(0.396))
    assert rgb_from_fits(content, DEFAULT).pixel_scale == pytest.approx(0.396)
    assert fits_position(content) == pytest.approx((150, 2))


def test_a_position_that_is_not_equatorial_is_not_taken_for_one() -> None:
    content = fits_file(R, **sky(galactic=True))
    assert fits_position(content) is None
    assert rgb_from_fits(content, DEFAULT).pixel_scale == pytest.approx(0.2)


@pytest.mark.parametrize(
    "content", [b"", b"SIMPLE  =", fits_file(R), fits_file(R, CTYPE1="RA---TAN"), fits_file(None)]
)
def test_no_position_is_none(content: bytes) -> None:
    assert fits_position(content) is None


def test_the_scale_of_the_wcs_serves_resampling_unless_the_shard_has_one() -> None:
    transforms = (EvalTransform(Preprocessing(40, 20, (0, 0, 0), (1, 1, 1))),)
    with_wcs, without = fits_file(R, **sky(0.2)), fits_file(R)
    status, (pixels,) = read_cutout(Cutout(with_wcs, None, 0.25), transforms, 40)[:2]
    _, (expected,) = read_cutout(Cutout(without, 0.2, 0.25), transforms, 40)[:2]
    assert status == "ok"
    assert np.array_equal(pixels, expected)
    assert read_cutout(Cutout(without, None, 0.25), transforms, 40)[:2] == ("no_scale", None)
    assert read_cutout(Cutout(with_wcs, 0.1, 0.25), transforms, 40)[:2] == ("too_small", None)
