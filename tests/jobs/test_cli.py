"""The command around the verbs: its log for programs, and the shell's completion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from jobs.cli import main
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.computing import Computing
from tests.catalogs import write_catalog


def logged(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and the objects of the log."""
    done = CliRunner().invoke(main, ["--log-json", *arguments])
    return done.exit_code, [json.loads(line) for line in done.stderr.splitlines()]


def test_progress_for_programs(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 2, 30)
    code, log = logged("publish", str(tmp_path / "catalog"), str(tmp_path / "published"))
    assert code == 0
    (last,) = [entry for entry in log if entry.get("work") == "sorting"]
    assert (last["done"], last["total"]) == (60, 60)
    assert last["message"].startswith("sorting: 60 of 60 rows, ")
    assert last["per_second"] > 0
    assert datetime.fromisoformat(last["time"]).tzinfo is not None


def test_the_end_for_programs(tmp_path: Path) -> None:
    code, log = logged("verify", str(tmp_path / "nowhere"))
    assert code == 2
    assert log[-1]["exit_code"] == 2
    assert "nowhere" in log[-1]["error"]
    for arguments in (["classify", "--nope"], ["clasify"]):
        code, log = logged(*arguments)
        assert (code, log[-1]["exit_code"]) == (2, 2)
        assert arguments[-1] in log[-1]["error"]
    code, log = logged("verify", str(tmp_path / "nowhere"))
    # The next command of the same process is for people again.
    said = CliRunner().invoke(main, ["verify", str(tmp_path / "nowhere")]).stderr
    assert said == f"Error: {log[-1]['error']}\n"


def test_the_shell_completes_verbs_and_options() -> None:
    def completed(words: str) -> set[str]:
        place = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = subprocess.run(
            [sys.executable, "-c", "from jobs.cli import main; main(prog_name='hiwl')"],
            env=os.environ | place | {"_HIWL_COMPLETE": "bash_complete"},
            capture_output=True,
            text=True,
            check=True,
        )
        return {line.split(",")[1] for line in done.stdout.splitlines()}

    assert completed("hiwl cla") == {"classify"}
    assert {"--carry", "--scale-column", "--positions"} <= completed("hiwl classify --")


@pytest.mark.parametrize("verb", ["classify", "evaluate", "report", "plan"])
def test_verbs_that_score_have_the_same_options(verb: str) -> None:
    contents = {field.name for field in fields(CatalogContents)} - {"keep_truth"}
    wanted = contents | {field.name for field in fields(Computing)} | {"scale_column", "id_column"}
    command = main.get_command(click.Context(main), verb)
    assert command is not None
    assert wanted <= {option.name for option in command.params}
