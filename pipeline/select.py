"""The clean sample of a vote table: classes and split to one CSV, the rejected rows to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow.compute as pc

from hiwl_core.errors import UserError
from hiwl_core.selection import (
    GALAXY_ZOO_ORDER,
    GALAXY_ZOO_RULES,
    GALAXY_ZOO_SUMS,
    Rules,
    Sums,
    required_columns,
    select_clean,
    split_811,
)
from pipeline import storage
from pipeline.in_notebooks import InNotebooks
from pipeline.ingestion.text_tables import numbers, read_text_table
from pipeline.shards.object_ids import check_id_texts, integer_ids

__all__ = ["SelectionCounts", "rejects_path", "select"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class SelectionCounts(InNotebooks):
    """How many galaxies were selected, by class and split, and how many not, by reason."""

    selected: dict[str, dict[str, int]]
    rejected: dict[str, int]

    def table(self) -> str:
        """The counts as lines of text."""
        lines = [f"{'class':<8}" + "".join(f"{name:>9}" for name in (*SPLITS, "all"))]
        for name, by_split in [*self.selected.items(), ("all", self._totals())]:
            cells = [by_split[split] for split in SPLITS]
            lines.append(f"{name:<8}" + "".join(f"{count:>9,}" for count in (*cells, sum(cells))))
        total = sum(self.rejected.values())
        lines.append(f"not selected: {total:,}" + (":" if total else ""))
        lines += [f"  {reason}: {count:,}" for reason, count in sorted(self.rejected.items())]
        return "\n".join(lines)

    def _totals(self) -> dict[str, int]:
        return {split: sum(by_split[split] for by_split in self.selected.values()) for split in SPLITS}


def rejects_path(out: str) -> str:
    """``classes.rejects.csv`` beside ``classes.csv``."""
    return out.removesuffix(".csv") + ".rejects.csv"


def select(
    votes: str,
    out: str,
    id_column: str = "GalaxyID",
    rules: Rules = GALAXY_ZOO_RULES,
    sums: Sums = GALAXY_ZOO_SUMS,
    order: Sequence[str] = GALAXY_ZOO_ORDER,
    seed: int = 0,
) -> SelectionCounts:
    """Write the clean sample of a vote table.

    Parameters
    ----------
    votes : str
        CSV with an id and vote fractions; path or URL.
    out : str
        CSV to write: ``GalaxyID,class,split``, sorted by id. Beside it `rejects_path` gets
        ``GalaxyID,reason`` for all other rows.
    id_column : str
        What the id is called in `votes`.
    rules, sums, order, seed
        See `hiwl_core.selection`.

    Returns
    -------
    SelectionCounts

    Raises
    ------
    UserError
        If the table cannot be read, columns are missing, an id is missing or a float, or one of the files is
        there and holds anything else.
    """
    if storage.absolute(out) == storage.absolute(votes):
        raise UserError(f"{out!r} is the vote table itself: give the classes another file")
    table = read_text_table(votes)
    columns = required_columns(rules, sums)
    missing = [name for name in (id_column, *columns) if name not in table.column_names]
    if missing:
        mend = "; name the ids' column with --id-column" if id_column in missing else ""
        named, there = ", ".join(map(repr, missing)), ", ".join(table.column_names)
        raise UserError(f"no column {named} in {votes}: it has {there}{mend}")
    if not table.num_rows:
        raise UserError(f"{votes} has a header and no rows")
    ids = table[id_column]
    check_id_texts(ids, votes, id_column)

    integers = integer_ids(ids)
    data = {"GalaxyID": ids.to_pandas(), **{name: numbers(table[name]).to_numpy() for name in columns}}
    frame = pd.DataFrame(data)
    # Integer ids sort as numbers, 99 before 100.
    sort_keys = ids if integers is None else integers
    frame = frame.iloc[pc.sort_indices(sort_keys).to_numpy()].reset_index(drop=True)
    found = select_clean(frame, id_column="GalaxyID", rules=rules, sums=sums)

    clean = found["class"].notna()
    classes = pd.DataFrame({"GalaxyID": frame["GalaxyID"][clean], "class": found["class"][clean]})
    classes["split"] = split_811(classes["GalaxyID"].tolist(), classes["class"].tolist(), order, seed)
    rejects = pd.DataFrame({"GalaxyID": frame["GalaxyID"][~clean], "reason": found["reason"][~clean]})
    # The rejects first: whoever finds the classes finds both.
    files = {rejects_path(out): _csv(rejects), out: _csv(classes)}
    for path, content in files.items():
        if storage.exists(path) and storage.read_bytes(path) != content:
            raise UserError(f"{path} is there and holds something else: remove it, or choose another OUT.csv")
    for path, content in files.items():
        storage.write_bytes(path, content)

    sizes = classes.groupby(["class", "split"]).size().to_dict()
    return SelectionCounts(
        selected={name: {split: int(sizes.get((name, split), 0)) for split in SPLITS} for name, _ in rules},
        rejected={str(reason): int(count) for reason, count in rejects["reason"].value_counts().items()},
    )


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False, lineterminator="\n").encode()
