"""Figures of the runs of a network and method, how two are compared, and how both are written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from hiwl_core.comparison import PairedComparison, compare_paired, holm, mean_interval, mean_recall_test
from hiwl_core.metrics import WithInterval, class_table, recall
from hiwl_core.taxonomy import Taxonomy
from pipeline.reproduction.scores import RunScores, same_galaxies

__all__ = [
    "MEAN_RECALL",
    "Comparison",
    "compare_runs",
    "figures_of",
    "points_cell",
    "share",
    "share_cell",
    "small_p",
]

MEAN_RECALL = ("average", "recall")
LEVEL = 0.05

Key = TypeVar("Key")


class Comparison(NamedTuple):
    """One method against another.

    Parameters
    ----------
    accuracy : PairedComparison
    adjusted : float
        Its p-value, adjusted for how many comparisons the table makes.
    mean_recall : WithInterval
        Difference of the mean recalls, with its interval over the seeds.
    mean_recall_p, mean_recall_adjusted : float
        Its p-value over the galaxies, and that adjusted in the same way.
    """

    accuracy: PairedComparison
    adjusted: float
    mean_recall: WithInterval
    mean_recall_p: float
    mean_recall_adjusted: float

    @property
    def is_significant(self) -> bool:
        """Whether the accuracies differ before other galaxies, other seeds and the number of comparisons."""
        return self.accuracy.is_significant(LEVEL) and self.adjusted < LEVEL

    @property
    def is_recall_significant(self) -> bool:
        """The same of the mean recalls."""
        _, low, high = self.mean_recall
        return self.mean_recall_adjusted < LEVEL and (math.isnan(low) or not low <= 0.0 <= high)

    @property
    def points(self) -> WithInterval:
        """Difference of the accuracies, with its interval over the seeds."""
        return WithInterval(self.accuracy.difference, self.accuracy.low, self.accuracy.high)

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
            "mean_recall_p_value": self.mean_recall_p,
            "mean_recall_p_value_holm": self.mean_recall_adjusted,
            "mean_recall_significant": self.is_recall_significant,
        }

    def sentence(self, first: str, second: str) -> str:
        """What the comparison says, and whether it says anything."""
        return (
            f"{first} against {second}: {points_cell(self.points)} points of accuracy, "
            f"{_verdict(self.adjusted, self.is_significant)}; {points_cell(self.mean_recall)} points of mean "
            f"recall, {_verdict(self.mean_recall_adjusted, self.is_recall_significant)}."
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
    accuracies, recalls, recall_p = {}, {}, {}
    for key, (first, second) in pairs.items():
        together = same_galaxies([*first, *second])
        ours, theirs = together[: len(first)], together[len(first) :]
        accuracies[key] = compare_paired(ours, theirs)
        differences = np.array(
            [_mean_recall(a) - _mean_recall(b) for a, b in zip(first, second, strict=True)]
        )
        recalls[key] = WithInterval(float(differences.mean()), *mean_interval(differences))
        recall_p[key] = mean_recall_test(ours.sum(0) - theirs.sum(0, dtype=np.int64), first[0].truth)
    adjusted = holm([comparison.p_value for comparison in accuracies.values()])
    recall_adjusted = holm(list(recall_p.values()))
    return {
        key: Comparison(accuracies[key], p_accuracy, recalls[key], recall_p[key], p_recall)
        for key, p_accuracy, p_recall in zip(pairs, adjusted, recall_adjusted, strict=True)
    }


def figures_of(runs: Sequence[RunScores], taxonomy: Taxonomy) -> dict[tuple[str, str], WithInterval]:
    """All figures of the runs of several seeds, or of one.

    Parameters
    ----------
    runs : sequence of RunScores
    taxonomy : Taxonomy

    Returns
    -------
    dict of WithInterval
        For each class and metric of `hiwl_core.metrics.class_table`. Of several seeds the mean, with
        Student's interval, which leaves out that other galaxies could have been scored; of one seed its
        figure, with the interval of the galaxies. The precision of a class that some seed never predicts
        counts as 0 there, as in the averages.
    """
    tables = [class_table(run.confusion, taxonomy.classes) for run in runs]
    keys = list(zip(tables[0]["class"], tables[0]["metric"], strict=True))
    if len(tables) == 1:
        estimates = [WithInterval(*row) for row in tables[0][["value", "low", "high"]].to_numpy().tolist()]
    else:
        values = np.stack([table["value"].to_numpy() for table in tables])
        estimates = [_over_seeds(of_seeds) for of_seeds in values.T]
    return dict(zip(keys, estimates, strict=True))


def _over_seeds(values: np.ndarray) -> WithInterval:
    """Mean of shares with its interval, which ends where shares do."""
    if np.isnan(values).all():
        return WithInterval(math.nan, math.nan, math.nan)
    values = np.nan_to_num(values)
    low, high = mean_interval(values)
    return WithInterval(float(values.mean()), max(low, 0.0), min(high, 1.0))


def share(value: float) -> str:
    """A share as text; empty if there is none."""
    return "" if math.isnan(value) else f"{value:.4f}"


def share_cell(figure: WithInterval) -> str:
    """A share with its interval."""
    interval = "" if math.isnan(figure.low) else f" [{share(figure.low)}, {share(figure.high)}]"
    return f"{share(figure.value)}{interval}"


def points_cell(difference: WithInterval) -> str:
    """A difference of shares in points, with its interval if there is one."""
    value, low, high = (f"{100 * one:+.2f}".replace("-", "−") for one in difference)
    return value if math.isnan(difference.low) else f"{value} [{low}, {high}]"


def small_p(p_value: float) -> str:
    """A p-value as text."""
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"


def _verdict(p_value: float, is_significant: bool) -> str:
    return f"p {small_p(p_value)}, {'' if is_significant else 'not '}significant"


def _mean_recall(run: RunScores) -> float:
    return float(np.nanmean(recall(run.confusion)))
