"""``hiwl select`` from the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hiwl_core.selection import required_columns
from jobs.select import main

SMOOTH = {"Class1.1": "0.9", "Class1.2": "0.1", "Class7.2": "0.9", "Class2.1": "0.1"}
ON_THE_THRESHOLD = {"Class1.1": "0.5", "Class1.2": "0.1", "Class7.2": "0.50", "Class2.1": "0.1"}


def write_votes(path: Path, rows: list[tuple[str, dict[str, str]]], id_column: str = "GalaxyID") -> Path:
    columns = required_columns()
    lines = [",".join([id_column, *columns])]
    lines += [",".join([identifier, *(row.get(name, "0") for name in columns)]) for identifier, row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_select_writes_classes_and_rejects(tmp_path: Path) -> None:
    ids = [str(1237648720693755918 + index) for index in range(9)]
    rows = [("99", ON_THE_THRESHOLD), *((name, SMOOTH) for name in reversed(ids)), ("5", SMOOTH), ("7", {})]
    votes = write_votes(tmp_path / "votes.csv", [*rows, ("7", SMOOTH)])
    result = run(votes, tmp_path / "classes.csv")
    assert result.exit_code == 0, result.output
    classes = read(tmp_path / "classes.csv")
    assert list(classes[0]) == ["GalaxyID", "class", "split"]
    assert [row["GalaxyID"] for row in classes] == ["5", *ids]
    assert {row["class"] for row in classes} == {"IBS"}
    assert sorted(row["split"] for row in classes) == ["test", *["train"] * 8, "val"]
    rejects = [(row["GalaxyID"], row["reason"]) for row in read(tmp_path / "classes.rejects.csv")]
    assert rejects == [("7", "duplicate id"), ("7", "duplicate id"), ("99", "ambiguous")]
    assert "IBS             8        1        1       10" in result.stdout
    assert "duplicate id: 2" in result.stdout

    first = (tmp_path / "classes.csv").read_bytes()
    assert run(votes, tmp_path / "again.csv").exit_code == 0
    assert (tmp_path / "again.csv").read_bytes() == first


def test_another_id_column_and_a_url(tmp_path: Path) -> None:
    votes = write_votes(tmp_path / "votes.csv", [("J1+2", SMOOTH)], id_column="objid")
    out = tmp_path / "new" / "classes.csv"
    assert run(f"file://{votes}", f"file://{out}", "--id-column", "objid").exit_code == 0
    assert read(out) == [{"GalaxyID": "J1+2", "class": "IBS", "split": "train"}]


@pytest.mark.parametrize("bad", ["1.23e17", "587.0", "1E+18", ""])
def test_bad_ids_are_named(tmp_path: Path, bad: str) -> None:
    votes = write_votes(tmp_path / "votes.csv", [("1", SMOOTH), (bad, SMOOTH)])
    message = one_line_error(run(votes, tmp_path / "out.csv"))
    assert "row 2" in message
    assert bad in message
    assert not (tmp_path / "out.csv").exists()


def test_missing_columns(tmp_path: Path) -> None:
    (tmp_path / "votes.csv").write_text("GalaxyID,Class1.1\n1,0.5\n")
    message = one_line_error(run(tmp_path / "votes.csv", tmp_path / "out.csv"))
    assert "'Class7.1'" in message
    assert "'Class1.1'" not in message
    votes = write_votes(tmp_path / "other.csv", [("1", SMOOTH)], "objid")
    message = one_line_error(run(votes, tmp_path / "out.csv"))
    assert "'GalaxyID'" in message
    assert "--id-column" in message


@pytest.mark.parametrize("content", ["", "GalaxyID,GalaxyID\n1,2\n", "GalaxyID,Class1.1\n1\n", "\xff\xfe"])
def test_not_a_table(tmp_path: Path, content: str) -> None:
    (tmp_path / "votes.csv").write_bytes(content.encode("latin-1"))
    assert "votes.csv" in one_line_error(run(tmp_path / "votes.csv", tmp_path / "out.csv"))


def test_missing_file_and_same_file(tmp_path: Path) -> None:
    assert "nothing.csv" in one_line_error(run(tmp_path / "nothing.csv", tmp_path / "out.csv"))
    votes = write_votes(tmp_path / "votes.csv", [("1", SMOOTH)])
    assert "itself" in one_line_error(run(votes, votes))


def test_help_has_an_example() -> None:
    assert "hiwl select sky/votes.csv" in run("--help").output


def one_line_error(result: Result) -> str:
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr
