"""Plain FITS files are read without astropy, and are what astropy makes of them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from hiwl_core.fits_cutouts import SkyImage, fits_position, rgb_from_fits
from hiwl_core.plain_fits import plain_images, tangential_sky
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import UnreadableCutout

RGB = RgbSettings(stretch=0.7, q=4)
TAN: dict[str, Any] = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.123456,
    "CRVAL2": 2.2,
    "CRPIX1": 12.25,
    "CRPIX2": 9,
}
STEPS: dict[str, Any] = {"CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600}
CD: dict[str, Any] = {"CD1_1": -5e-5, "CD1_2": 1e-5, "CD2_1": 1.1e-5, "CD2_2": 5.3e-5}
SKIES: dict[str, tuple[dict[str, Any], bool]] = {
    "steps": ({**TAN, **STEPS}, True),
    "matrix": ({**TAN, **CD, "RADESYS": "ICRS", "EQUINOX": 2000.0}, True),
    "half a matrix": ({**TAN, "CD1_1": -5e-5, "CD2_2": 5e-5, "CUNIT1": "deg", "CUNIT2": "deg"}, True),
    "steps and PC": ({**TAN, **STEPS, "PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8}, True),
    "west of 0": ({**TAN, **STEPS, "CRVAL1": -0.0001}, True),
    "near the pole": ({**TAN, **CD, "CRVAL2": -89.9999}, True),
    "far from the reference": ({**TAN, **CD, "CRPIX1": 40000.5, "CRPIX2": -30000.0}, True),
    "both": ({**TAN, **CD, **STEPS}, False),
    "turned": ({**TAN, **STEPS, "CROTA2": 30.0}, False),
    "pole": ({**TAN, **STEPS, "CRVAL2": 90.0}, False),
    "LONPOLE": ({**TAN, **STEPS, "LONPOLE": 170.0}, False),
    "declination first": ({**TAN, **STEPS, "CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN"}, False),
    "sine": ({**TAN, **STEPS, "CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"}, False),
    "degrees": ({**TAN, **STEPS, "CUNIT1": "degrees", "CUNIT2": "degrees"}, False),
    "arcsec": ({**TAN, "CUNIT1": "arcsec", "CUNIT2": "arcsec", "CDELT1": -0.2, "CDELT2": 0.2}, False),
    "galactic": ({**TAN, **STEPS, "CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, False),
    "three axes": ({**TAN, **STEPS, "WCSAXES": 3, "CTYPE3": "BAND", "CRVAL3": 1, "CRPIX3": 1}, False),
    "distorted": ({**TAN, **CD, "CTYPE1": "RA---TAN-SIP", "A_ORDER": 2, "A_2_0": 1e-6}, False),
    "no step": ({**TAN, "CDELT1": 0.0, "CDELT2": 0.0}, False),
    "nothing of the scale": (TAN, False),
    "no sky": ({}, False),
}


def image(seed: int, shape: tuple[int, ...] = (3, 20, 24), kind: str = ">f4") -> np.ndarray:
    return (np.random.default_rng(seed).gamma(1.0, 1.0, shape) * (100 if kind[1] == "i" else 1)).astype(kind)


def file_of(*units: fits.PrimaryHDU | fits.ImageHDU) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(units)).writeto(buffer)
    return buffer.getvalue()


def by_astropy(content: bytes) -> bytes:
    """The same file with a card that no plain file has."""
    with fits.open(io.BytesIO(content), do_not_scale_image_data=True) as units:
        units[0].header["HIERARCH nothing of interest"] = 1
        buffer = io.BytesIO()
        units.writeto(buffer)
    assert plain_images(buffer.getvalue()) is None
    return buffer.getvalue()


def outcome(content: bytes, rgb: RgbSettings = RGB) -> SkyImage | str:
    try:
        return rgb_from_fits(content, rgb)
    except UnreadableCutout as error:
        return str(error)


def check_same(content: bytes, rgb: RgbSettings = RGB) -> None:
    plain, full = outcome(content, rgb), outcome(by_astropy(content), rgb)
    if isinstance(plain, str) or isinstance(full, str):
        assert plain == full
        return
    np.testing.assert_array_equal(np.asarray(plain.image), np.asarray(full.image))
    for name in ("pixel_scale", "ra", "dec"):
        one, other = getattr(plain, name), getattr(full, name)
        assert (one is None) == (other is None)
        assert one is None or one == pytest.approx(other, rel=1e-12, abs=1e-12)
    assert (plain.unobserved is None) == (full.unobserved is None)
    position = fits_position(by_astropy(content))
    close = None if position is None else pytest.approx(position, rel=1e-12, abs=1e-12)
    assert fits_position(content) == close


@pytest.mark.parametrize("name", list(SKIES))
def test_a_sky_is_that_of_astropy(name: str) -> None:
    cards, quick = SKIES[name]
    unit = fits.PrimaryHDU(image(1))
    unit.header.update(cards)
    content = file_of(unit)
    images = plain_images(content)
    assert images is not None
    assert (tangential_sky(images[0].header, (20, 24)) is not None) == quick
    check_same(content)


@pytest.mark.parametrize("kind", ["u1", ">i2", ">i4", ">i8", ">f4", ">f8"])
def test_pixels_of_each_type(kind: str) -> None:
    pixels = image(2, kind=kind)
    if kind[1] != "1":
        pixels[0, :6, :7] = -9999
    content = file_of(fits.PrimaryHDU(pixels))
    assert plain_images(content) is not None
    check_same(content)
    check_same(content, RgbSettings(stretch=30, minimum=0.3))


def test_bands_by_any_name() -> None:
    first = fits.PrimaryHDU()
    first.header["FILTER"] = "nothing''s here / really"
    first.header["COMMENT"] = "some = words"
    extensions = [fits.ImageHDU(image(number, (20, 24)), name=name) for number, name in enumerate("RGIZ")]
    extensions[2].header["EXTNAME"] = "HSC-I"
    extensions[3].header["BAND"] = "i"
    extensions.append(fits.ImageHDU(np.zeros((5, 5)), name="WHT"))
    content = file_of(first, *extensions)
    assert plain_images(content) is not None
    check_same(content)
    for cards in ({"BANDS": "grz"}, {"BAND0": "r", "BAND1": "i", "BAND2": "g"}, {"FILTER1": 1, "FILTER2": 2}):
        unit = fits.PrimaryHDU(image(4))
        unit.header.update(cards)
        check_same(file_of(unit))
    check_same(file_of(fits.PrimaryHDU(image(4, (20, 24)))))
    check_same(file_of(fits.PrimaryHDU(image(4, (1, 3, 20, 24)))))
    check_same(file_of(fits.PrimaryHDU(image(4, (2, 3, 20, 24)))))


def test_what_is_not_plain_is_for_astropy() -> None:
    scaled = fits.PrimaryHDU(image(1, kind=">i2"))
    scaled.header["BZERO"], scaled.header["BSCALE"] = 10.0, 0.5
    whole = file_of(fits.PrimaryHDU(image(1)))
    packed = file_of(fits.PrimaryHDU(), fits.CompImageHDU(image(1, (20, 24)), name="g"))
    table = file_of(
        fits.PrimaryHDU(image(1)), fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])])
    )
    others = {
        "scaled": file_of(scaled),
        "packed": packed,
        "a table": table,
        "cut off": whole[:-2880],
        "cut off in the padding": whole[:-1],
        "more behind": whole + b"x",
        "twice": whole.replace(b"EXTEND  =                    T", b"BITPIX  =                  -32"),
        "no number": whole.replace(b"NAXIS1  =                   24", b"NAXIS1  =                   2x"),
        "negative": whole.replace(b"NAXIS1  =                   24", b"NAXIS1  =                  -24"),
        "huge": whole.replace(b"NAXIS1  =                   24", b"NAXIS1  = 99999999999999999999"),
        "no end": whole[:2880].replace(b"END", b"EN "),
        "not ASCII": whole.replace(b"EXTEND", b"EXT\xff\xfeD"),
        "nothing": b"SIMPLE  =",
    }
    for name, content in others.items():
        assert plain_images(content) is None, name


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e35, -9999.0, 0.0])
def test_holes(value: float) -> None:
    for width in (1, 6, 15, 24):
        pixels = image(3)
        pixels[1, :10, :width] = value
        check_same(file_of(fits.PrimaryHDU(pixels)))
