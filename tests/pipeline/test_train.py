import json
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from hiwl_core.bundle import load_bundle
from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe, load_recipe
from jobs.cli import main
from pipeline.lease import LEASE_FOLDER, Lease
from pipeline.training.checks import default_workers, plan_training
from pipeline.training.train import run_training, train
from tests.conftest import TINY, TinyData, hiwl, kill_driver


def test_a_run_leaves_its_tables_and_a_whole_bundle(tiny_run: Path, tiny_recipe: Recipe) -> None:
    for stage, count in (("stage1", 4), ("stage2", 4)):
        epochs = pd.read_csv(tiny_run / f"{stage}_epochs.csv")
        assert epochs["epoch"].tolist() == list(range(1, count + 1))
        assert epochs["train_loss"].iloc[-1] < epochs["train_loss"].iloc[0]
        best = json.loads((tiny_run / f"{stage}.json").read_text())["best"]
        assert len(best) == 3
        assert [entry["accuracy"] for entry in best] == pytest.approx(
            sorted(epochs["val_accuracy"], reverse=True)[:3], abs=1e-5
        )
    pairs = pd.read_csv(tiny_run / "pairs.csv")
    assert len(pairs) == 9
    assert pairs["accuracy"].is_monotonic_decreasing
    bundle = load_bundle(tiny_run / "bundle")
    assert bundle.provenance["class_counts"] == {"CRS": 36, "IBS": 36, "CSS": 12, "EO": 24, "SPI": 32}
    assert bundle.member_frequencies["stage2"] == pytest.approx([1 / 3, 2 / 3])
    assert bundle.metrics["validation"]["accuracy"] == pytest.approx(pairs["accuracy"].iloc[0], abs=1e-5)
    assert bundle.provenance["recipe"] == tiny_recipe.to_dict()


def test_the_cascade_learns(tiny_run: Path) -> None:
    assert pd.read_csv(tiny_run / "pairs.csv")["accuracy"].iloc[0] > 0.6  # a fifth by chance


def test_a_complete_run_is_not_run_again(
    ray_session: None, tiny_run: Path, tiny_data: TinyData, tiny_recipe: Recipe
) -> None:
    before = {file: file.stat().st_mtime_ns for file in tiny_run.rglob("*") if file.is_file()}
    result = train(tiny_data.train, tiny_data.val, tiny_recipe, str(tiny_run))
    assert result.pairs is None
    assert {file: file.stat().st_mtime_ns for file in tiny_run.rglob("*") if file.is_file()} == before


def test_a_run_from_before_a_key_was_there_is_the_same_run(
    ray_session: None, tiny_run: Path, tiny_data: TinyData, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    description = json.loads((tiny_run / "run.json").read_text())
    del description["recipe"]["hierarchy"], description["recipe"]["stage1"]["smoothing"]
    (tmp_path / "bundle").mkdir()
    (tmp_path / "run.json").write_text(json.dumps(description))
    (tmp_path / "bundle" / "bundle.json").write_bytes((tiny_run / "bundle" / "bundle.json").read_bytes())
    assert train(tiny_data.train, tiny_data.val, tiny_recipe, str(tmp_path)).pairs is None
    flat = load_recipe("demo", [*TINY, "finish=calibration", "hierarchy=false"])
    with pytest.raises(UserError, match=r"another recipe\.hierarchy \(True, now False\)"):
        train(tiny_data.train, tiny_data.val, flat, str(tmp_path))


def test_another_run_in_the_same_folder_is_refused(
    tiny_run: Path, tiny_data: TinyData, tiny_recipe: Recipe
) -> None:
    other = load_recipe("demo", [*TINY, "finish=calibration", "stage1.optimizer.lr=0.5"])
    with pytest.raises(UserError, match=r"another recipe\.stage1\.optimizer\.lr \(0\.003, now 0\.5\)"):
        train(tiny_data.train, tiny_data.val, other, str(tiny_run))
    with pytest.raises(UserError, match=r"another train "):
        train(tiny_data.val, tiny_data.val, tiny_recipe, str(tiny_run))


def test_of_two_trains_in_one_folder_the_second_is_refused_in_a_line(
    tiny_run: Path, tiny_data: TinyData, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    where = ["--data", tiny_data.train, "--val", tiny_data.val, "--out", str(out)]
    settings = [word for key in (*TINY, "finish=calibration") for word in ("--set", key)]
    with Lease(str(out), "hiwl train", keep=False):
        answer = CliRunner().invoke(main, ["train", *where, "--recipe", "demo", *settings])
    assert answer.exit_code == 2
    assert f"Error: {out} is being written by hiwl train of " in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not out.exists()
    # One that has ended meanwhile is the run that was wanted.
    plan = plan_training(tiny_data.train, tiny_data.val, tiny_recipe, str(tiny_run))
    assert not (tiny_run / LEASE_FOLDER).exists()
    assert run_training(plan).pairs is None


def test_too_many_workers_for_a_batch_are_refused(
    tiny_data: TinyData, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="--workers 9: the smallest batch has"):
        train(tiny_data.train, tiny_data.val, tiny_recipe, str(tmp_path), workers=9)


def test_a_class_without_a_galaxy_is_refused(
    tiny_data: TinyData, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    from tests.drawings import write_labeled_shard

    shard = write_labeled_shard(tmp_path / "a.parquet", {"CRS": 4, "IBS": 4, "EO": 4, "SPI": 4})
    with pytest.raises(UserError, match=r"no training galaxy of class CSS \(there are CRS 4"):
        train(str(shard), tiny_data.val, tiny_recipe, str(tmp_path / "out"))


@pytest.mark.slow
def test_two_workers_killed_in_stage_2_go_on_and_train_on_the_batches_of_one(
    ray_session: None, tiny_run: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    where = ["--data", tiny_data.train, "--val", tiny_data.val, "--out", str(out), "--workers", "2"]
    # A shard a window.
    keys = (*TINY, "stage1.epochs=1", "stage2.smoothing=online", "window_mb=0.1")
    settings = [word for key in keys for word in ("--set", key)]
    command = ["train", *where, "--recipe", "demo", *settings]
    first = hiwl(*command)
    deadline = time.monotonic() + 600
    while not _saved_epochs(out):
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kill_driver(first)
    saved = _saved_epochs(out)
    assert 1 <= saved < 4
    assert not (out / "bundle").exists()
    stage1_before = {file: file.stat().st_mtime_ns for file in (out / "stage1").rglob("*") if file.is_file()}

    second = CliRunner().invoke(main, command)
    assert second.exit_code == 0, second.output
    assert "going on with the run" in second.output
    assert "stage1 epoch" not in second.output
    begun = [line for line in second.output.splitlines() if "stage2 epoch" in line]
    assert f"stage2 epoch {saved + 1}/4" in begun[0]
    assert "stage2 epoch 4/4" in second.output
    assert pd.read_csv(out / "stage2_epochs.csv")["epoch"].tolist() == [1, 2, 3, 4]
    assert {
        file: file.stat().st_mtime_ns for file in (out / "stage1").rglob("*") if file.is_file()
    } == stage1_before
    assert load_bundle(out / "bundle").model_id

    two = pd.read_csv(out / "stage1_epochs.csv")
    assert two["workers"].tolist() == [2]
    # The same images in the same order; batch normalization sees half batches: alike, not equal.
    one = pd.read_csv(tiny_run / "stage1_epochs.csv")
    assert two["train_loss"].iloc[0] == pytest.approx(one["train_loss"].iloc[0], rel=0.1)
    # What either found alike is the next epoch's target of both.
    state = torch.load(out / "stage2" / "epoch_0004" / "state.pt", weights_only=True)
    online = state["learner"]["online"]
    torch.testing.assert_close(online["soft"].sum(1), torch.ones(2))
    assert (online["soft"].diag() < 0.949).any()
    assert not online["sums"].any()


def _saved_epochs(out: Path) -> int:
    """The epoch of stage 2 that Ray's own record says it would go on from."""
    record = out / "stage2" / "checkpoint_manager_snapshot.json"
    try:
        latest = json.loads(record.read_text())["latest_checkpoint_result"]
        return int(latest["checkpoint_dir_name"].removeprefix("epoch_")) if latest else 0
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


@pytest.mark.parametrize(("gpus", "batch", "workers"), [(0, 24, 1), (4, 24, 1), (4, 64, 2), (2, 256, 2)])
def test_each_gpu_gets_enough_images_of_a_batch(gpus: int, batch: int, workers: int) -> None:
    recipe = load_recipe("demo", [f"stage1.batch_size={batch}", "stage2.batch_size=512"])
    assert default_workers(recipe, gpus) == workers
