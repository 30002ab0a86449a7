"""The clean-sample rules on their thresholds, and the authors' split."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from hiwl_core.errors import UserError
from hiwl_core.selection import GALAXY_ZOO_RULES, required_columns, select_clean, split_811

# A galaxy that meets each class's rule; the cumulative sums hold.
SMOOTH = {"Class1.1": 0.9, "Class1.2": 0.1, "Class2.2": 0.1, "Class4.2": 0.1}
FEATURED = {"Class1.1": 0.1, "Class1.2": 0.9, "Class7.2": 0.1}
CLEAN = {
    "CRS": SMOOTH | {"Class7.1": 0.8, "Class7.2": 0.1},
    "IBS": SMOOTH | {"Class7.1": 0.2, "Class7.2": 0.7},
    "CSS": SMOOTH | {"Class7.3": 0.9},
    "EO": FEATURED | {"Class2.1": 0.7, "Class2.2": 0.2, "Class4.1": 0.2},
    "SPI": FEATURED | {"Class2.2": 0.9, "Class4.1": 0.8, "Class4.2": 0.1},
}
THRESHOLDS = [(name, column, value) for name, conditions in GALAXY_ZOO_RULES for column, value in conditions]


def votes(*rows: dict[str, float], ids: list[str] | None = None) -> pd.DataFrame:
    table = pd.DataFrame([dict.fromkeys(required_columns(), 0.0) | row for row in rows])
    table.insert(0, "GalaxyID", ids or [str(100 + index) for index in range(len(rows))])
    return table


@pytest.mark.parametrize("name", CLEAN)
def test_each_class_is_found(name: str) -> None:
    found = select_clean(votes(CLEAN[name]))
    assert found["class"].tolist() == [name]
    assert found["reason"].tolist() == [None]


@pytest.mark.parametrize(("name", "column", "threshold"), THRESHOLDS)
def test_thresholds_are_strict(name: str, column: str, threshold: float) -> None:
    # Without the sums, so that each threshold is met alone.
    on, above = (CLEAN[name] | {column: value} for value in (threshold, np.nextafter(threshold, 1)))
    found = select_clean(votes(on, above), sums=())
    assert found["class"].tolist() == [None, name]
    assert found["reason"].tolist() == ["ambiguous", None]


def test_the_thresholds_are_the_papers() -> None:
    assert {value for _, _, value in THRESHOLDS} == {0.469, 0.430, 0.602, 0.715, 0.619, 0.50}


@pytest.mark.parametrize(
    "change",
    [
        {"Class7.1": 0.81},  # 7.1 + 7.2 + 7.3 is not 1.1
        {"Class2.1": 0.01},
        {"Class4.1": 0.01},
        {"Class4.2": float("nan")},
        {"Class1.1": 1.2, "Class7.1": 1.1},
        {"Class7.3": -0.1, "Class7.1": 0.9},
    ],
)
def test_impossible_votes(change: dict[str, float]) -> None:
    found = select_clean(votes(CLEAN["CRS"] | change, CLEAN["CRS"]))
    assert found["reason"].tolist() == ["impossible", None]


def test_sums_are_cumulative_within_a_tolerance() -> None:
    near, far = (CLEAN["IBS"] | {"Class7.3": excess} for excess in (0.9e-4, 1.1e-4))
    assert select_clean(votes(near, far))["reason"].tolist() == [None, "impossible"]


def test_text_among_the_votes_is_impossible() -> None:
    table = votes(CLEAN["EO"]).astype({"Class1.1": object})
    table.loc[0, "Class1.1"] = "many"
    assert select_clean(table)["reason"].tolist() == ["impossible"]


def test_duplicates_are_all_rejected() -> None:
    found = select_clean(votes(CLEAN["EO"], CLEAN["CSS"], CLEAN["SPI"], ids=["7", "8", "7"]))
    assert found["reason"].tolist() == ["duplicate id", None, "duplicate id"]


def test_two_rules_met() -> None:
    both = CLEAN["CRS"] | {"Class7.2": 0.8}
    assert select_clean(votes(both), sums=())["reason"].tolist() == ["several classes"]
    assert select_clean(votes(both))["reason"].tolist() == ["impossible"]


def test_another_taxonomys_rules() -> None:
    table = pd.DataFrame({"name": ["a", "b"], "bar": [0.9, 0.2]})
    found = select_clean(table, id_column="name", rules=(("BARRED", (("bar", 0.5),)),), sums=())
    assert found["class"].tolist() == ["BARRED", None]
    assert set(split_811(list(range(10)), ["BARRED"] * 10, order=("BARRED",))) == {"train", "val", "test"}


def test_missing_columns_are_named() -> None:
    with pytest.raises(UserError, match=r"'Class4.2'"):
        select_clean(votes(CLEAN["EO"]).drop(columns="Class4.2"))


def test_no_rows() -> None:
    assert len(select_clean(votes(CLEAN["EO"]).iloc[:0])) == 0
    assert len(split_811([], [])) == 0


COUNTS = {"CRS": 8434, "IBS": 8069, "CSS": 578, "EO": 3903, "SPI": 7806}


def test_split_of_the_papers_sample() -> None:
    classes = [name for name, count in COUNTS.items() for _ in range(count)]
    random.Random(5).shuffle(classes)
    ids = list(range(100000, 100000 + len(classes)))
    split = split_811(ids, classes)
    assert Counter(split.tolist()) == {"train": 23031, "val": 2878, "test": 2881}
    # The paper's Table 2.
    by_class = {
        name: tuple(Counter(split[np.array(classes) == name])[part] for part in ("train", "val", "test"))
        for name in COUNTS
    }
    assert by_class == {
        "CRS": (6747, 843, 844),
        "IBS": (6455, 807, 807),
        "CSS": (462, 58, 58),
        "EO": (3122, 390, 391),
        "SPI": (6245, 780, 781),
    }
    assert np.array_equal(split, split_811([str(identifier) for identifier in ids], classes))
    assert not np.array_equal(split, split_811(ids, classes, seed=1))

    # The order of the rows does not matter, only the names.
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = split_811([ids[row] for row in order], [classes[row] for row in order])
    assert np.array_equal(shuffled, split[order])


def test_split_follows_the_authors_recipe() -> None:
    ids = [f"{number}" for number in range(500, 540)]
    classes = ["IBS"] * 25 + ["CSS"] * 15
    random.seed(0)
    expected = dict.fromkeys(ids, "train")
    for members in (ids[:25], ids[25:]):
        drawn = random.sample([f"{name}.jpg" for name in members], round(0.2 * len(members)))
        for place, name in enumerate(sorted(drawn)):
            expected[name.removesuffix(".jpg")] = "val" if place < len(drawn) // 2 else "test"
    assert split_811(ids, classes).tolist() == list(expected.values())


def test_split_refuses_strangers_and_duplicates() -> None:
    with pytest.raises(UserError, match="'X'"):
        split_811([1], ["X"])
    with pytest.raises(UserError, match="'7'"):
        split_811([7, 8, 7], ["EO"] * 3)
