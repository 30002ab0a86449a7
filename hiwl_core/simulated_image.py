"""Pictures of simulated galaxies: GalSim profiles, seen through an SDSS-like atmosphere and camera.

A galaxy is a sum of a few components (bulge, disk, arms, dust), each drawn once and colored by three weights;
GalSim (Rowe et al. 2015, Astronomy and Computing 10, 121) draws the profiles convolved with a Moffat
point-spread function. Neighbors and sky noise are added, and the three bands become one composite with the
asinh stretch of Lupton et al. (2004, PASP 116, 133). As in Galaxy Zoo, the scale of a cutout follows the size
of its galaxy: 424 pixels of 0.02 petroR90 (Willett et al. 2013, MNRAS 435, 2835, section 2).
"""

from __future__ import annotations

import functools
import io
import math
from typing import Any

import numpy as np
from PIL import Image

from hiwl_core.errors import if_missing
from hiwl_core.simulated_morphology import Morphology

__all__ = ["FRAME_R90", "encode_image", "pixel_scale", "render_bands", "require_galsim"]

FRAME_R90 = 424 * 0.02
"""Side of a cutout in units of its galaxy's Petrosian R90."""

CAMERA_SCALE = 0.396  # arcsec/pixel of the SDSS camera
# Weights of the composite's red, green and blue (bands i, r, g) for the youngest and the oldest stars.
BLUE_WEIGHTS = np.array([0.92, 1.0, 1.12], dtype=np.float32)
RED_WEIGHTS = np.array([1.24, 1.0, 0.66], dtype=np.float32)
BAND_NOISE = np.array([1.15, 0.85, 0.9], dtype=np.float32)

# Lupton et al. (2004): softening, counts of the composite per unit of sky noise, and the black level.
SOFTENING = 5.5
STRETCH = 0.0240
BLACK_LEVEL = -0.7
JPEG_QUALITY = 90


def require_galsim() -> Any:
    """The galsim module.

    Raises
    ------
    UserError
        If GalSim is not installed.
    """
    with if_missing("simulating galaxies needs GalSim: pip install 'hiwl[simulate]'"):
        import galsim
    return galsim


def pixel_scale(galaxy: Morphology, size: int) -> float:
    """Arcsec per pixel of a cutout of `size` pixels a side."""
    return FRAME_R90 * galaxy.petrosian_r90 / size


def render_bands(rng: np.random.Generator, galaxy: Morphology, size: int) -> np.ndarray:
    """Draw a galaxy with its neighbors and sky noise.

    Parameters
    ----------
    rng : numpy.random.Generator
    galaxy : Morphology
    size : int
        Side of the wanted cutout, pixels. A cutout that is finer than the camera's pixels is drawn at the
        camera's scale, to be resampled like a real one.

    Returns
    -------
    numpy.ndarray of float32, shape (3, n, n)
        Surface brightness in bands i, r, g, in units of the sky noise of an SDSS pixel.
    """
    galsim = require_galsim()
    side = FRAME_R90 * galaxy.petrosian_r90
    pixels = min(math.ceil(side / CAMERA_SCALE), max(size, 128))
    scale = side / pixels
    psf = _psf(round(float(rng.uniform(1.15, 1.45)), 1))
    bands = np.zeros((3, pixels, pixels), dtype=np.float32)
    for weights, image in _components(galsim, rng, galaxy, psf, pixels, scale):
        bands += weights[:, None, None] * image
    _add_neighbors(galsim, rng, bands, psf, scale)
    noise = rng.standard_normal(bands.shape, dtype=np.float32)
    # A larger pixel gathers more light: its surface brightness is known better.
    bands += noise * (BAND_NOISE * np.float32(CAMERA_SCALE / scale))[:, None, None]
    return bands


def encode_image(bands: np.ndarray, size: int) -> bytes:
    """A color composite of three bands.

    The mean of the bands is compressed by asinh(Q s I) / Q and the colors are kept, also where a band would
    exceed the range (Lupton et al. 2004, equations 1 and 2).

    Parameters
    ----------
    bands : numpy.ndarray of float32, shape (3, n, n)
        Bands i, r, g, in units of the sky noise.
    size : int
        Side of the picture, pixels.

    Returns
    -------
    bytes
        JPEG, `size` by `size`.
    """
    light = np.maximum(bands - BLACK_LEVEL, 0)
    mean = light.mean(axis=0) + 1e-6
    rgb = light * (np.arcsinh(SOFTENING * STRETCH * mean) / (SOFTENING * mean))
    rgb /= np.maximum(rgb.max(axis=0), 1.0)
    image = Image.fromarray((255 * rgb).astype(np.uint8).transpose(1, 2, 0))
    if image.width != size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _color(redness: float) -> np.ndarray:
    return BLUE_WEIGHTS + np.float32(redness) * (RED_WEIGHTS - BLUE_WEIGHTS)


@functools.cache
def _accuracy() -> Any:
    """GalSim's tolerances: a picture of 8 bits needs less than a shear measurement does."""
    return require_galsim().GSParams(folding_threshold=2e-2, maxk_threshold=2e-2)


@functools.lru_cache(maxsize=16)
def _psf(fwhm: float) -> Any:
    """A Moffat profile of a full width at half maximum in arcsec; kept, since its transform is tabulated."""
    return require_galsim().Moffat(beta=3.5, fwhm=fwhm, gsparams=_accuracy())


def _components(
    galsim: Any, rng: np.random.Generator, galaxy: Morphology, psf: Any, pixels: int, scale: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Color weights, shape (3,), and surface brightness, shape (n, n), of each component."""
    # R90 is some 2.3 effective radii for both kinds of profile (Graham et al. 2005, AJ 130, 1535).
    # SDSS measures it in round apertures: the major axis of an elongated galaxy is longer than that.
    radius = galaxy.petrosian_r90 / 2.3 * max(galaxy.axis_ratio, 0.45) ** -0.45
    angle = galaxy.position_angle * galsim.radians
    # Seen edge-on, a transparent disk is brighter by its path length; dust keeps it from being all of that.
    flux = 2 * math.pi * radius**2 * max(galaxy.axis_ratio, 0.3) * galaxy.surface_brightness

    def draw(profile: Any, share: float) -> np.ndarray:
        image = galsim.ImageF(pixels, pixels, scale=scale)
        galsim.Convolve(profile, psf, gsparams=_accuracy()).drawImage(image, method="sb", dtype=np.float32)
        return np.asarray(image.array * np.float32(share * flux))

    def spheroid(index: float, effective_radius: float, axis_ratio: float) -> Any:
        # Dividing by the root keeps the given radius on the major axis.
        circle = galsim.Sersic(
            index, half_light_radius=effective_radius * math.sqrt(axis_ratio), gsparams=_accuracy()
        )
        return circle.shear(q=axis_ratio, beta=angle)

    disk_color, bulge_color = _color(galaxy.redness), _color(min(1.0, galaxy.redness + 0.35))
    if galaxy.truth not in ("EO", "SPI"):
        return [(disk_color, draw(spheroid(galaxy.sersic_index, radius, galaxy.axis_ratio), 1.0))]
    components = []
    disk_share = 1 - galaxy.bulge_fraction
    if galaxy.bulge_fraction > 0:
        edge_on = galaxy.truth == "EO"
        bulge = spheroid(galaxy.sersic_index, radius * (0.28 if edge_on else 0.22), 0.7 if edge_on else 0.9)
        components.append((bulge_color, draw(bulge, galaxy.bulge_fraction)))
    if galaxy.truth == "EO":
        cosine = math.sqrt(max(galaxy.axis_ratio**2 - galaxy.thickness**2, 0) / (1 - galaxy.thickness**2))
        for thickness, share, color in _edge_on_layers(galaxy, disk_share, disk_color):
            disk = galsim.InclinedExponential(
                math.acos(cosine) * galsim.radians,
                scale_radius=radius / 1.678,
                scale_h_over_r=thickness,
                gsparams=_accuracy(),
            )
            components.append((color, draw(disk.rotate(angle), share)))
        return components
    disk = galsim.Exponential(half_light_radius=radius * math.sqrt(galaxy.axis_ratio), gsparams=_accuracy())
    arm_share = disk_share * galaxy.arm_strength
    components.append((disk_color, draw(disk.shear(q=galaxy.axis_ratio, beta=angle), disk_share - arm_share)))
    arms = _draw_arms(rng, galaxy, psf, pixels, scale, radius / 1.678)
    components.append((_color(galaxy.redness - 0.3), arms * np.float32(arm_share * flux)))
    return components


def _edge_on_layers(
    galaxy: Morphology, share: float, color: np.ndarray
) -> list[tuple[float, float, np.ndarray]]:
    """Thickness, flux and color of the disk and of its dust: negative light, and most so in blue."""
    layers = [(galaxy.thickness, share, color)]
    if galaxy.dust_lane:
        extinction = np.array([0.7, 1.0, 1.25], dtype=np.float32)
        layers.append((0.3 * galaxy.thickness, -0.15 * share, extinction * color))
    return layers


def _draw_arms(
    rng: np.random.Generator, galaxy: Morphology, psf: Any, pixels: int, scale: float, scale_length: float
) -> np.ndarray:
    """Surface brightness, shape (n, n), of logarithmic arms (and a bar) of unit flux on an inclined disk."""
    # Arms end well inside the frame, and half of it costs a quarter.
    inner = pixels // 2
    offset = (pixels - inner) // 2
    axis = (np.arange(inner, dtype=np.float32) + offset - (pixels - 1) / 2) * scale
    cosine, sine = math.cos(galaxy.position_angle), math.sin(galaxy.position_angle)
    x = (axis * cosine + axis[:, None] * sine) / scale_length
    y = (axis[:, None] * cosine - axis * sine) / (galaxy.axis_ratio * scale_length)
    turn = rng.uniform(0, 2 * math.pi)
    x, y = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    radius = np.hypot(x, y) + 1e-3
    start = 0.9 if galaxy.bar else 0.45
    phase = galaxy.arms * (np.arctan2(y, x) - np.log(radius / start) / math.tan(galaxy.pitch_angle))
    ridge = np.exp(-(1 - np.cos(phase)) * (1.9 if galaxy.arms > 2 else 2.6))
    # Arms fade in where the bulge or the bar ends, and out where the stars do.
    light = ridge * np.exp(-radius / 1.25) / ((1 + (start / radius) ** 6) * (1 + (radius / 4.2) ** 8))
    knots = Image.fromarray(rng.gamma(2.0, 0.5, (24, 24)).astype(np.float32))
    light *= 0.35 + np.asarray(knots.resize((inner, inner), Image.Resampling.BICUBIC))
    light = np.maximum(light, 0)
    if galaxy.bar:
        # The arms leave from the ends of the bar: it points where their phase is zero at the start radius.
        bar = np.exp(-0.5 * ((x / (0.55 * start)) ** 4 + (y / 0.2) ** 2))
        light += bar * np.float32(0.5 * light.sum() / bar.sum())
    kernel = psf.drawImage(nx=inner, ny=inner, scale=scale, method="no_pixel").array
    transform = np.fft.rfft2(light) * np.fft.rfft2(np.fft.ifftshift(kernel))
    blurred = np.fft.irfft2(transform, s=light.shape)
    image = np.zeros((pixels, pixels), dtype=np.float32)
    image[offset : offset + inner, offset : offset + inner] = blurred / (blurred.sum() * scale**2)
    return image


def _add_neighbors(galsim: Any, rng: np.random.Generator, bands: np.ndarray, psf: Any, scale: float) -> None:
    """Add stars and faint galaxies to the bands, in place; most are near the limit of what can be seen."""
    pixels = bands.shape[-1]
    expected = 3.5 * (pixels * scale / 60) ** 2  # that many a square arcmin
    for _ in range(min(int(rng.poisson(expected)), 20)):
        column, row = rng.uniform(0, pixels, 2)
        star = rng.random() < 0.5
        # Bright neighbors are stars: a galaxy as bright as that would be the target of its own cutout.
        peak = min(4 + 6 * float(rng.pareto(0.9)), 3000.0 if star else 60.0)
        profile = psf
        if not star:
            tilt = rng.uniform(0, math.pi) * galsim.radians
            profile = psf.dilate(rng.uniform(1.2, 2.0)).shear(q=rng.uniform(0.4, 1), beta=tilt)
        weights = _color(float(rng.uniform(-0.6, 2.0) if star else rng.uniform(0.1, 1.2)))
        # Real light has wings; a stamp ends where they sink in the noise.
        half = int(min(4 + 2.5 * peak**0.3, 30) * 0.8 / scale) + 2
        left, low = int(column) - half, int(row) - half
        stamp = galsim.ImageF(galsim.BoundsI(left, left + 2 * half, low, low + 2 * half), scale=scale)
        profile.drawImage(stamp, center=galsim.PositionD(column, row), method="no_pixel", dtype=np.float32)
        part = stamp.bounds & galsim.BoundsI(0, pixels - 1, 0, pixels - 1)
        light = stamp[part].array * np.float32(peak / stamp.array.max())
        area = np.s_[:, part.ymin : part.ymax + 1, part.xmin : part.xmax + 1]
        bands[area] += np.maximum(weights, 0.05)[:, None, None] * light
