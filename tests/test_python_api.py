"""`import hiwl`: the verbs as functions, and how their results look in a notebook."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import hiwl
from jobs.cli import VERBS
from pipeline.in_notebooks import InNotebooks
from tests.catalogs import write_catalog

# Of the command alone: they send jobs, serve pages, or print what `load_bundle` and `read_taxonomy` have.
NO_FUNCTIONS = {"submit", "jobs", "doctor", "explore", "models", "taxonomy"}
OTHER_NAMES = {"plan": "estimate", "status": "catalog_status"}


def test_each_name_is_there_and_explained() -> None:
    for name in hiwl.__all__:
        assert inspect.getdoc(getattr(hiwl, name)), name
    assert set(hiwl.__all__) <= set(dir(hiwl))


def test_each_verb_is_a_function() -> None:
    assert set(VERBS) - set(hiwl.__all__) == {*NO_FUNCTIONS, *OTHER_NAMES}
    assert set(OTHER_NAMES.values()) <= set(hiwl.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'clasify'"):
        hiwl.clasify  # noqa: B018


def test_a_question_does_not_wait_for_pytorch(tmp_path: Path) -> None:
    script = "import sys, hiwl; hiwl.query; print({'torch', 'ray'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


class Cells(HTMLParser):
    """The texts of a page's cells, and its tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())


@dataclass
class Night(InNotebooks):
    """One of each kind of field."""

    place: str
    galaxies: int
    share: float
    whole: bool
    nothing: None = None
    by_class: Counter[str] = field(default_factory=Counter)
    by_part: dict[str, dict[str, int]] = field(default_factory=dict)
    table: pd.DataFrame | None = None
    lines: list[str] = field(default_factory=list)


def test_facts_and_tables() -> None:
    night = Night(
        "<script>alert(1)</script>",
        1_234_567,
        0.98765,
        True,
        by_class=Counter(CSS=1, SPI=20),
        by_part={"train": {"CRS": 8}, "val": {"CRS": 1, "EO": 2}},
        table=pd.DataFrame({"<b>": ["<i>x</i>"]}),
        lines=[f"<u>{number}" for number in range(30)],
    )
    seen = Cells(night._repr_html_())
    assert {"script", "b", "i", "u"}.isdisjoint(seen.tags)
    words = " | ".join(seen.texts)
    assert words.startswith(
        "Night | place | <script>alert(1)</script> | galaxies | 1,234,567 | share | 0.9877 | whole | yes"
    )
    assert "by class | SPI | 20 | CSS | 1 | by part | train | val | CRS | 8 | 1 | EO | 0 | 2" in words
    assert words.endswith("<u>19 | and 10 more")
    assert "nothing" not in seen.texts


def test_an_answer_is_a_table(tmp_path: Path) -> None:
    write_catalog(tmp_path, parts=1, rows_per_part=40)
    answer = hiwl.query(str(tmp_path), "SELECT object_id, '<b>' AS odd FROM catalog ORDER BY object_id")
    seen = Cells(answer._repr_html_())
    assert "b" not in seen.tags
    assert seen.texts[:4] == ["object_id", "odd", str(answer.df()["object_id"][0]), "<b>"]
    assert f"and {len(answer.table()) - 20:,} more rows" in seen.texts
