"""Which objects train, select and test: each class by its shares, and no group on two sides."""

from __future__ import annotations

from collections import Counter

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from hiwl_core.errors import UserError
from pipeline.ingestion.split import Split, sky_cells

CLASSES = {"CRS": 500, "EO": 130, "CSS": 20}


def objects(together: list[str | None] | None = None) -> pd.DataFrame:
    labels = [name for name, count in CLASSES.items() for _ in range(count)]
    table = pd.DataFrame({"object_id": [f"J{row}" for row in range(len(labels))], "label": labels})
    table["together"] = None if together is None else together
    return table.astype({"together": "object"})


def parts(split: Split, table: pd.DataFrame) -> dict[str, str]:
    with duckdb.connect() as database:
        database.register("given", pa.Table.from_pandas(table))
        return dict(database.execute(split.query("given")).fetchall())


def test_each_class_has_its_shares_and_the_order_of_the_rows_is_no_matter() -> None:
    table, split = objects(), Split.parse("8:1:1", seed=3)
    found = parts(split, table)
    assert len(found) == 650
    for name, count in CLASSES.items():
        of_class = Counter(found[one] for one in table["object_id"][table["label"] == name])
        assert of_class == {"train": 0.8 * count, "val": 0.1 * count, "test": 0.1 * count}
    assert parts(split, table.sample(frac=1, random_state=0)) == found
    other = parts(Split.parse("8:1:1", seed=4), table)
    assert 0.2 < np.mean([found[one] != other[one] for one in found]) < 0.5
    assert set(parts(Split.parse("9:1"), table).values()) == {"train", "val"}


def test_a_group_is_never_on_two_sides() -> None:
    groups = [None if row % 7 == 0 else f"plate {row % 90}" for row in range(650)]
    table = objects(groups)
    found = parts(Split.parse("8:1:1", group_by="plate"), table)
    sides = table.assign(part=table["object_id"].map(found)).groupby("together")["part"].nunique()
    assert (sides == 1).all()
    counts = Counter(found.values())
    assert 0.7 < counts["train"] / 650 < 0.9
    assert min(counts["val"], counts["test"]) > 0.04 * 650


def test_what_has_no_class_has_no_part() -> None:
    table = objects()
    table.loc[::2, "label"] = None
    assert set(parts(Split.parse("1:1"), table)) == set(table["object_id"][1::2])


def test_neighbors_on_the_sky_share_a_cell() -> None:
    ra, dec = pa.array([10.0, 10.0001, 200.0, None, 10.0]), pa.array([5.0, 5.0001, -30.0, 5.0, 95.0])
    first, second, third, *nowhere = sky_cells(ra, dec).to_pylist()
    assert first == second != third
    assert nowhere == [None, None]


@pytest.mark.parametrize("text", ["8", "8:0:2", "8:1:1:1", "a:b", "-1:2", ""])
def test_what_is_no_split_is_said(text: str) -> None:
    with pytest.raises(UserError, match=f"--split {text}: write shares such as 8:1:1"):
        Split.parse(text)
