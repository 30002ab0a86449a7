"""What is to be said of probabilities, cell by cell and dot by dot for a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from hiwl_core.metrics import WithInterval
from hiwl_core.probability_scores import ALL, SIDES, ProbabilityScores

__all__ = [
    "CoverageRow",
    "Curve",
    "Dot",
    "MetricRow",
    "Panel",
    "ShownProbabilities",
    "metric_title",
    "shown_probabilities",
]

TITLES = {
    "nll": "Negative log likelihood, nats",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "accuracy": "Accuracy of the most probable class",
}
ALL_TITLE = "most probable class"
SIDE = 100
"""Of a panel, in units of its drawing."""


class MetricRow(NamedTuple):
    """A metric before and after calibration; None on a side that there is not."""

    name: str
    before: WithInterval | None
    after: WithInterval | None


class CoverageRow(NamedTuple):
    """How often the sets of a class's galaxies hold it; None for a class without any."""

    name: str
    share: WithInterval | None
    mean_size: float
    galaxies: int
    of_all: bool


class Dot(NamedTuple):
    """A bin of a curve, with its interval, in the units of a panel."""

    x: float
    y: float
    low: float
    high: float
    words: str


class Curve(NamedTuple):
    """A reliability curve: ``before`` or ``after``."""

    side: str
    line: str
    dots: Sequence[Dot]


class Panel(NamedTuple):
    """The curves of a class, or of the most probable one."""

    name: str
    errors: str
    curves: Sequence[Curve]


class ShownProbabilities(NamedTuple):
    """All of it."""

    metrics: Sequence[MetricRow]
    coverage: Sequence[CoverageRow]
    panels: Sequence[Panel]


def shown_probabilities(scores: ProbabilityScores | None) -> ShownProbabilities | None:
    """What a page shows of the scores; None if there are none."""
    if scores is None:
        return None
    metrics = [
        MetricRow(metric_title(row["metric"]), *(_figure(row, side) for side in SIDES))
        for row in scores.table.to_dict("records")
    ]
    covered = [] if scores.coverage is None else scores.coverage.to_dict("records")
    return ShownProbabilities(metrics, [_coverage(row) for row in covered], _panels(scores))


def metric_title(metric: str) -> str:
    """A metric's name in words; see `hiwl_core.reliability.probability_table`."""
    return TITLES.get(metric) or f"ECE of {metric.removeprefix('ece_')}"


def _figure(row: dict[Any, Any], side: str) -> WithInterval | None:
    figure = WithInterval(row[side], row[f"{side}_low"], row[f"{side}_high"])
    return None if math.isnan(figure.value) else figure


def _coverage(row: dict[Any, Any]) -> CoverageRow:
    share = WithInterval(row["coverage"], row["low"], row["high"]) if row["count"] else None
    return CoverageRow(row["class"], share, row["mean_size"], row["count"], row["class"] == ALL)


def _panels(scores: ProbabilityScores) -> list[Panel]:
    errors = scores.table.set_index("metric")
    panels = []
    for name, curves in scores.curves.groupby("class", sort=False):
        of_it = errors.loc["ece" if name == ALL else f"ece_{name}", list(SIDES)].dropna()
        panels.append(
            Panel(
                ALL_TITLE if name == ALL else str(name),
                " → ".join(f"{error:.4f}" for error in of_it),
                [_curve(str(side), curve) for side, curve in curves.groupby("side", sort=False)],
            )
        )
    return panels


def _curve(side: str, curve: pd.DataFrame) -> Curve:
    dots = []
    for row in curve[curve["count"] > 0].to_dict("records"):
        words = (
            f"{side}: {row['count']:,} with {row['bin_low']:.2f} to {row['bin_high']:.2f}, on average "
            f"{row['mean_confidence']:.3f}; share {row['accuracy']:.3f}"
        )
        y, low, high = (round(SIDE * (1 - row[name]), 1) for name in ("accuracy", "low", "high"))
        dots.append(Dot(round(SIDE * row["mean_confidence"], 1), y, low, high, words))
    return Curve(side, " ".join(f"{dot.x},{dot.y}" for dot in dots), dots)
