"""Calibration of a cascade: a temperature and class offsets for each stage, fitted on held-out galaxies.

A network's probabilities p become softmax(log p / T + b): temperature scaling (Guo et al. 2017, ICML,
PMLR 70, 1321) with an offset for each class. The offsets also undo weighted sampling: a stage that was
trained on other class shares than the sky has is off by the logarithm of their ratio (Saerens et al. 2002,
Neural Comput. 14, 21), which is where their fit begins and what it is held to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiwl_core.cascade import StageOutputs, combine_stages
from hiwl_core.errors import UserError
from hiwl_core.stage_calibration import StageCalibration, calibrate_stage, offsets, sampling_log_ratio
from hiwl_core.taxonomy import FIRST_STAGE, Taxonomy

__all__ = ["Calibration", "cross_fitted", "fit_calibration", "folds", "sampling_log_ratios"]


@dataclass(frozen=True)
class Calibration:
    """The calibration of a cascade.

    Parameters
    ----------
    stages : dict of StageCalibration
        Under each of ``taxonomy.stages``.
    galaxies : int
        How many it was fitted on.
    """

    stages: dict[str, StageCalibration]
    galaxies: int

    def apply(self, outputs: StageOutputs) -> dict[str, np.ndarray]:
        """Calibrated probabilities of all stages, float64, to be combined by the product rule.

        Parameters
        ----------
        outputs : mapping of numpy.ndarray
            See `hiwl_core.cascade.StageOutputs`. Rows in which a stage did not run stay NaN.
        """
        return {name: stage.apply(outputs[name]) for name, stage in self.stages.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a bundle's JSON; `from_dict` is its inverse."""
        return {
            "stages": {name: stage.to_dict() for name, stage in self.stages.items()},
            "galaxies": self.galaxies,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """The calibration that `to_dict` described.

        Raises
        ------
        UserError
            If a key is missing or a number impossible.
        """
        try:
            return cls(
                stages={name: StageCalibration.from_dict(stage) for name, stage in data["stages"].items()},
                galaxies=int(data["galaxies"]),
            )
        except KeyError as error:
            raise UserError(f"calibration without the key {error}") from None


def fit_calibration(
    outputs: StageOutputs,
    truth: np.ndarray,
    taxonomy: Taxonomy,
    prior_log_ratios: Mapping[str, np.ndarray] | None,
) -> Calibration:
    """Calibration of a cascade, each stage on the galaxies that are its own.

    By the product rule, -log p(member) = -log p(group) - log p(member | group); so the negative log
    likelihood of all classes is that of stage 1 over all galaxies plus that of each later stage over the
    galaxies of its group that it saw; where it did not run, the frequencies in its place are constants. No
    parameter is in two sums, so to fit each stage alone is to fit the whole.

    Parameters
    ----------
    outputs : mapping of numpy.ndarray
        See `hiwl_core.cascade.StageOutputs`. Rows with a NaN of stage 1, of cutouts that could not be read,
        are left out.
    truth : numpy.ndarray of int, shape (N,)
        Positions in the taxonomy's classes.
    taxonomy : Taxonomy
    prior_log_ratios : dict of numpy.ndarray, optional
        Under a stage's name, the offsets that undo its sampling; see
        `hiwl_core.stage_calibration.sampling_log_ratio`.

    Raises
    ------
    UserError
        If there is no galaxy or a true class out of range. A later stage that saw none of its galaxies is no
        mistake: its calibration is what is known without any, the offsets that undo its sampling.
    """
    truth = np.asarray(truth)
    if truth.size and not (truth.min() >= 0 and truth.max() < len(taxonomy.classes)):
        raise UserError(
            f"class indices must be in [0, {len(taxonomy.classes)}), not {truth.min()} to {truth.max()}: "
            "leave out the galaxies without a label"
        )
    read = {name: np.isfinite(outputs[name]).all(axis=1) for name in taxonomy.stages}
    stages: dict[str, StageCalibration] = {}
    for name in taxonomy.stages:
        targets = taxonomy.stage_targets(name, truth)
        own = (targets >= 0) & read[name]
        prior = (prior_log_ratios or {}).get(name)
        if name != FIRST_STAGE and not own.any():
            kinds = len(taxonomy.stage_classes(name))
            stages[name] = StageCalibration(1.0, tuple(offsets(prior, kinds).tolist()))
        else:
            stages[name] = calibrate_stage(np.asarray(outputs[name])[own], targets[own], prior)
    return Calibration(stages, galaxies=int(read[FIRST_STAGE].sum()))


def folds(truth: np.ndarray, k: int = 5, seed: int = 0) -> np.ndarray:
    """Stratified folds: each has its part of every class, and all are of one size within a galaxy.

    Parameters
    ----------
    truth : numpy.ndarray of int, shape (N,)
    k : int
        Folds, two or more and not more than galaxies.
    seed : int

    Returns
    -------
    numpy.ndarray of int64, shape (N,)
        The fold of each galaxy, in ``[0, k)``.

    Raises
    ------
    UserError
        If there are fewer galaxies than folds.
    """
    truth = np.asarray(truth)
    if not 2 <= k <= len(truth):
        raise UserError(
            f"{k} folds of {len(truth)} galaxies: there must be two folds or more, and none empty"
        )
    # Shuffled, then sorted by class: dealt out in turn, a class's galaxies go to all folds alike.
    shuffled = np.random.default_rng(seed).permutation(len(truth))
    dealt = shuffled[np.argsort(truth[shuffled], kind="stable")]
    fold = np.empty(len(truth), dtype=np.int64)
    fold[dealt] = np.arange(len(truth)) % k
    return fold


def cross_fitted(
    outputs: StageOutputs,
    truth: np.ndarray,
    member_frequencies: Mapping[str, np.ndarray],
    taxonomy: Taxonomy,
    prior_log_ratios: Mapping[str, np.ndarray] | None,
    k: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Each galaxy's probabilities by the calibration that was fitted on the other folds.

    They say how well a calibration does on galaxies that it has not seen, without a second set of them.

    Parameters
    ----------
    outputs, truth, taxonomy, prior_log_ratios
        See `fit_calibration`.
    member_frequencies : mapping of numpy.ndarray of float, shape (M,)
        See `hiwl_core.cascade.combine_stages`.
    k, seed : int
        See `folds`.

    Returns
    -------
    numpy.ndarray of float64, shape (N, C)
        In the taxonomy's class order; rows sum to 1.

    Raises
    ------
    UserError
        As `fit_calibration` and `folds` do.
    """
    truth, fold = np.asarray(truth), folds(truth, k, seed)

    def some(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.asarray(values)[rows] for name, values in outputs.items()}

    probabilities = np.empty((len(truth), len(taxonomy.classes)))
    for index in range(k):
        held_out = fold == index
        fitted = fit_calibration(some(~held_out), truth[~held_out], taxonomy, prior_log_ratios)
        calibrated = fitted.apply(some(held_out))
        probabilities[held_out] = combine_stages(calibrated, member_frequencies, taxonomy).probabilities
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def sampling_log_ratios(
    taxonomy: Taxonomy, recipe: Mapping[str, Any], counts: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """The offsets that undo the sampling of each stage that was trained with weights.

    Parameters
    ----------
    taxonomy : Taxonomy
    recipe : mapping
        A recipe as plain data; see `hiwl_core.recipe.Recipe.to_dict`.
    counts : mapping of int
        Training galaxies of each class; without them nothing is known.

    Returns
    -------
    dict of numpy.ndarray
        Under the names of the stages; see `hiwl_core.stage_calibration.sampling_log_ratio`.
    """
    ratios = {}
    for name in taxonomy.stages:
        stage = recipe.get(name) or {}
        if counts and stage.get("sampling") == "weighted":
            members = np.zeros(len(taxonomy.stage_classes(name)))
            targets = taxonomy.stage_targets(name, np.arange(len(taxonomy.classes)))
            for one, target in zip(taxonomy.classes, targets, strict=True):
                if target >= 0:
                    members[target] += counts[one]
            ratios[name] = sampling_log_ratio(members, stage.get("weighting", 1.0))
    return ratios
