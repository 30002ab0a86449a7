"""The paper's tables and figures from trainings by the real command, a part of them made before."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from pipeline.lease import Lease
from tests.conftest import TINY, TinyData
from tests.drawings import CLASSES, write_labeled_shard

# Those of the session's run, which is a training of the grid.
SETTINGS = (*TINY, "finish=calibration")


def reproduce(data: TinyData, out: Path, *arguments: str) -> Result:
    """The command on the tiny data, in this process."""
    where = ["--data", data.train, "--val", data.val, "--out", str(out), "--recipe", "demo"]
    changes = [word for setting in SETTINGS for word in ("--set", setting)]
    return CliRunner().invoke(main, ["reproduce", *arguments, *where, *changes])


def stamps(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def run(ray_session: None, tiny_run: Path, tmp_path: Path) -> Path:
    """A training of the grid that `hiwl train` made, and which lacks its scores."""
    return Path(shutil.copytree(tiny_run, tmp_path / "runs" / "efficientnet_lite0-hiwl-seed0"))


@pytest.mark.slow
def test_what_is_there_is_not_made_again_and_the_rest_is_made_at_once(
    tiny_data: TinyData, run: Path, tmp_path: Path
) -> None:
    before = stamps(run)
    first = reproduce(tiny_data, tmp_path, "table3", "table4", "figure5")
    assert first.exit_code == 0, first.output
    assert "1 trainings, 0 of them done before" in first.stderr
    assert "epoch 1/" not in first.stderr
    assert {path: stamp for path, stamp in stamps(run).items() if path in before} == before
    pairs = pd.read_csv(run / "pairs.csv")
    figures = pd.read_csv(tmp_path / "table4.csv").set_index(["class", "metric"])
    # What the run chose by is what the table shows.
    assert figures.loc[("all", "accuracy"), "value"] == pytest.approx(pairs["accuracy"][0], abs=1e-5)
    matrix = pd.read_csv(tmp_path / "table3.csv", index_col=0)
    assert (matrix[list(CLASSES)].to_numpy().sum(), matrix["paper: CSS"]["CSS"]) == (50, 41)
    assert "stage2: 4 epochs, the best " in first.stdout
    assert "in the paper 96 epochs, the best 0.9530 (epoch 47)" in first.stdout
    for name in ("table3", "figure5"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()[:1000]
    assert "| CSS | recall |" in (tmp_path / "table4.md").read_text()
    assert f"Recipe demo, {', '.join(SETTINGS)}, seed 0, scored on 50 validation galaxies" in first.stdout

    before = stamps(run)
    second = reproduce(tiny_data, tmp_path, "table5", "table8", "figure6", "--at-once", "2")
    assert second.exit_code == 0, second.output
    assert "3 trainings, 1 of them done before" in second.stderr
    assert stamps(run) == before
    lines = second.stderr.splitlines()
    # Who speaks is named where several do, and what they share was loaded once.
    for method in ("slwslm", "plain"):
        own = [line for line in lines if line.startswith(f"efficientnet_lite0-{method}-seed0: ")]
        assert any("stage1 epoch 4/4" in line for line in own)
    assert len([line for line in lines if "train: 140 galaxies in 2 shards" in line]) == 1
    slwslm = pd.read_csv(tmp_path / "table5.csv").set_index(["method", "class", "metric"])["paper"]
    assert slwslm["slwslm", "CSS", "recall"] == 0.6207
    assert pd.read_csv(tmp_path / "table8.csv")["sample"].iloc[-1] == "50 galaxies"
    assert (tmp_path / "figure6.png").read_bytes().startswith(b"\x89PNG")
    assert "slwslm against hiwl: " in second.stdout

    # The same galaxies elsewhere are the same.
    moved = TinyData(tiny_data.train, shutil.copytree(tiny_data.val, tmp_path / "moved").as_posix())
    before = stamps(tmp_path / "runs")
    third = reproduce(moved, tmp_path, "table4", "table5")
    assert third.exit_code == 0, third.output
    assert "2 trainings, 2 of them done before" in third.stderr
    assert stamps(tmp_path / "runs") == before

    test = str(write_labeled_shard(tmp_path / "test.parquet", dict.fromkeys(CLASSES, 6), first_id=20_000))
    unseen = reproduce(tiny_data, tmp_path, "table4", "--test", test)
    assert unseen.exit_code == 0, unseen.output
    assert "30 galaxies that no training saw" in unseen.stdout
    # Scores of a part of their own do not take the place of the others.
    assert (run / "test" / "evaluation.json").exists()
    assert {path: stamp for path, stamp in before.items() if path.stat().st_mtime_ns == stamp} == before
    for path, option in ((tiny_data.val, "--val"), (tiny_data.train, "--data")):
        seen = reproduce(tiny_data, tmp_path, "table4", "--test", path)
        assert seen.exit_code == 2
        assert f"is a shard of {option} too (" in seen.stderr
    write_labeled_shard(tmp_path / "test.parquet", dict.fromkeys(CLASSES, 6), first_id=30_000)
    changed = reproduce(tiny_data, tmp_path, "table4", "--test", test)
    assert changed.exit_code == 2
    assert f"{run}/test has the scores of other galaxies" in changed.stderr


def test_a_training_that_fails_costs_what_is_made_of_it_and_nothing_else(
    tiny_data: TinyData, run: Path, tmp_path: Path
) -> None:
    # Where its scores would go there is a file: no mistake that is foreseen.
    (run / "evaluation").write_text("in the way")
    failed = reproduce(tiny_data, tmp_path, "table4", "figure4")
    assert failed.exit_code == 1, failed.output
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("failed: ")]
    assert "efficientnet_lite0-hiwl-seed0" in line
    assert "1 of the trainings failed, so table4 could not be made" in failed.stderr
    assert (tmp_path / "figure4.png").exists()
    assert not (tmp_path / "table4.csv").exists()
    (run / "evaluation").unlink()
    with Lease(str(tmp_path), "hiwl reproduce", keep=False):
        refused = reproduce(tiny_data, tmp_path, "table4")
    assert refused.exit_code == 2
    assert f"{tmp_path} is being written by hiwl reproduce of " in refused.stderr
    again = reproduce(tiny_data, tmp_path, "table4")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "table4.csv").exists()
