"""The paper's tables and figures from trainings by the real command, a part of them made before."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests.conftest import TINY, TinyData

SHORT = [*TINY, "stage1.epochs=2", "stage2.epochs=1"]


def reproduce(data: TinyData, out: Path, *arguments: str) -> Result:
    """The command on the tiny data, in this process."""
    where = ["--data", data.train, "--val", data.val, "--out", str(out), "--recipe", "demo"]
    changes = [word for setting in SHORT for word in ("--set", setting)]
    return CliRunner().invoke(main, ["reproduce", *arguments, *where, *changes])


def stamps(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


@pytest.mark.usefixtures("ray_session")
def test_what_is_there_is_not_made_again_and_the_rest_is_made_at_once(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    first = reproduce(tiny_data, tmp_path, "table3", "table4", "figure5")
    assert first.exit_code == 0, first.output
    assert "1 trainings, 0 of them done before" in first.stderr
    run = tmp_path / "runs" / "efficientnet_lite0-hiwl-seed0"
    pairs = pd.read_csv(run / "pairs.csv")
    assert len(pairs) == 2 * 1
    figures = pd.read_csv(tmp_path / "table4.csv").set_index(["class", "metric"])
    # What the run chose by is what the table shows.
    assert figures.loc[("all", "accuracy"), "value"] == pytest.approx(pairs["accuracy"][0], abs=1e-5)
    assert pd.read_csv(tmp_path / "table3.csv", index_col=0).to_numpy().sum() == 50
    for name in ("table3", "figure5"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()[:1000]
    assert "| CSS | recall |" in (tmp_path / "table4.md").read_text()

    before = stamps(run)
    second = reproduce(tiny_data, tmp_path, "table9", "table11", "--at-once", "2")
    assert second.exit_code == 0, second.output
    assert "3 trainings, 1 of them done before" in second.stderr
    assert stamps(run) == before
    lines = second.stderr.splitlines()
    # Who speaks is named where several do, and what they share was loaded once.
    for method in ("slwslm", "hmws"):
        own = [line for line in lines if line.startswith(f"efficientnet_lite0-{method}-seed0: ")]
        assert any("stage1 epoch 2/2" in line for line in own)
    assert len([line for line in lines if "train: 140 galaxies in 2 shards" in line]) == 1
    assert pd.read_csv(tmp_path / "table11.csv")["method"].tolist() == ["hiwl", "hmws"]
    assert "slwslm against hiwl: " in second.stdout

    before = stamps(tmp_path / "runs")
    third = reproduce(tiny_data, tmp_path, "table4", "table11")
    assert third.exit_code == 0, third.output
    assert "2 trainings, 2 of them done before" in third.stderr
    assert stamps(tmp_path / "runs") == before

    other = reproduce(tiny_data, tmp_path, "table4", "--test", tiny_data.val)
    assert other.exit_code == 0, other.output
    assert "50 galaxies that no training saw" in other.stdout
    # Scores of a part of their own do not take the place of the others.
    assert (run / "test" / "evaluation.json").exists()
    assert {path: stamp for path, stamp in before.items() if path.stat().st_mtime_ns == stamp} == before
