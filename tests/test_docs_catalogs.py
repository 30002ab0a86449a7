"""What docs/catalogs.md says is run as it stands there, and gives the right numbers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Table
from click.testing import CliRunner

from hiwl_core.statuses import STATUSES
from jobs.cli import main
from pipeline.catalog.catalog_schema import FEATURES
from pipeline.publication.publish import publish
from tests.catalogs import write_catalog

PAGE = (Path(__file__).parents[1] / "docs" / "catalogs.md").read_text()
SECTIONS = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
Numbers = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A folder with a catalog and its published form, under the names that the page uses, and the rows."""
    folder = tmp_path_factory.mktemp("docs")
    rows = write_catalog(folder / "catalog", 4, 3000).to_pandas()
    publish(str(folder / "catalog"), str(folder / "published"), max_rows=4000)
    return folder, rows


def by_label(rows: pd.DataFrame, counts: pd.DataFrame) -> bool:
    found = {
        label: n for label, n in zip(counts["label"], counts["n"], strict=True) if isinstance(label, str)
    }
    return found == rows["label"].value_counts().to_dict()


def within(rows: pd.DataFrame, degrees: float) -> list[int]:
    distance = SkyCoord(184.95, 30.5, unit="deg").separation(SkyCoord(rows["ra"], rows["dec"], unit="deg"))
    return sorted(rows["object_id"][distance <= degrees * units.deg])


def check_hiwl(rows: pd.DataFrame, seen: Numbers) -> None:
    assert by_label(rows, seen["counts"])
    assert sorted(seen["nearby"]["object_id"]) == within(rows, 2) != []


def check_duckdb(rows: pd.DataFrame, seen: Numbers) -> None:
    assert by_label(rows, seen["counts"])
    box = rows[rows["ra"].between(184, 186) & rows["dec"].between(30, 31)]
    assert sorted(seen["nearby"]["object_id"]) == sorted(box["object_id"])
    assert list(seen["nearby"].columns) == ["_healpix_29", *rows.columns]


def check_pandas(rows: pd.DataFrame, seen: Numbers) -> None:
    assert seen["frame"]["object_id"].tolist() == rows["object_id"].tolist()
    assert sorted(seen["nearby"]["object_id"]) == sorted(rows.query("184 < ra < 186")["object_id"])
    assert list(seen["nearby"].columns) == ["_healpix_29", *rows.columns]


def check_polars(rows: pd.DataFrame, seen: Numbers) -> None:
    assert seen["rare"]["object_id"].to_list() == rows["object_id"][rows["label"] == "CSS"].tolist()
    assert seen["total"] == len(rows)


def check_astropy(rows: pd.DataFrame, seen: Numbers) -> None:
    assert set(seen["table"]["object_id"].tolist()) < set(rows["object_id"])
    assert seen["printed"].startswith("deg pos.eq.ra;meta.main Calibrated probability of CSS")


def check_lsdb(rows: pd.DataFrame, seen: Numbers) -> None:
    assert sorted(seen["nearby"]["object_id"]) == within(rows, 2)


def check_ids(rows: pd.DataFrame, seen: Numbers) -> None:
    assert seen["joined"]["object_id"].tolist() == rows["object_id"].tolist()


CHECKS: dict[str, Callable[[pd.DataFrame, Numbers], None]] = {
    "HIWL": check_hiwl,
    "DuckDB": check_duckdb,
    "pandas": check_pandas,
    "Polars": check_polars,
    "astropy": check_astropy,
    "lsdb": check_lsdb,
    "Ids": check_ids,
}


def test_each_snippet_has_a_check() -> None:
    assert {name for name, text in SECTIONS.items() if "```python" in text} == set(CHECKS)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "lsdb" else n for n in CHECKS]
)
def test_the_snippet_runs_and_is_right(
    folder: tuple[Path, pd.DataFrame],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, rows = folder
    monkeypatch.chdir(place)
    seen: Numbers = {}
    for block in re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL):
        exec(compile(block, f"docs/catalogs.md, {name}", "exec"), seen)
    CHECKS[name](rows, {**seen, "printed": capsys.readouterr().out})


def test_the_queries_of_the_page(folder: tuple[Path, pd.DataFrame], monkeypatch: pytest.MonkeyPatch) -> None:
    place, rows = folder
    monkeypatch.chdir(place)
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    outputs = []
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "hiwl"
        if words[1] == "query":
            result = CliRunner().invoke(main, words[1:])
            assert result.exit_code == 0, (line, result.output)
            outputs.append(result.stdout)
    assert str((rows["label"] == "SPI").sum()) in outputs[0].split()
    # A heading, a rule, at most 40 rows, and a line about the others.
    assert len(outputs[1].splitlines()) == 2 + min(len(within(rows, 2)), 41)
    assert len(Table.read(place / "css.fits")) == (rows["p_css"] > np.float32(0.9)).sum() > 0
    assert len(pd.read_csv(place / "rejects.csv")) == (rows["status"] != "ok").sum() > 0


def test_the_tables_are_those_of_the_code(folder: tuple[Path, pd.DataFrame]) -> None:
    _, rows = folder
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", SECTIONS["Columns"], re.MULTILINE)))
    # What only some catalogs have comes after what all have at that place.
    assert [name for name in named if name != FEATURES] == [*rows.columns, *STATUSES]
    assert FEATURES in named
