"""The clean sample: which galaxies the volunteers agree on, and its split into train, val and test.

Thresholds on Galaxy Zoo 2 vote fractions (Willett et al. 2013, MNRAS 435, 2835) as in section 2 of Ma et al.
(2023, MNRAS 519, 4765). The fractions are tree-cumulative, as in the Kaggle challenge's table: the answers to
a question sum to the answer that led to it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hiwl_core.errors import UserError

__all__ = [
    "GALAXY_ZOO_ORDER",
    "GALAXY_ZOO_RULES",
    "GALAXY_ZOO_SUMS",
    "Rules",
    "Sums",
    "required_columns",
    "select_clean",
    "split_811",
]

Rules = tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
"""For each class the columns that must lie above a threshold, all of them and strictly."""

Sums = tuple[tuple[tuple[str, ...], str], ...]
"""For each question with a complete set of answers: the answers' columns and the column they sum to."""

GALAXY_ZOO_RULES: Rules = (
    ("CRS", (("Class1.1", 0.469), ("Class7.1", 0.50))),
    ("IBS", (("Class1.1", 0.469), ("Class7.2", 0.50))),
    ("CSS", (("Class1.1", 0.469), ("Class7.3", 0.50))),
    ("EO", (("Class1.2", 0.430), ("Class2.1", 0.602))),
    ("SPI", (("Class1.2", 0.430), ("Class2.2", 0.715), ("Class4.1", 0.619))),
)

GALAXY_ZOO_SUMS: Sums = (
    (("Class7.1", "Class7.2", "Class7.3"), "Class1.1"),
    (("Class2.1", "Class2.2"), "Class1.2"),
    (("Class4.1", "Class4.2"), "Class2.2"),
)

TOLERANCE = 1e-4
"""How far a sum of answers may be off: the published fractions are rounded."""
GALAXY_ZOO_ORDER = ("IBS", "CSS", "EO", "CRS", "SPI")
"""The order in which the authors drew the classes' samples from one random generator."""


def required_columns(rules: Rules = GALAXY_ZOO_RULES, sums: Sums = GALAXY_ZOO_SUMS) -> tuple[str, ...]:
    """The vote fractions that `select_clean` reads, each once."""
    names = [column for _, conditions in rules for column, _ in conditions]
    names += [column for parts, total in sums for column in (*parts, total)]
    return tuple(dict.fromkeys(names))


def select_clean(
    votes: pd.DataFrame,
    *,
    id_column: str = "GalaxyID",
    rules: Rules = GALAXY_ZOO_RULES,
    sums: Sums = GALAXY_ZOO_SUMS,
) -> pd.DataFrame:
    """A class for each galaxy that the votes agree on, or the reason why it has none.

    Parameters
    ----------
    votes : pandas.DataFrame
        One galaxy a row: the id and the vote fractions of `required_columns`, in [0, 1].
    id_column : str
        Column with the ids.
    rules : tuple of (class, ((column, threshold), ...))
        A class is met where each of its columns is strictly above its threshold.
    sums : tuple of ((column, ...), column)
        Answers that must sum to the answer before them.

    Returns
    -------
    pandas.DataFrame
        Index of `votes`; columns ``class`` and ``reason``, of which one is None in each row. The reasons:
        ``duplicate id`` (all rows of such an id, since none of them is more right than the others),
        ``impossible`` (a fraction missing, outside [0, 1], or a sum violated), ``several classes``, and
        ``ambiguous`` (no class met).

    Raises
    ------
    UserError
        If columns are missing.
    """
    columns = required_columns(rules, sums)
    missing = [name for name in (id_column, *columns) if name not in votes.columns]
    if missing:
        raise UserError(
            f"no column {', '.join(map(repr, missing))} among the votes: they have "
            f"{', '.join(map(str, votes.columns))}"
        )
    fractions = {
        name: pd.to_numeric(votes[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        for name in columns
    }
    rows = len(votes)
    # Written so that NaN, which compares false, counts as impossible.
    possible = np.ones(rows, dtype=bool)
    for fraction in fractions.values():
        possible &= (fraction >= 0) & (fraction <= 1)
    for parts, total in sums:
        excess = sum((fractions[part] for part in parts), np.zeros(rows)) - fractions[total]
        possible &= np.abs(excess) <= TOLERANCE

    met = np.zeros((len(rules), rows), dtype=bool)
    for index, (_, conditions) in enumerate(rules):
        met[index] = np.all([fractions[column] > threshold for column, threshold in conditions], axis=0)
    times_met = met.sum(axis=0)

    reason = np.full(rows, None, dtype=object)
    reason[times_met == 0] = "ambiguous"
    reason[times_met > 1] = "several classes"
    reason[~possible] = "impossible"
    reason[votes[id_column].duplicated(keep=False).to_numpy()] = "duplicate id"

    names = np.array([name for name, _ in rules], dtype=object)
    classes = np.full(rows, None, dtype=object)
    clean = pd.isna(reason)
    classes[clean] = names[met[:, clean].argmax(axis=0)]
    return pd.DataFrame({"class": classes, "reason": reason}, index=votes.index, dtype=object)


def split_811(
    ids: Sequence[object], classes: Sequence[str], order: Sequence[str] = GALAXY_ZOO_ORDER, seed: int = 0
) -> np.ndarray:
    """The authors' split 8:1:1 of each class.

    One generator serves the classes in turn. A fifth of a class is drawn from its sorted file names; walking
    the sorted names, the first half of the drawn ones is for validation and the rest for the test.

    Parameters
    ----------
    ids : sequence, length N
        Object ids, all different; the file names are ``<id>.jpg``.
    classes : sequence of str, length N
    order : sequence of str
        The classes in the order in which they draw.
    seed : int
        Seed of Python's `random.Random`.

    Returns
    -------
    numpy.ndarray of str, shape (N,)
        ``train``, ``val`` or ``test``.

    Raises
    ------
    UserError
        If an id repeats, or a class is not in `order`.
    """
    strangers = sorted({str(name) for name in classes} - set(order))
    if strangers:
        named = ", ".join(map(repr, strangers))
        raise UserError(f"class {named} is not in the split's order {', '.join(order)}")
    names = [f"{identifier}.jpg" for identifier in ids]
    row_of = {name: row for row, name in enumerate(names)}
    if len(row_of) != len(names):
        repeated = next(name for row, name in enumerate(names) if row_of[name] != row)
        identifier = repeated.removesuffix(".jpg")
        raise UserError(f"object id {identifier!r} is there twice: a split needs each object once")

    split = np.full(len(names), "train", dtype="<U5")
    # Python's, as the authors of the paper drew their split.
    generator = random.Random(seed)  # noqa: S311
    for wanted in order:
        of_class = sorted(name for name, given in zip(names, classes, strict=True) if given == wanted)
        drawn = set(generator.sample(of_class, round(0.2 * len(of_class))))
        held_out = [row_of[name] for name in of_class if name in drawn]
        split[held_out[: len(drawn) // 2]] = "val"
        split[held_out[len(drawn) // 2 :]] = "test"
    return split
