"""The cascade at prediction: routing, and the probabilities of all classes from one or two stages.

The label follows the paper's hard routing (Ma et al. 2023, MNRAS 519, 4765): an image goes through stage 1,
and only if that calls it *combined* does stage 2 see it. The probabilities follow the product rule,
p(member) = p1(combined) * p2(member); where stage 2 did not run, p1(combined) is divided by the frequencies
of the members among the training galaxies. With a flat taxonomy nothing is routed, and the probabilities are
stage 1's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hiwl_core.taxonomy import Taxonomy

if TYPE_CHECKING:  # which uses this module
    from hiwl_core.calibration import Calibration

__all__ = ["CascadePrediction", "combine_stages", "routed", "run_cascade"]


@dataclass(frozen=True)
class CascadePrediction:
    """What the cascade says of N galaxies.

    Parameters
    ----------
    class_indices : numpy.ndarray of int64, shape (N,)
        The label, as a position in the taxonomy's classes.
    probabilities : numpy.ndarray of float32, shape (N, C)
        In the taxonomy's class order; rows sum to 1.
    combined : numpy.ndarray of float32, shape (N,)
        Stage 1's probability of the combined class; NaN if there is none.
    stage2 : numpy.ndarray of float32, shape (N, M)
        Stage 2's probabilities of the members; NaN where it did not run.
    sets : numpy.ndarray of bool, shape (N, C), optional
        Classes that each may be of; see `hiwl_core.conformal`.
    views : numpy.ndarray of int8, shape (N,), optional
        Views averaged by the stage that took most.
    ood_scores : numpy.ndarray of float32, shape (N,), optional
        How unlike the training galaxies each is; see `hiwl_core.unlikeness`.
    flags : numpy.ndarray of int32, shape (N,), optional
        Bits of `hiwl_core.flags`.
    """

    class_indices: np.ndarray
    probabilities: np.ndarray
    combined: np.ndarray
    stage2: np.ndarray
    sets: np.ndarray | None = None
    views: np.ndarray | None = None
    ood_scores: np.ndarray | None = None
    flags: np.ndarray | None = None

    @property
    def most_probable(self) -> np.ndarray:
        """The class with the largest probability, int64, shape (N,); of routed galaxies it may be another."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the label, float32, shape (N,)."""
        rows = np.arange(len(self.class_indices))
        return self.probabilities[rows, self.class_indices]


def routed(stage1: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """Which rows stage 1 sends on to stage 2.

    Parameters
    ----------
    stage1 : numpy.ndarray of float, shape (N, K1)

    Returns
    -------
    numpy.ndarray of bool, shape (N,)
    """
    return stage1.argmax(axis=1) == taxonomy.combined_index


def combine_stages(
    stage1: np.ndarray,
    stage2: np.ndarray,
    member_frequencies: np.ndarray,
    taxonomy: Taxonomy,
    calibration: Calibration | None = None,
) -> CascadePrediction:
    """Label and probabilities from both stages' outputs.

    Parameters
    ----------
    stage1 : numpy.ndarray of float, shape (N, K1)
        Probabilities in the order of `Taxonomy.stage1_classes`.
    stage2 : numpy.ndarray of float, shape (N, M)
        Probabilities in the order of `Taxonomy.stage2_classes`; NaN in rows where stage 2 did not run.
    member_frequencies : numpy.ndarray of float, shape (M,)
        Shares of the members within the combined class, summing to 1; they stand in for a stage 2 that did
        not run.
    taxonomy : Taxonomy
    calibration : Calibration, optional
        Of the probabilities. The label, the routing and the stages' own probabilities are not changed by it.

    Returns
    -------
    CascadePrediction
    """
    stage1 = np.asarray(stage1, dtype=np.float64)
    # float32 networks sum to 1 within their own rounding; the catalog promises better.
    stage1 = stage1 / stage1.sum(axis=1, keepdims=True)
    stage2 = np.asarray(stage2, dtype=np.float64)
    ran = ~np.isnan(stage2).any(axis=1)

    def of_members(seen: np.ndarray) -> np.ndarray:
        members = np.where(ran[:, None], seen, member_frequencies)
        return members / members.sum(axis=1, keepdims=True)

    stage1_label, own_members = stage1.argmax(axis=1), of_members(stage2)
    first, second = (stage1, stage2) if calibration is None else calibration.apply(stage1, stage2)
    members = of_members(second)
    probabilities = np.empty((len(stage1), len(taxonomy.classes)))
    labels = np.empty(len(stage1), dtype=np.int64)
    for index, name in enumerate(taxonomy.classes):
        if name in taxonomy.combined:
            member = taxonomy.combined.index(name)
            probabilities[:, index] = first[:, taxonomy.combined_index] * members[:, member]
            labels[(stage1_label == taxonomy.combined_index) & (own_members.argmax(axis=1) == member)] = index
        else:
            position = taxonomy.stage1_classes.index(name)
            probabilities[:, index] = first[:, position]
            labels[stage1_label == position] = index
    combined = stage1[:, taxonomy.combined_index] if taxonomy.combined else np.full(len(stage1), np.nan)
    return CascadePrediction(
        class_indices=labels,
        probabilities=probabilities.astype(np.float32),
        combined=combined.astype(np.float32),
        stage2=stage2.astype(np.float32),
    )


def run_cascade(
    stage1_probabilities: Callable[[np.ndarray], np.ndarray],
    stage2_probabilities: Callable[[np.ndarray], np.ndarray],
    num_objects: int,
    member_frequencies: np.ndarray,
    taxonomy: Taxonomy,
    always: bool = False,
) -> CascadePrediction:
    """Run the stages, the second only on the rows that are routed to it.

    Parameters
    ----------
    stage1_probabilities, stage2_probabilities : callable
        From row numbers, int64 of shape (n,), to probabilities of shape (n, K).
    num_objects : int
        N.
    member_frequencies : numpy.ndarray of float, shape (M,)
    taxonomy : Taxonomy
    always : bool
        Run stage 2 on every row: exact probabilities at the price of a second network.
    """
    stage1 = stage1_probabilities(np.arange(num_objects))
    stage2 = np.full((num_objects, len(taxonomy.stage2_classes)), np.nan)
    rows = np.arange(num_objects) if always else np.flatnonzero(routed(stage1, taxonomy))
    if rows.size:
        stage2[rows] = stage2_probabilities(rows)
    return combine_stages(stage1, stage2, member_frequencies, taxonomy)
