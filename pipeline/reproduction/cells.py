"""Figures of the runs of a network and method, how two are compared, and how both are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from hiwl_core.comparison import PairedComparison, compare_paired, holm, mean_interval
from hiwl_core.metrics import class_table, recall
from hiwl_core.taxonomy import Taxonomy
from pipeline.reproduction.scores import RunScores, same_galaxies

__all__ = [
    "ACCURACY",
    "MEAN_RECALL",
    "Comparison",
    "Estimate",
    "compare_runs",
    "figures_of",
    "points_cell",
    "share",
    "share_cell",
    "small_p",
]

ACCURACY, MEAN_RECALL = ("all", "accuracy"), ("average", "recall")
LEVEL = 0.05

Key = TypeVar("Key")


class Estimate(NamedTuple):
    """A figure with its 95 % interval, which may be NaN."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """One method against another.

    Parameters
    ----------
    accuracy : PairedComparison
    adjusted : float
        Its p-value, adjusted for how many comparisons the table makes.
    mean_recall : Estimate
        Difference of the mean recalls, with its interval over the seeds.
    """

    accuracy: PairedComparison
    adjusted: float
    mean_recall: Estimate

    @property
    def is_significant(self) -> bool:
        """Whether the accuracies differ before other galaxies, other seeds and the number of comparisons."""
        return self.accuracy.is_significant(LEVEL) and self.adjusted < LEVEL

    @property
    def points(self) -> Estimate:
        """Difference of the accuracies, with its interval over the seeds."""
        return Estimate(self.accuracy.difference, self.accuracy.low, self.accuracy.high)

    def numbers(self) -> dict[str, object]:
        """As columns of a CSV file."""
        found = self.accuracy
        return {
            **{f"difference_{key}": one for key, one in self.points._asdict().items()},
            "p_value": found.p_value,
            "p_value_holm": self.adjusted,
            "mcnemar_p_of_seeds": " ".join(f"{p:.4g}" for p in found.seed_p_values),
            "only_first_right": " ".join(map(str, found.only_first)),
            "only_second_right": " ".join(map(str, found.only_second)),
            "significant": self.is_significant,
            **{f"mean_recall_difference_{key}": one for key, one in self.mean_recall._asdict().items()},
        }

    def sentence(self, first: str, second: str) -> str:
        """What the comparison says, and whether it says anything."""
        return (
            f"{first} against {second}: {points_cell(self.points)} points of accuracy, "
            f"p {small_p(self.adjusted)}, {'' if self.is_significant else 'not '}significant; "
            f"{points_cell(self.mean_recall)} points of mean recall."
        )


def compare_runs(
    pairs: Mapping[Key, tuple[Sequence[RunScores], Sequence[RunScores]]],
) -> dict[Key, Comparison]:
    """Compare methods two by two, seed by seed on the same galaxies.

    Parameters
    ----------
    pairs : mapping of (sequence of RunScores, sequence of RunScores)
        For each comparison the runs of both methods, in the order of the seeds.

    Raises
    ------
    UserError
        If the runs of a pair were scored on different galaxies.
    """
    accuracies, recalls = {}, {}
    for key, (first, second) in pairs.items():
        together = same_galaxies([*first, *second])
        accuracies[key] = compare_paired(together[: len(first)], together[len(first) :])
        differences = np.array(
            [_mean_recall(a) - _mean_recall(b) for a, b in zip(first, second, strict=True)]
        )
        recalls[key] = Estimate(float(differences.mean()), *mean_interval(differences))
    adjusted = holm([comparison.p_value for comparison in accuracies.values()])
    return {
        key: Comparison(accuracies[key], p_value, recalls[key])
        for key, p_value in zip(pairs, adjusted, strict=True)
    }


def figures_of(runs: Sequence[RunScores], taxonomy: Taxonomy) -> dict[tuple[str, str], Estimate]:
    """All figures of the runs of several seeds, or of one.

    Parameters
    ----------
    runs : sequence of RunScores
    taxonomy : Taxonomy

    Returns
    -------
    dict of Estimate
        For each class and metric of `hiwl_core.metrics.class_table`. Of several seeds the mean, with
        Student's interval; of one seed its figure, with the interval of the galaxies.
    """
    tables = [class_table(run.confusion, taxonomy.classes) for run in runs]
    keys = list(zip(tables[0]["class"], tables[0]["metric"], strict=True))
    if len(tables) == 1:
        estimates = [Estimate(*row) for row in tables[0][["value", "low", "high"]].to_numpy().tolist()]
    else:
        values = np.stack([table["value"].to_numpy() for table in tables])
        estimates = [Estimate(float(of_seeds.mean()), *mean_interval(of_seeds)) for of_seeds in values.T]
    return dict(zip(keys, estimates, strict=True))


def share(value: float) -> str:
    """A share as text; empty if there is none."""
    return "" if math.isnan(value) else f"{value:.4f}"


def share_cell(figure: Estimate) -> str:
    """A share with its interval."""
    interval = "" if math.isnan(figure.low) else f" [{share(figure.low)}, {share(figure.high)}]"
    return f"{share(figure.value)}{interval}"


def points_cell(difference: Estimate) -> str:
    """A difference of shares in points, with its interval if there is one."""
    value, low, high = (f"{100 * one:+.2f}".replace("-", "−") for one in difference)
    return value if math.isnan(difference.low) else f"{value} [{low}, {high}]"


def small_p(p_value: float) -> str:
    """A p-value as text."""
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"


def _mean_recall(run: RunScores) -> float:
    return float(np.nanmean(recall(run.confusion)))
