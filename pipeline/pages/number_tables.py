"""Tables of numbers for a page: each column in the form that its name asks for, and some rows marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

__all__ = ["NumberTable", "number_table"]

# Of tables of epochs and of pairs.
TITLES = {
    "learning_rate": "learning rate",
    "train_loss": "train loss",
    "val_loss": "val loss",
    "val_accuracy": "val accuracy",
    "mean_recall": "mean recall",
    "images_per_second": "images/s",
}
WHOLE = ("images_per_second", "seconds", "workers", "input_size")
RECALL = re.compile("^(val_)?recall_")
EPOCH = re.compile("^stage([0-9]+)_epoch$")


@dataclass(frozen=True)
class NumberTable:
    """A table as text.

    Parameters
    ----------
    titles : sequence of str
        Of the columns.
    rows : sequence of sequence of str
    marks : sequence of str
        For each row a word, or nothing.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    marks: Sequence[str]


def number_table(table: pd.DataFrame, marks: Mapping[int, str], without: Sequence[str] = ()) -> NumberTable:
    """A table of epochs or pairs.

    Parameters
    ----------
    table : pandas.DataFrame
    marks : mapping of str
        By position of the row.
    without : sequence of str
        Columns that are not shown.
    """
    names = [str(name) for name in table.columns if name not in without]
    return NumberTable(
        titles=[TITLES.get(name) or _in_words(name) for name in names],
        rows=[
            [_text(name, value) for name, value in zip(names, row, strict=True)]
            for row in table[names].itertuples(index=False)
        ],
        marks=[marks.get(position, "") for position in range(len(table))],
    )


def _text(name: str, value: object) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if name == "learning_rate":
        return f"{value:.1e}"
    if name.endswith("epoch") or name in WHOLE:
        return f"{value:,.0f}"
    return "" if value != value else f"{value:.4f}"


def _in_words(name: str) -> str:
    return EPOCH.sub(r"stage \1", RECALL.sub("recall ", name)).replace("_", " ")
