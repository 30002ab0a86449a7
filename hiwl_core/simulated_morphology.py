"""What a simulated galaxy is like: its class and the shape, colors and brightness that go with it.

All quantities are drawn, none is measured. Classes come in the proportions of the clean sample of
Ma et al. (2023, MNRAS 519, 4765), and an ambiguous object is one whose shape lies between those of
two classes, so that people would not agree on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["CLASS_COUNTS", "Morphology", "draw_morphology"]

CLASS_COUNTS = {"CRS": 8434, "IBS": 8069, "CSS": 578, "EO": 3903, "SPI": 7806}
"""Galaxies of each class in the clean sample, 28,790 in all."""

PETROSIAN_R90_RANGE = (4.5, 25.0)


@dataclass(frozen=True)
class Morphology:
    """The intrinsic properties of a galaxy.

    Parameters
    ----------
    truth : str
        Class that it was drawn as.
    ambiguous : bool
        Whether its shape lies between the classes.
    petrosian_r90 : float
        Radius that holds 90 % of the Petrosian flux, arcsec; it sets the scale of the cutout.
    axis_ratio : float
        Apparent minor to major axis ratio of the main component.
    position_angle : float
        Of the major axis, radians from the x axis.
    sersic_index : float
        Of the spheroid or, in a disk galaxy, of its bulge.
    bulge_fraction : float
        Share of the light in the bulge; 1 for a galaxy that is all spheroid.
    surface_brightness : float
        Mean within the effective radius, in units of the sky noise of an SDSS pixel.
    redness : float
        Color of the spheroid or disk, 0 (blue, star forming) to 1 (red, old).
    arms : int
        Number of spiral arms; 0 if none.
    pitch_angle : float
        Of the arms, radians.
    arm_strength : float
        Contrast of the arms, 0 to 1.
    bar : bool
        Whether the disk has a bar.
    thickness : float
        Scale height to scale length of an edge-on disk.
    dust_lane : bool
        Whether an edge-on disk has one.
    """

    truth: str
    ambiguous: bool
    petrosian_r90: float
    axis_ratio: float
    position_angle: float
    sersic_index: float
    bulge_fraction: float
    surface_brightness: float
    redness: float
    arms: int = 0
    pitch_angle: float = 0.0
    arm_strength: float = 0.0
    bar: bool = False
    thickness: float = 0.0
    dust_lane: bool = False


def draw_morphology(rng: np.random.Generator, ambiguous_share: float) -> Morphology:
    """Draw a class in the real proportions, and a galaxy of that class.

    Parameters
    ----------
    rng : numpy.random.Generator
    ambiguous_share : float
        Probability, in [0, 1), of an object that lies between classes.

    Returns
    -------
    Morphology
    """
    counts = np.array(list(CLASS_COUNTS.values()), dtype=float)
    truth = str(rng.choice(list(CLASS_COUNTS), p=counts / counts.sum()))
    ambiguous = bool(rng.random() < ambiguous_share)
    low, high = PETROSIAN_R90_RANGE
    common: dict[str, Any] = {
        "petrosian_r90": float(np.clip(9.5 * math.exp(0.42 * rng.standard_normal()), low, high)),
        "position_angle": float(rng.uniform(0, math.pi)),
        # People disagree most about the faint ones.
        "surface_brightness": float((40 if ambiguous else 80) * math.exp(0.4 * rng.standard_normal())),
    }
    if truth == "SPI":
        return _draw_spiral(rng, ambiguous, common)
    if truth == "EO":
        return _draw_edge_on(rng, ambiguous, common)
    return _draw_smooth(rng, truth, ambiguous, common)


def _draw_smooth(rng: np.random.Generator, truth: str, ambiguous: bool, common: dict[str, Any]) -> Morphology:
    clean_range = {"CRS": (0.88, 1.0), "IBS": (0.45, 0.70), "CSS": (0.20, 0.35)}[truth]
    between = {"CRS": (0.72, 0.88), "IBS": (0.66, 0.80), "CSS": (0.34, 0.45)}[truth]
    indices = [1.0, 1.5, 2.0, 2.5] if truth == "CSS" else [1.5, 2.0, 2.5, 3.0, 3.5, 4.0]
    return Morphology(
        truth=truth,
        ambiguous=ambiguous,
        axis_ratio=float(rng.uniform(*(between if ambiguous else clean_range))),
        # In steps of one half: GalSim tabulates each new index, which costs more than a galaxy.
        sersic_index=float(rng.choice(indices)),
        bulge_fraction=1.0,
        redness=float(np.clip(rng.normal(0.8, 0.22), 0.1, 1.1)),
        **common,
    )


def _draw_edge_on(rng: np.random.Generator, ambiguous: bool, common: dict[str, Any]) -> Morphology:
    inclination = math.radians(rng.uniform(73, 80) if ambiguous else rng.uniform(84, 90))
    thickness = float(rng.uniform(0.10, 0.21))
    has_bulge = rng.random() < 0.65
    return Morphology(
        truth="EO",
        ambiguous=ambiguous,
        # Axis ratio of an oblate spheroid seen at inclination i (Hubble 1926, ApJ 64, 321).
        axis_ratio=math.sqrt(thickness**2 + (1 - thickness**2) * math.cos(inclination) ** 2),
        sersic_index=float(rng.choice([1.5, 2.0, 2.5])),
        bulge_fraction=float(rng.uniform(0.08, 0.32)) if has_bulge else 0.0,
        redness=float(np.clip(rng.normal(0.6, 0.25), 0.0, 1.0)),
        thickness=thickness,
        dust_lane=bool(rng.random() < 0.35),
        **common,
    )


def _draw_spiral(rng: np.random.Generator, ambiguous: bool, common: dict[str, Any]) -> Morphology:
    return Morphology(
        truth="SPI",
        ambiguous=ambiguous,
        axis_ratio=float(rng.uniform(0.38, 0.98)),
        sersic_index=float(rng.choice([1.5, 2.0, 2.5])),
        bulge_fraction=float(rng.uniform(0.05, 0.30)),
        redness=float(np.clip(rng.normal(0.55, 0.18), 0.0, 0.9)),
        arms=int(rng.choice([1, 2, 3, 4], p=[0.05, 0.65, 0.18, 0.12])),
        pitch_angle=math.radians(rng.uniform(10, 28)) * (1 if rng.random() < 0.5 else -1),
        arm_strength=float(rng.uniform(0.04, 0.14) if ambiguous else rng.uniform(0.45, 0.85)),
        bar=bool(rng.random() < 0.35),
        **common,
    )
