"""Shares of a mixture by maximum likelihood, and with them class shares from counts of predicted labels."""

from __future__ import annotations

import numpy as np

__all__ = ["TINY", "adjusted_shares", "mixture_shares"]

TINY = 1e-12
"""A rate or probability below this is taken for this: nothing is impossible."""


def adjusted_shares(counts: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Class shares under which counts of predicted labels are most likely.

    Parameters
    ----------
    counts : numpy.ndarray of float, shape (..., C)
        Of each predicted label, or their shares.
    rates : numpy.ndarray of float, shape (..., C, C)
        How often a galaxy of the class, by row, gets the label, by column; rows sum to 1.

    Returns
    -------
    numpy.ndarray of float64, shape (..., C)
        None is negative, and they sum to 1.
    """
    observed = np.asarray(counts, dtype=np.float64)
    observed = observed / observed.sum(axis=-1, keepdims=True)
    # A label that no class gets, but a galaxy has, tells nothing of its class.
    likelihood = np.swapaxes(np.maximum(rates, TINY), -1, -2)
    shape = np.broadcast_shapes(observed.shape, likelihood.shape[:-1])
    observed = np.broadcast_to(observed, shape).reshape(-1, shape[-1])
    likelihood = np.broadcast_to(likelihood, (*shape, shape[-1])).reshape(-1, shape[-1], shape[-1])
    try:
        shares = np.linalg.solve(likelihood, observed[..., None])[..., 0]
    except np.linalg.LinAlgError:  # two classes are called the same at the same rates
        shares = np.full(observed.shape, np.nan)
    # A solution reproduces the observed shares exactly, and nothing is more likely than that.
    outside = ~(np.isfinite(shares) & (shares >= 0)).all(axis=-1)
    if outside.any():
        shares[outside] = mixture_shares(observed[outside], likelihood[outside])
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True)).reshape(shape)


def mixture_shares(
    counts: np.ndarray,
    likelihood: np.ndarray,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Shares of a mixture's components by maximum likelihood, of many samples at once.

    Expectation maximization (Dempster, Laird & Rubin 1977, J. R. Stat. Soc. B 39, 1): with fixed components
    the likelihood has no other maximum, and no share ever becomes negative.

    Parameters
    ----------
    counts : numpy.ndarray of float, shape (R, J)
        How much of each sample is of each of J kinds.
    likelihood : numpy.ndarray of float, shape (R, J, C)
        Of each kind in each component, positive in one at least, up to a factor for each kind.
    tolerance : float
        A sample's steps end when no share changes by more.
    max_iterations : int
    start : numpy.ndarray of float, shape (C,), optional
        Shares to begin with, each positive; default: equal ones.

    Returns
    -------
    numpy.ndarray of float64, shape (R, C)
    """
    weights = counts / counts.sum(axis=1, keepdims=True)
    samples, _, components = likelihood.shape
    found = np.tile(
        np.full(components, 1 / components) if start is None else start / start.sum(), (samples, 1)
    )
    places, now = np.arange(samples), found.copy()
    for _ in range(max_iterations):
        expected = np.einsum("rjc,rc->rj", likelihood, now)
        moved = now * np.einsum("rjc,rj->rc", likelihood, weights / np.maximum(expected, TINY**2))
        moved /= moved.sum(axis=1, keepdims=True)
        going, now = np.abs(moved - now).max(axis=1) > tolerance, moved
        # Finished samples are left out by halves, not one by one, since the arrays are copied.
        if 2 * going.sum() <= len(going):
            found[places] = now
            places, now, weights, likelihood = (a[going] for a in (places, now, weights, likelihood))
            if not len(places):
                break
    found[places] = now
    return found
