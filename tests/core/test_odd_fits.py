"""FITS files as surveys and their users write them, not to the letter of any standard."""

import bz2
import gzip
import io
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from astropy.io import fits

from hiwl_core import compressed
from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout
from hiwl_core.decoding import Cutout, decode_image
from hiwl_core.fits_cutouts import fits_position, rgb_from_bands, rgb_from_fits
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import STATUSES, UnreadableCutout
from tests.broken_inputs import fits_file

DEFAULT = RgbSettings()
G, R, I = np.random.default_rng(8).gamma(1.0, 4.0, (3, 40, 40)).astype(np.float32)  # noqa: E741
CUBE = np.stack([G, R, I])
EXPECTED = np.asarray(rgb_from_fits(fits_file(CUBE), DEFAULT).image)
GRAY = np.asarray(rgb_from_fits(fits_file(R), DEFAULT).image)
WCS_CARDS = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CRPIX1": 20.5,
    "CRPIX2": 20.5,
    "CD1_1": -1e-4,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": 1e-4,
}
SEEN = (EvalTransform(Preprocessing(20, 20, (0, 0, 0), (1, 1, 1))),)
"""A network that sees the central 20 of 40 pixels."""


def with_cards(content: bytes, *cards: str) -> bytes:
    """A FITS file with further header lines, which need not be valid."""
    end = content.index(b"END" + b" " * 77)
    lines = "".join(f"{card:<80}" for card in cards).encode()
    header = content[:end] + lines + b"END" + b" " * 77
    return header.ljust(-(-len(header) // 2880) * 2880) + content[2880:]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param({"CUNIT1": "degree", "CUNIT2": "degree"}, id="degree"),
        pytest.param({"CUNIT1": "degrees", "CUNIT2": "Degrees"}, id="degrees"),
        pytest.param({"WCSAXES": 3}, id="three axes"),
        pytest.param({"CTYPE3": "WAVE", "CRVAL3": 1.0, "CRPIX3": 1.0}, id="a third without CD3_3"),
        pytest.param({"WCSAXES": 3, "CTYPE3": "", "CRPIX3": 1.0}, id="a third without a type"),
        pytest.param({"RADECSYS": "FK5", "EQUINOX": 2000.0}, id="RADECSYS"),
        pytest.param({"DATE-OBS": "31/12/99", "MJD-OBS": "unknown"}, id="dates"),
    ],
)
@pytest.mark.parametrize("pixels", [R, CUBE], ids=["image", "cube"])
def test_a_wcs_not_to_the_letter_gives_position_and_scale(pixels: np.ndarray, odd: dict[str, object]) -> None:
    content = fits_file(pixels, **WCS_CARDS, **odd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sky = rgb_from_fits(content, DEFAULT)
        position = fits_position(content)
    assert (sky.ra, sky.dec) == pytest.approx((150.0, 2.0))
    assert position == pytest.approx((150.0, 2.0))
    assert sky.pixel_scale == pytest.approx(0.36)


def test_a_negative_right_ascension_is_one_of_the_other_convention() -> None:
    content = fits_file(R, **WCS_CARDS | {"CRVAL1": -10.0})
    assert fits_position(content) == pytest.approx((350.0, 2.0))
    assert rgb_from_fits(content, DEFAULT).ra == pytest.approx(350.0)


def hole(plane: np.ndarray, fill: float, rows: slice) -> np.ndarray:
    plane = plane.copy()
    plane[rows] = fill
    return plane


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.dtype(">f8")])
def test_a_band_that_is_not_there_is_missing(kind: type) -> None:
    for fill in (0, -9999):
        content = fits_file(np.stack([G, R * 0 + fill, I]).astype(kind))
        assert read_cutout(content, SEEN, 20)[:2] == ("missing_band", None)
    assert read_cutout(fits_file((R * 0).astype(kind)), SEEN, 20)[:2] == ("missing_band", None)


@pytest.mark.parametrize("fill", [0.0, -9999.0, -99.0, -1.6375e30])
def test_what_was_not_observed_counts_where_the_network_looks(fill: float) -> None:
    half, strip, corner = slice(0, 20), slice(9, 11), slice(0, 10)
    files = [fits_file(np.stack([G, hole(R, fill, rows), I])) for rows in (half, strip, corner)]
    got = [read_cutout(content, SEEN, 20) for content in files]
    if fill < -1e29:  # not a number of any band: as NaN
        assert got[0].status == "bad_pixels"
        return
    assert [one.status for one in got] == ["bad_pixels", "ok", "ok"]
    assert got[2].unobserved == 0.0
    assert got[1].unobserved == pytest.approx(0.05 if fill == -9999 else 0.0)
    # At twice the scale the network sees all of it.
    wide = read_cutout(Cutout(files[2], 1.0, 2.0), SEEN, 20)
    assert wide.status == "bad_pixels"


def test_pictures_and_noise_have_no_holes() -> None:
    black = np.zeros((3, 40, 40), np.uint8)
    assert read_cutout(fits_file(black), SEEN, 20)[::3] == ("ok", 0.0)
    counts = np.random.default_rng(1).poisson(0.5, (3, 40, 40)).astype(np.int16)
    assert read_cutout(fits_file(counts), SEEN, 20)[::3] == ("ok", 0.0)


PACKED: list[Callable[[bytes], bytes]] = [
    gzip.compress,
    bz2.compress,
    lambda content: gzip.compress(content[:3000]) + gzip.compress(content[3000:]) + bytes(512),
]


@pytest.mark.parametrize("pack", PACKED, ids=["gz", "bz2", "two gz"])
def test_packed_files_are_read(pack: Callable[[bytes], bytes]) -> None:
    content = pack(fits_file(CUBE, **WCS_CARDS))
    decoded = decode_image(content)
    assert np.array_equal(np.asarray(decoded.image), EXPECTED)
    assert decoded.pixel_scale == pytest.approx(0.36)
    assert fits_position(content) == pytest.approx((150.0, 2.0))
    bands = {name: pack(fits_file(plane)) for name, plane in zip("gri", CUBE, strict=True)}
    assert np.array_equal(np.asarray(rgb_from_bands(bands, DEFAULT).image), EXPECTED)


def test_packed_files_are_bounded_and_damage_is_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    content = fits_file(CUBE)
    packed = gzip.compress(content)
    assert read_cutout(packed[:-2000], (), 8)[:2] == ("undecodable", None)
    assert read_cutout(packed[:40] + b"\xff" * 40 + packed[80:], (), 8)[:2] == ("undecodable", None)
    assert read_cutout(b"\x1f\x8b", (), 8)[:2] == ("undecodable", None)
    assert read_cutout(b"BZh9" + bytes(40), (), 8)[:2] == ("undecodable", None)
    monkeypatch.setattr(compressed, "MAX_BYTES", len(content) - 1)
    for bomb in (
        packed,
        bz2.compress(content),
        gzip.compress(content[:5000]) + gzip.compress(content[5000:]),
    ):
        assert read_cutout(bomb, (), 8)[:2] == ("too_large", None)


@pytest.mark.parametrize(
    "line",
    [
        "SKYBKG  = nan",
        "GAIN    = 1,23",
        "DATE    = 2020-01-01",
        "AIRMASS =                  inf",
        "SKYBKG  =   1.0E",
        "OBJECT  = 'unclosed",
        "BANDX   = \x7f\x01",
    ],
)
def test_a_bad_card_that_nobody_needs_costs_nothing(line: str) -> None:
    content = with_cards(fits_file(CUBE, **WCS_CARDS), line)
    sky = rgb_from_fits(content, DEFAULT)
    assert np.array_equal(np.asarray(sky.image), EXPECTED)
    assert (sky.ra, sky.dec) == pytest.approx((150.0, 2.0))
    assert fits_position(content) == pytest.approx((150.0, 2.0))


@pytest.mark.parametrize(
    "name",
    ["WHT", "CTX", "CON", "RMS", "COVERAGE", "BKG", "FLAG", "EXP", "MASK", "VAR", "WHT_G", "IVAR2", "FOO"],
)
def test_companions_are_no_bands(name: str) -> None:
    other = np.ones((40, 40), np.float32)
    single = rgb_from_fits(fits_file(None, R, other, names=("SCI", name)), DEFAULT)
    assert np.array_equal(np.asarray(single.image), GRAY)
    cube = rgb_from_fits(fits_file(CUBE, other[:8], names=(name,)), DEFAULT)
    assert np.array_equal(np.asarray(cube.image), EXPECTED)
    bands = rgb_from_fits(
        fits_file(None, G, other, R, I, other[0], names=("G", name, "R", "I", "X")), DEFAULT
    )
    assert np.array_equal(np.asarray(bands.image), EXPECTED)


def test_a_band_beside_another_is_not_taken_for_the_only_one() -> None:
    for names in (("G", "Z"), ("U", "Z"), ("SCI_U", "SCI_Z")):
        with pytest.raises(UnreadableCutout, match="missing_band"):
            rgb_from_fits(fits_file(None, G, R, names=names), DEFAULT)


def test_damaged_numbers_cost_no_words_on_the_terminal() -> None:
    damaged = R.copy()
    # A signaling NaN, as a flipped bit makes it.
    damaged.view(np.uint32)[3, 3] = 0x7FA00000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_cutout(fits_file(np.stack([G, damaged, I])), SEEN, 20)[0] == "ok"


def test_rows_in_are_rows_out() -> None:
    """Whatever becomes of an image, it has a status that the catalog knows."""
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([])]).writeto(buffer)
    contents = [buffer.getvalue(), gzip.compress(b""), fits_file(R * 0), fits_file(CUBE)]
    found = [read_cutout(content, SEEN, 20)[0] for content in contents]
    assert len(found) == len(contents)
    assert found == ["undecodable", "undecodable", "missing_band", "ok"]
    assert set(found) <= set(STATUSES)


@pytest.mark.parametrize(
    ("keyword", "claim"), [("NAXIS", 2 * 10**9), ("TFIELDS", 2 * 10**9), ("GCOUNT", -1), ("NAXIS1", -2880)]
)
def test_headers_that_claim_nonsense_cost_no_time(keyword: str, claim: int) -> None:
    """astropy would look for the keywords of each axis and column, or find image after image in one place."""
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(R)]).writeto(buffer)
    content = buffer.getvalue()
    place = content.rindex(f"{keyword:<8}=".encode())
    card = f"{keyword:<8}= {claim:>20}".ljust(80).encode()
    started = time.process_time()
    assert read_cutout(content[:place] + card + content[place + 80 :], SEEN, 20)[0] == "undecodable"
    assert time.process_time() - started < 2


def test_a_cube_of_a_thousand_planes_is_none_of_bands() -> None:
    started = time.process_time()
    for shape in ((1000, 20, 20), (200_000, 1, 2)):
        assert read_cutout(fits_file(np.ones(shape, np.uint8)), SEEN, 20)[0] == "undecodable"
    assert time.process_time() - started < 2
