"""Calibration of one stage: a temperature and an offset for each class, fitted to validation galaxies.

Temperature scaling and class offsets: Guo et al. (2017, ICML, PMLR 70, 1321). A stage that was trained on
other class shares than the sky has is off by the logarithm of their ratio (Saerens et al. 2002, Neural
Comput. 14, 21).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from hiwl_core.errors import UserError

__all__ = ["StageCalibration", "calibrate_stage", "offsets", "sampling_log_ratio"]

FLOOR = 1e-12
"""A probability below this is taken for this: no class is impossible, and every logarithm finite."""
BIAS_WIDTH = 0.5
"""Standard deviation of the offsets' prior: a class's odds are believed to a factor of about 1.6."""
LOG_TEMPERATURE_BOUND = 5.0  # far from any network; it only keeps a line search from overflowing


@dataclass(frozen=True)
class StageCalibration:
    """Temperature and class offsets of one stage.

    Parameters
    ----------
    temperature : float
        Above 1 the network was overconfident, below 1 it was too careful, as label smoothing makes it.
    biases : tuple of float, length K
        Added to log p / T in the order of the stage's classes; their mean is zero by convention, since a
        constant changes nothing.

    Raises
    ------
    UserError
        If the temperature is not a positive number or an offset is not finite.
    """

    temperature: float
    biases: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature > 0 and np.isfinite(self.biases).all()):
            raise UserError(
                f"calibration with the temperature {self.temperature} and the offsets {list(self.biases)}: "
                "the first must be a positive number, the others finite; take the model from its source again"
            )

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, softmax(log p / T + b).

        Parameters
        ----------
        probabilities : numpy.ndarray of float, shape (N, K)
            The stage's own; a row with a NaN, where the stage did not run, is NaN in the result.

        Returns
        -------
        numpy.ndarray of float64, shape (N, K)

        Raises
        ------
        UserError
            If the number of classes is another one.
        """
        logs = _logarithms(probabilities)
        if logs.ndim != 2 or logs.shape[1] != len(self.biases):
            raise UserError(
                f"a calibration of {len(self.biases)} classes for probabilities of shape {logs.shape}: "
                f"they must have the shape (N, {len(self.biases)})"
            )
        return np.asarray(softmax(logs / self.temperature + np.array(self.biases), axis=1))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a bundle's JSON; `from_dict` is its inverse."""
        return {"temperature": self.temperature, "biases": list(self.biases)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StageCalibration:
        """The calibration that `to_dict` described.

        Raises
        ------
        UserError
            If a key is missing or a number impossible.
        """
        try:
            return cls(float(data["temperature"]), tuple(float(bias) for bias in data["biases"]))
        except KeyError as error:
            raise UserError(f"calibration of a stage without the key {error}") from None


def sampling_log_ratio(counts: np.ndarray, power: float) -> np.ndarray:
    """Offsets that undo weighted sampling: log(share in the sky) - log(share drawn in training).

    Weights of n^-power draw a class in proportion to n^(1 - power) (`hiwl_core.sampling.class_weights`), so
    the ratio is n^power (Saerens et al. 2002, Neural Comput. 14, 21).

    Parameters
    ----------
    counts : numpy.ndarray of int, shape (K,)
        Galaxies of each class, in the shares that the sky has.
    power : float
        Of the weights, in [0, 1]; with 0 there is nothing to undo.

    Returns
    -------
    numpy.ndarray of float64, shape (K,)
        Their mean is zero.

    Raises
    ------
    UserError
        If a class has no galaxy.
    """
    counts = np.asarray(counts, dtype=np.float64)
    if not (counts > 0).all():
        raise UserError(
            f"weighted sampling from {counts.astype(int).tolist()} galaxies of each class: none may be 0"
        )
    ratio = power * np.log(counts)
    return np.asarray(ratio - ratio.mean())


def calibrate_stage(
    probabilities: np.ndarray,
    targets: np.ndarray,
    prior_log_ratio: np.ndarray | None = None,
    ridge: float = 1 / BIAS_WIDTH**2,
) -> StageCalibration:
    """Temperature and offsets that make held-out galaxies most probable, by L-BFGS.

    It is the maximum a posteriori for the priors b ~ N(prior_log_ratio, 1 / ridge) and log T ~ N(0, 1).
    They weigh as much as a few galaxies: a class with many has the offset that its galaxies ask for, one with
    fifty is not fitted to their noise, and one with none stays at a finite offset.

    Parameters
    ----------
    probabilities : numpy.ndarray of float, shape (N, K)
        The stage's own, of galaxies that it was not trained on.
    targets : numpy.ndarray of int, shape (N,)
        True classes, in ``[0, K)``.
    prior_log_ratio : numpy.ndarray of float, shape (K,), optional
        See `sampling_log_ratio`; zero by default.
    ridge : float
        Inverse variance of the offsets' prior; by default that of a width of 0.5.

    Raises
    ------
    UserError
        If there is no galaxy, shapes differ, a probability is not finite or a target out of range.
    """
    logs, targets = _logarithms(probabilities), np.asarray(targets)
    if logs.ndim != 2 or targets.shape != logs.shape[:1] or not targets.size:
        raise UserError(
            f"a calibration is fitted on one true class for each row of probabilities, at least one: not on "
            f"shapes {targets.shape} and {logs.shape}; give held-out galaxies with labels"
        )
    count, num_classes = logs.shape
    if not (np.isfinite(logs).all() and targets.min() >= 0 and targets.max() < num_classes):
        raise UserError(
            f"a calibration is fitted on finite probabilities and class indices in [0, {num_classes}), not "
            f"{targets.min()} to {targets.max()}: leave out the galaxies that have none"
        )
    # Here, since importing it takes half a second, which those who only apply one should not wait for.
    from scipy.optimize import minimize

    prior = offsets(prior_log_ratio, num_classes)
    rows = np.arange(count)

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean negative log posterior and its gradient by (log T, b)."""
        log_temperature, biases = parameters[0], parameters[1:]
        scaled = logs * np.exp(-log_temperature)
        log_calibrated = log_softmax(scaled + biases, axis=1)
        residual = np.exp(log_calibrated)
        residual[rows, targets] -= 1
        pull = ridge * (biases - prior)
        loss = -log_calibrated[rows, targets].sum() + (pull @ (biases - prior) + log_temperature**2) / 2
        gradient = np.concatenate(
            [[log_temperature - (residual * scaled).sum()], residual.sum(axis=0) + pull]
        )
        return float(loss / count), gradient / count

    bounds = [(-LOG_TEMPERATURE_BOUND, LOG_TEMPERATURE_BOUND), *[(None, None)] * num_classes]
    start = np.concatenate([[0.0], prior])
    options = {"maxiter": 1000, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return StageCalibration(float(np.exp(found[0])), tuple((found[1:] - found[1:].mean()).tolist()))


def _logarithms(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), FLOOR)))


def offsets(prior_log_ratio: np.ndarray | None, num_classes: int) -> np.ndarray:
    """The offsets' prior with a mean of zero, which the fitted offsets then have as well."""
    if prior_log_ratio is None:
        return np.zeros(num_classes)
    prior = np.asarray(prior_log_ratio, dtype=np.float64)
    if prior.shape != (num_classes,):
        raise UserError(f"offsets of shape {prior.shape} for a stage of {num_classes} classes")
    return np.asarray(prior - prior.mean())
