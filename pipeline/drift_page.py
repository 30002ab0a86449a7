"""Drift on one page: each column as a small histogram, night against reference, and a table of all lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from hiwl_core.drift import STRONG, Histogram, Tally
from pipeline.pages.templates import render

__all__ = ["render_drift"]

VERB = "drift"
# Of a histogram, in units of its drawing.
WIDTH, HEIGHT = 200, 60
KINDS = {"column": "columns", "labels": "labels", "label": "labels", "flag": "flags", "status": "statuses"}


class Bar(NamedTuple):
    """A bin of the night, as a rectangle."""

    x: float
    y: float
    width: float
    height: float
    words: str


class SmallHistogram(NamedTuple):
    """A column of the night as bars and of the reference as a line."""

    name: str
    drift: str
    psi: str
    bars: Sequence[Bar]
    line: str
    low: str
    high: str


class Line(NamedTuple):
    """A row of the table."""

    group: str
    cells: Sequence[str]
    drift: str


def render_drift(
    title: str, facts: Sequence[str], table: pd.DataFrame, night: Tally, reference: Tally, limit: float
) -> str:
    """The page as HTML.

    Parameters
    ----------
    title : str
    facts : sequence of str
        Lines under the title.
    table : pandas.DataFrame
        See `hiwl_core.drift.drift_table`.
    night, reference : Tally
    limit : float
    """
    columns = table[table["kind"] == "column"].to_dict("records")
    return render(
        "drift.html",
        verb=VERB,
        title=title,
        facts=facts,
        limit=f"{limit:g}",
        strong=f"{STRONG * limit:g}",
        size=(WIDTH, HEIGHT),
        histograms=[
            _histogram(row, night.columns[row["name"]], reference.columns[row["name"]]) for row in columns
        ],
        lines=[_line(row) for row in table.to_dict("records")],
    )


def _histogram(row: Mapping[Any, Any], night: Histogram, reference: Histogram) -> SmallHistogram:
    ours, theirs = (one.counts / max(1, one.counts.sum()) for one in (night, reference))
    # Square roots, so that a bin of a percent is seen beside one of nearly all.
    scale = HEIGHT / math.sqrt(max(ours.max(), theirs.max(), 1e-12))
    step = WIDTH / len(ours)
    bars = []
    for index, (share, other) in enumerate(zip(ours.tolist(), theirs.tolist(), strict=True)):
        height = scale * math.sqrt(share)
        words = (
            f"{night.edges[index]:.4g} to {night.edges[index + 1]:.4g}: {100 * share:.2f} %, "
            f"reference {100 * other:.2f} %"
        )
        bars.append(
            Bar(round(step * index, 2), round(HEIGHT - height, 2), round(step, 2), round(height, 2), words)
        )
    corners = []
    for index, share in enumerate(theirs.tolist()):
        y = HEIGHT - scale * math.sqrt(share)
        corners += [f"{step * index:.2f},{y:.2f}", f"{step * (index + 1):.2f},{y:.2f}"]
    return SmallHistogram(
        name=str(row["name"]),
        drift=str(row["drift"]),
        psi=f"{row['psi']:.3f}",
        bars=bars,
        line=" ".join(corners),
        low=f"{night.edges[0]:.3g}",
        high=f"{night.edges[-1]:.3g}",
    )


def _line(row: Mapping[Any, Any]) -> Line:
    def number(name: str, form: str, factor: float = 1) -> str:
        return "" if math.isnan(row[name]) else format(factor * row[name], form)

    def interval(name: str, low: str, high: str, form: str, factor: float = 1) -> str:
        middle = number(name, form, factor)
        return f"{middle} [{number(low, form, factor)}, {number(high, form, factor)}]" if middle else ""

    cells = (
        str(row["name"]),
        interval("psi", "low", "high", ".3f"),
        number("noise", ".3f"),
        number("share", ".2f", 100),
        number("reference", ".2f", 100),
        interval("difference", "difference_low", "difference_high", "+.2f", 100),
    )
    return Line(KINDS[str(row["kind"])], cells, str(row["drift"]))
