"""The cascade at prediction: routing, and the probabilities of all classes from the stages that ran.

The label follows the paper's hard routing (Ma et al. 2023, MNRAS 519, 4765): an image goes through stage 1,
and only if that calls it of a group does the group's stage see it, and so on down the tree of stages. The
probabilities follow the product rule, p(member) = p(group) * p(member | group); where a stage did not run,
its group's probability is divided by the frequencies of the members among the training galaxies. With a flat
taxonomy nothing is routed, and the probabilities are stage 1's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hiwl_core.taxonomy import FIRST_STAGE, Taxonomy

__all__ = ["CascadePrediction", "StageOutputs", "combine_stages", "route", "routed"]

StageOutputs = Mapping[str, np.ndarray]
"""Probabilities of N galaxies by each stage of a taxonomy, under its name: floats of shape (N, K), in the
order of `Taxonomy.stage_classes`; NaN in rows where a later stage did not run."""


@dataclass(frozen=True)
class CascadePrediction:
    """What the cascade says of N galaxies.

    Parameters
    ----------
    class_indices : numpy.ndarray of int64, shape (N,)
        The label, as a position in the taxonomy's classes.
    probabilities : numpy.ndarray of float32, shape (N, C)
        In the taxonomy's class order; rows sum to 1.
    stages : dict of numpy.ndarray of float32
        What each stage says, before calibration; see `StageOutputs`.
    sets : numpy.ndarray of bool, shape (N, C), optional
        Classes that each may be of; see `hiwl_core.conformal`.
    views : numpy.ndarray of int8, shape (N,), optional
        Views averaged by the stage that took most.
    ood_scores : numpy.ndarray of float32, shape (N,), optional
        How unlike the training galaxies each is; see `hiwl_core.unlikeness`.
    flags : numpy.ndarray of int32, shape (N,), optional
        Bits of `hiwl_core.flags`.
    features : numpy.ndarray of float32, shape (N, A), optional
        What stage 1 saw in each; see `hiwl_core.unlikeness.Unlikeness.components`.
    """

    class_indices: np.ndarray
    probabilities: np.ndarray
    stages: dict[str, np.ndarray]
    sets: np.ndarray | None = None
    views: np.ndarray | None = None
    ood_scores: np.ndarray | None = None
    flags: np.ndarray | None = None
    features: np.ndarray | None = None

    def of_rows(self, rows: np.ndarray) -> CascadePrediction:
        """What is said of some of the galaxies.

        Parameters
        ----------
        rows : numpy.ndarray of int or bool
            Positions, or one truth value a galaxy.
        """

        def some(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return CascadePrediction(
            self.class_indices[rows],
            self.probabilities[rows],
            {name: values[rows] for name, values in self.stages.items()},
            some(self.sets),
            some(self.views),
            some(self.ood_scores),
            some(self.flags),
            some(self.features),
        )

    @property
    def most_probable(self) -> np.ndarray:
        """The class with the largest probability, int64, shape (N,); of routed galaxies it may be another."""
        return self.probabilities.argmax(axis=1)

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the label, float32, shape (N,)."""
        rows = np.arange(len(self.class_indices))
        return self.probabilities[rows, self.class_indices]


def routed(sender: np.ndarray, taxonomy: Taxonomy, stage: str) -> np.ndarray:
    """Which rows a later stage is sent.

    Parameters
    ----------
    sender : numpy.ndarray of float, shape (N, K)
        Probabilities of the stage that sends them; see `Taxonomy.sent_by`. A row with a NaN is not sent on.
    taxonomy : Taxonomy
    stage : str

    Returns
    -------
    numpy.ndarray of bool, shape (N,)
    """
    _, place = taxonomy.sent_by(stage)
    return np.asarray((sender.argmax(axis=1) == place) & ~np.isnan(sender).any(axis=1))


def route(outputs: StageOutputs, taxonomy: Taxonomy) -> dict[str, np.ndarray]:
    """What stages would have said that are asked only for what is sent to them.

    Parameters
    ----------
    outputs : mapping of numpy.ndarray
        See `StageOutputs`; of later stages there may be more rows than are sent to them.
    taxonomy : Taxonomy

    Returns
    -------
    dict of numpy.ndarray
        The same, where all other rows of later stages are NaN.
    """
    left = {FIRST_STAGE: outputs[FIRST_STAGE]}
    # A stage comes after the one that sends it its rows.
    for stage in taxonomy.later_stages:
        sender, _ = taxonomy.sent_by(stage)
        left[stage] = np.where(routed(left[sender], taxonomy, stage)[:, None], outputs[stage], np.nan)
    return left


def combine_stages(
    outputs: StageOutputs,
    member_frequencies: Mapping[str, np.ndarray],
    taxonomy: Taxonomy,
    calibrated: Callable[[StageOutputs], StageOutputs] | None = None,
) -> CascadePrediction:
    """Label and probabilities from the outputs of all stages.

    Parameters
    ----------
    outputs : mapping of numpy.ndarray
        See `StageOutputs`.
    member_frequencies : mapping of numpy.ndarray of float, shape (M,)
        For each later stage the shares of its classes within their group, summing to 1; they stand in for a
        stage that did not run. See `Taxonomy.member_frequencies`.
    taxonomy : Taxonomy
    calibrated : callable, optional
        From the stages' outputs to those of which the probabilities are made, such as
        `hiwl_core.calibration.Calibration.apply`. Label, routing and the stages' own probabilities are not
        changed by it.

    Returns
    -------
    CascadePrediction
    """
    own = {name: np.asarray(values, dtype=np.float64) for name, values in outputs.items()}
    # float32 networks sum to 1 within their own rounding; the catalog promises better.
    own[FIRST_STAGE] = own[FIRST_STAGE] / own[FIRST_STAGE].sum(axis=1, keepdims=True)
    ran = {stage: np.isfinite(own[stage]).all(axis=1) for stage in taxonomy.later_stages}

    def complete(seen: StageOutputs) -> dict[str, np.ndarray]:
        """The same, with the frequencies of members where a stage did not run."""
        whole = {FIRST_STAGE: seen[FIRST_STAGE]}
        for stage, rows in ran.items():
            members = np.where(np.asarray(rows)[:, None], seen[stage], member_frequencies[stage])
            whole[stage] = members / members.sum(axis=1, keepdims=True)
        return whole

    labels = _labels({stage: values.argmax(axis=1) for stage, values in complete(own).items()}, taxonomy)
    probabilities = _product(complete(own if calibrated is None else calibrated(own)), taxonomy)
    return CascadePrediction(
        class_indices=labels,
        probabilities=probabilities.astype(np.float32),
        stages={name: values.astype(np.float32) for name, values in own.items()},
    )


def _labels(chosen: Mapping[str, np.ndarray], taxonomy: Taxonomy) -> np.ndarray:
    """The class at the end of each galaxy's way down the tree, by the position that each stage chose."""
    labels = np.full(len(chosen[FIRST_STAGE]), -1, dtype=np.int64)
    on_the_way = {FIRST_STAGE: np.ones(len(labels), dtype=bool)}
    for stage in taxonomy.stages:
        if stage != FIRST_STAGE:
            sender, place = taxonomy.sent_by(stage)
            on_the_way[stage] = on_the_way[sender] & (chosen[sender] == place)
        # Groups among the stage's classes are the later stages' to tell.
        of_position = np.array(
            [
                taxonomy.classes.index(name) if name in taxonomy.classes else -1
                for name in taxonomy.stage_classes(stage)
            ]
        )
        labels[on_the_way[stage]] = of_position[chosen[stage][on_the_way[stage]]]
    return labels


def _product(whole: StageOutputs, taxonomy: Taxonomy) -> np.ndarray:
    """Probabilities of the classes by the product rule, float64 of shape (N, C)."""
    found: dict[str, np.ndarray] = {}
    for stage in taxonomy.stages:
        above = 1.0 if stage == FIRST_STAGE else found[taxonomy.group(stage).name][:, None]
        found |= zip(taxonomy.stage_classes(stage), (above * whole[stage]).T, strict=True)
    return np.stack([found[name] for name in taxonomy.classes], axis=1)
