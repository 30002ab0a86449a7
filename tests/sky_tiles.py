"""A small survey: noise and round sources at known places on the sky, in tiles of several bands."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

__all__ = ["sky_wcs", "source_image", "write_rubin_tile", "write_tile"]

SCALE = 0.2
"""arcsec/pixel."""
WIDTH = 2.0
"""Standard deviation of a source, in arcsec."""


def sky_wcs(
    ra: float, dec: float, shape: tuple[int, int], turn: float = 0.0, scale: float = SCALE, shift: int = 0
) -> WCS:
    """A tangential projection about a place, which is `shift` pixels left of the tile's middle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2 - shift, (shape[0] + 1) / 2]
    angle = np.radians(turn)
    wcs.wcs.cd = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * scale / 3600
    return wcs


def source_image(
    wcs: WCS, shape: tuple[int, int], sources: Sequence[tuple[float, float]], peak: float = 10.0
) -> np.ndarray:
    """Round sources of one brightness at places (ra, dec), in the unit of a tile, float32."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    scale = np.sqrt(abs(np.linalg.det(wcs.wcs.cd))) * 3600
    image = np.zeros(shape)
    for x, y in wcs.all_world2pix(np.array(sources).reshape(-1, 2), 0):
        image += peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) * (scale / WIDTH) ** 2 / 2)
    return image.astype(np.float32)


def write_tile(
    path: Path, wcs: WCS, image: np.ndarray, compressed: bool = False, **cards: str | int | float
) -> None:
    """A FITS file of one image, packed as its name says."""
    header = wcs.to_header()
    header.update(cards)
    unit = fits.CompImageHDU(image, header) if compressed else fits.PrimaryHDU(image, header)
    units = fits.HDUList([fits.PrimaryHDU(), unit] if compressed else [unit])
    path.parent.mkdir(parents=True, exist_ok=True)
    units.writeto(path.with_suffix("") if path.suffix == ".gz" else path)
    if path.suffix == ".gz":
        plain = path.with_suffix("")
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()


def write_rubin_tile(
    path: Path, wcs: WCS, image: np.ndarray, mask: np.ndarray, variance: np.ndarray, planes: Mapping[str, int]
) -> None:
    """As Rubin's pipelines write a coadd: extensions IMAGE, MASK and VARIANCE, the mask's planes named."""
    header = wcs.to_header()
    flags = fits.ImageHDU(mask.astype(np.int32), header, name="MASK")
    flags.header.update({f"HIERARCH MP_{name}": bit for name, bit in planes.items()})
    units = [
        fits.PrimaryHDU(),
        fits.ImageHDU(image, header, name="IMAGE"),
        flags,
        fits.ImageHDU(variance, header, name="VARIANCE"),
    ]
    fits.HDUList(units).writeto(path)
