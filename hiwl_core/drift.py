"""How a night's catalog differs from the galaxies that its model was validated on, or from another catalog.

The measure is the population stability index less its noise, see `hiwl_core.stability`. Intervals are of
95 % for all lines of a table together (Bonferroni): where nothing changes, one night in forty, not one line
in forty, is above zero by chance.

Something *drifts* only where the lower end of its interval is above the limit: 0.1 is customarily called
moderate and 0.25 strong. A share that goes from 1 % to 6 % has an index of 0.09, from nothing to 2 % about
0.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from hiwl_core.errors import UserError
from hiwl_core.flags import FLAGS
from hiwl_core.stability import newcombe, stability_index
from hiwl_core.statuses import OK

__all__ = [
    "DRIFTS",
    "DRIFT_COLUMNS",
    "LIMIT",
    "Histogram",
    "Tally",
    "drift_table",
]

LIMIT = 0.1
"""Above this a drift is moderate, above 2.5 times this it is strong."""
STRONG = 2.5
DRIFTS = ("no", "moderate", "strong")
DRIFT_COLUMNS = (
    *("kind", "name", "psi", "low", "high", "noise", "drift"),
    *("share", "reference", "difference", "difference_low", "difference_high"),
)
CONFIDENCE = 0.95
DRAWS = 4000


class Histogram(NamedTuple):
    """Counts of a column in bins; what is beyond the edges is in the first and the last.

    Parameters
    ----------
    edges : numpy.ndarray of float, shape (B + 1,)
    counts : numpy.ndarray of int, shape (B,)
    """

    edges: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Tally:
    """A catalog in numbers.

    Parameters
    ----------
    rows : int
        Classified galaxies.
    columns : mapping of Histogram
    labels : mapping of int
        Galaxies by class.
    flags : mapping of int
        Galaxies that have a bit, by bit; only the bits that were looked for.
    statuses : mapping of int
        All rows by status, ``ok`` among them.
    """

    rows: int
    columns: Mapping[str, Histogram] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[int, int] = field(default_factory=dict)
    statuses: Mapping[str, int] = field(default_factory=dict)


def drift_table(
    night: Tally,
    reference: Tally,
    limit: float = LIMIT,
    seed: int = 0,
) -> pd.DataFrame:
    """How far each column, the labels, each flag and each status of a night have drifted.

    Parameters
    ----------
    night, reference : Tally
        What only one of them has is not compared.
    limit : float
        Of a moderate drift.
    seed : int
        For noise and intervals.

    Returns
    -------
    pandas.DataFrame
        `DRIFT_COLUMNS`. `kind` is column, labels, label, flag or status. `psi` is the index less its `noise`,
        and not negative; `low` and `high` are its interval, `drift` one of `DRIFTS`. Of flags and statuses it
        is the index of having it or not. A single label has shares only: the labels drift together.
        `difference` is `share` less `reference`, with the interval of `newcombe`.

    Raises
    ------
    UserError
        If the night has no rows, the limit is not positive, or the edges of a column's bins differ.
    """
    if not limit > 0:
        raise UserError(f"limit {limit}: it must be more than 0; {LIMIT} is customary")
    if not sum(night.statuses.values()):
        raise UserError("no rows: there is nothing to compare")
    pairs = list(_pairs(night, reference))
    level = 1 - (1 - CONFIDENCE) / max(1, len(pairs))
    rng = np.random.default_rng(seed)
    rows: list[tuple[object, ...]] = []
    for kind, name, of_night, of_reference in pairs:
        if kind == "label":
            rows.append((kind, name, *[math.nan] * 4, "", *_shares(of_night, of_reference, level)))
            continue
        index = stability_index(of_night, of_reference, level, rng, DRAWS)
        drift = DRIFTS[int(index.low > limit) + int(index.low > STRONG * limit)]
        shares = _shares(of_night, of_reference, level) if kind in ("flag", "status") else [math.nan] * 5
        rows.append((kind, name, *index, drift, *shares))
    return pd.DataFrame(rows, columns=list(DRIFT_COLUMNS))


def _pairs(night: Tally, reference: Tally) -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Kind, name and both counts of all that is compared."""
    pairs: list[tuple[str, str, np.ndarray, np.ndarray]] = []
    tallies = (night, reference)
    if night.rows and reference.rows:
        for name in [name for name in night.columns if name in reference.columns]:
            one, other = (tally.columns[name] for tally in tallies)
            if not np.array_equal(one.edges, other.edges):
                raise UserError(f"the histograms of {name} have different bins: they cannot be compared")
            pairs.append(("column", name, one.counts, other.counts))
        if night.labels and reference.labels:
            labels = list(dict.fromkeys([*reference.labels, *night.labels]))
            of_night, of_reference = (
                np.array([tally.labels.get(name, 0) for name in labels]) for tally in tallies
            )
            pairs.append(("labels", "all", of_night, of_reference))
            for place, name in enumerate(labels):
                ours, theirs = (_having(of[place], of.sum()) for of in (of_night, of_reference))
                pairs.append(("label", name, ours, theirs))
        for bit in [bit for bit in FLAGS if all(bit in tally.flags for tally in tallies)]:
            ours, theirs = (_having(tally.flags[bit], tally.rows) for tally in tallies)
            pairs.append(("flag", FLAGS[bit], ours, theirs))
    all_night, all_reference = (sum(tally.statuses.values()) for tally in tallies)
    if all_reference:
        for name in sorted({*night.statuses, *reference.statuses} - {OK}):
            ours = _having(night.statuses.get(name, 0), all_night)
            theirs = _having(reference.statuses.get(name, 0), all_reference)
            pairs.append(("status", name, ours, theirs))
    return pairs


def _having(count: int, total: int) -> np.ndarray:
    return np.array([count, total - count], dtype=np.int64)


def _shares(night: np.ndarray, reference: np.ndarray, level: float) -> list[float]:
    """Share, the reference's, and their difference with its interval."""
    ours, theirs = int(night.sum()), int(reference.sum())
    share, other = int(night[0]) / ours, int(reference[0]) / theirs
    z = float(norm.ppf(0.5 + level / 2))
    return [share, other, share - other, *newcombe(int(night[0]), ours, int(reference[0]), theirs, z)]
