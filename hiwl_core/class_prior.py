"""The class shares of another sky: probabilities moved to them, and the shares estimated from probabilities.

If the galaxies of each class look as they did in training and only the classes' shares differ, Bayes' rule
moves calibrated probabilities from the one prior to the other, and the galaxies themselves tell the new
one (Saerens, Latinne & Decaestecker 2002, Neural Comput. 14, 21).
"""

from __future__ import annotations

import math

import numpy as np

from hiwl_core.errors import UserError
from hiwl_core.mixture import mixture_shares

__all__ = ["estimate_prior", "move_prior", "parse_prior"]

TINY = float(np.finfo(np.float32).tiny)  # a probability that underflowed must not make a row of zeros


def move_prior(p: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Probabilities under another prior: p'_c in proportion to p_c new_c / old_c (Saerens et al. 2002).

    Parameters
    ----------
    p : numpy.ndarray of float, shape (N, C)
        Calibrated probabilities under the old prior; a row with a NaN is NaN in the result.
    old, new : numpy.ndarray of float, shape (C,)
        Class shares. A class whose new share is 0 gets a probability of 0.

    Returns
    -------
    numpy.ndarray of float64, shape (N, C)
        Rows sum to 1.

    Raises
    ------
    UserError
        If shapes differ, a new share is not finite or negative, all are 0, or an old one is not positive.
    """
    p, old, new = _checked(p, old, new)
    joint = p * (new / old)
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def estimate_prior(
    p: np.ndarray, old: np.ndarray, tolerance: float = 1e-7, max_iterations: int = 1000
) -> np.ndarray:
    """Class shares of the galaxies that the probabilities are of, by maximum likelihood.

    Expectation maximization (Saerens et al. 2002): the probabilities are moved to the shares, the shares are
    the moved probabilities' mean, and so on. The likelihood rises with every step and has no other
    maximum; where classes overlap much the steps are small, and the shares uncertain.

    Parameters
    ----------
    p : numpy.ndarray of float, shape (N, C)
        Calibrated probabilities under the old prior; rows with a NaN are left out.
    old : numpy.ndarray of float, shape (C,)
        Class shares that the probabilities were calibrated for.
    tolerance : float
        The steps end when no share changes by more.
    max_iterations : int
        And at the latest after so many steps.

    Returns
    -------
    numpy.ndarray of float64, shape (C,)
        Shares, which sum to 1.

    Raises
    ------
    UserError
        If there is no galaxy, shapes differ, or an old share is not positive.
    """
    p, old, _ = _checked(p, old, old)
    likelihood = p[np.isfinite(p).all(axis=1)] / old
    if not len(likelihood):
        raise UserError("class shares are estimated from probabilities of one galaxy or more: none has any")
    # Each galaxy is a kind of its own.
    kinds = np.ones((1, len(likelihood)))
    return np.asarray(mixture_shares(kinds, likelihood[None], tolerance, max_iterations, start=old)[0])


def parse_prior(text: str, classes: tuple[str, ...]) -> np.ndarray:
    """Class shares from text such as ``"CRS=.3,IBS=.3,CSS=.02,EO=.13,SPI=.25"``.

    Parameters
    ----------
    text : str
        Each class once, in any order; the shares sum to 1 within 0.001.
    classes : tuple of str, length C

    Returns
    -------
    numpy.ndarray of float64, shape (C,)
        In the order of the classes; their sum is exactly 1.

    Raises
    ------
    UserError
        If a class is unknown, missing or given twice, or a share is no number, negative, or the sum not 1.
    """
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.rpartition("="))
        if not equals:
            raise UserError(
                f"--prior: {part.strip()!r} is not CLASS=SHARE; write one a class, with commas between, "
                f"such as {_example(classes)}"
            )
        if name not in classes:
            raise UserError(f"--prior: no class {name!r} in this model; it has {', '.join(classes)}")
        if name in shares:
            raise UserError(f"--prior: {name} is given twice, {shares[name]:g} and {number}; give it once")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not math.isfinite(share):
            raise UserError(f"--prior: {name}={number} is not a number; give a share such as {name}=0.2")
        if share < 0:
            raise UserError(f"--prior: {name}={number} is negative; give a share from 0 to 1")
        shares[name] = share
    missing = [name for name in classes if name not in shares]
    if missing:
        raise UserError(f"--prior: no share of {', '.join(missing)}; give each class one, {missing[0]}=0 too")
    total = sum(shares.values())
    if abs(total - 1) > 1e-3:
        raise UserError(f"--prior: the shares sum to {total:.6g}; they must sum to 1, within 0.001")
    return np.array([shares[name] for name in classes]) / total


def _checked(p: np.ndarray, old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p, old, new = (np.asarray(values, dtype=np.float64) for values in (p, old, new))
    if p.ndim != 2 or old.shape != p.shape[1:] or new.shape != old.shape:
        raise UserError(
            f"probabilities of shape {p.shape} need one share a class, not {old.shape} old, {new.shape} new"
        )
    if not (np.isfinite(old).all() and (old > 0).all()):
        raise UserError(
            f"old class shares {old.tolist()}: each must be positive, for a class that never was cannot come"
        )
    if not (np.isfinite(new).all() and (new >= 0).all() and new.sum() > 0):
        raise UserError(f"new class shares {new.tolist()}: each must be 0 or more, and one more than 0")
    return np.maximum(p, TINY), old, new


def _example(classes: tuple[str, ...]) -> str:
    return ",".join(f"{name}={1 / len(classes):.4g}" for name in classes)
