"""Simulated galaxies: pictures, positions and votes that look like Galaxy Zoo's, for demos, tests and load.

An object is a function of the seed and its own number alone: the same whatever the count of objects, the
size of a shard, or the worker that makes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hiwl_core.errors import UserError
from hiwl_core.simulated_image import encode_image, pixel_scale, render_bands
from hiwl_core.simulated_morphology import Morphology, draw_morphology
from hiwl_core.simulated_votes import draw_votes

__all__ = [
    "MIN_SIZE",
    "SimulatedGalaxy",
    "SimulatedObject",
    "check_simulation",
    "describe_object",
    "object_id",
    "simulate_galaxy",
]

MIN_SIZE = 64
MAX_COUNT = 10**9
MAX_SEED = 10**6
ID_PREFIX = 587 * 10**15
FOOTPRINT_RA = (110.0, 260.0)
FOOTPRINT_DEC = (0.0, 60.0)


@dataclass(frozen=True)
class SimulatedObject:
    """An object before its picture is drawn.

    Parameters
    ----------
    object_id : int
        18 digits, as survey ids have.
    ra, dec : float
        Degrees, within the footprint of the SDSS north galactic cap.
    morphology : Morphology
    votes : dict of str to float
        Galaxy Zoo 2 vote fractions, ``Class1.1`` to ``Class11.6``.
    """

    object_id: int
    ra: float
    dec: float
    morphology: Morphology
    votes: dict[str, float]


@dataclass(frozen=True)
class SimulatedGalaxy(SimulatedObject):
    """An object with its picture.

    Parameters
    ----------
    image : bytes
        JPEG, centered on the galaxy.
    pixel_scale : float
        Arcsec per pixel.
    """

    image: bytes
    pixel_scale: float

    @property
    def truth(self) -> str:
        """The class that the galaxy was drawn as."""
        return self.morphology.truth

    @property
    def axis_ratio(self) -> float:
        """Apparent minor to major axis ratio of the main component."""
        return self.morphology.axis_ratio


def check_simulation(count: int, seed: int, size: int, ambiguous: float) -> None:
    """Check the parameters of a simulation.

    Raises
    ------
    UserError
        Naming the value and what it may be.
    """
    if not 1 <= count <= MAX_COUNT:
        raise UserError(f"count {count}: must be from 1 to {MAX_COUNT:,}")
    if not 0 <= seed < MAX_SEED:
        raise UserError(
            f"seed {seed}: must be from 0 to {MAX_SEED - 1:,}, since it is a part of each object id"
        )
    if size < MIN_SIZE:
        raise UserError(f"size {size}: must be at least {MIN_SIZE} pixels")
    if not 0 <= ambiguous < 1:
        raise UserError(f"ambiguous {ambiguous}: must be a share of the objects, at least 0 and less than 1")


def object_id(seed: int, index: int) -> int:
    """An id of 18 digits: 587, then six digits of the seed and nine of the object's number."""
    return ID_PREFIX + seed * MAX_COUNT + index


def describe_object(seed: int, index: int, ambiguous: float = 0.15) -> SimulatedObject:
    """All about an object but its picture.

    Parameters
    ----------
    seed : int
        0 to 999,999.
    index : int
        The object's number, from 0.
    ambiguous : float
        Probability, in [0, 1), of an object on which people do not agree.

    Returns
    -------
    SimulatedObject
    """
    rng = np.random.default_rng([seed, index])
    ra = float(rng.uniform(*FOOTPRINT_RA))
    # Uniform on the sphere: equal areas have equal differences of the sine of the declination.
    south, north = (math.sin(math.radians(bound)) for bound in FOOTPRINT_DEC)
    dec = math.degrees(math.asin(rng.uniform(south, north)))
    morphology = draw_morphology(rng, ambiguous)
    return SimulatedObject(object_id(seed, index), ra, dec, morphology, draw_votes(rng, morphology))


def simulate_galaxy(seed: int, index: int, size: int = 256, ambiguous: float = 0.15) -> SimulatedGalaxy:
    """An object with its picture.

    Parameters
    ----------
    seed, index, ambiguous
        See `describe_object`.
    size : int
        Side of the picture, pixels.

    Returns
    -------
    SimulatedGalaxy

    Raises
    ------
    UserError
        If GalSim is not installed.
    """
    described = describe_object(seed, index, ambiguous)
    # A generator of its own: what the object is does not depend on how it is drawn.
    bands = render_bands(np.random.default_rng([seed, index, 1]), described.morphology, size)
    return SimulatedGalaxy(
        object_id=described.object_id,
        ra=described.ra,
        dec=described.dec,
        morphology=described.morphology,
        votes=described.votes,
        image=encode_image(bands, size),
        pixel_scale=pixel_scale(described.morphology, size),
    )
