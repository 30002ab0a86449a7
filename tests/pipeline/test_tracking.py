"""TensorBoard and MLflow are told what a run folder has, once, whether the training was killed or not."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe
from pipeline.training.checks import TrainingPlan, plan_training
from pipeline.training.tracking import Tracking, parse_trackers, tracked
from pipeline.training.train import train
from tests.conftest import TinyData

STAGES = ("stage1", "stage2")


@pytest.fixture
def plan(tiny_run: Path, tiny_data: TinyData, tiny_recipe: Recipe, tmp_path: Path) -> TrainingPlan:
    """A training that is about to begin, of which `grow` writes what the finished one wrote."""
    return plan_training(tiny_data.train, tiny_data.val, tiny_recipe, str(tmp_path / "run"))


def grow(plan: TrainingPlan, whole: Path, stage1: int, stage2: int = 0) -> None:
    """Write the tables of the first epochs, and the bundle."""
    folder = Path(plan.folder.path)
    folder.mkdir(exist_ok=True)
    for stage, epochs in zip(STAGES, (stage1, stage2), strict=True):
        if epochs:
            pd.read_csv(whole / f"{stage}_epochs.csv").head(epochs).to_csv(
                folder / f"{stage}_epochs.csv", index=False
            )
    if not (folder / "bundle").exists():
        shutil.copytree(whole / "bundle", folder / "bundle")


def killed_and_resumed(words: list[str], plan: TrainingPlan, whole: Path) -> None:
    """A training that is killed in its second stage, and goes on to its end."""
    wanted = parse_trackers(words)
    with suppress(KeyboardInterrupt), tracked(wanted, plan) as tracking:
        grow(plan, whole, 2)
        tracking.look()
        grow(plan, whole, 4, 1)
        raise KeyboardInterrupt
    with tracked(wanted, plan) as tracking:
        grow(plan, whole, 4, 4)
        tracking.finish(pd.read_csv(whole / "pairs.csv"))


def expected(whole: Path, stage: str, metric: str) -> list[tuple[int, float]]:
    table = pd.read_csv(whole / f"{stage}_epochs.csv")
    pairs = zip(table["epoch"].tolist(), table[metric].tolist(), strict=True)
    return [(epoch, pytest.approx(value)) for epoch, value in pairs]


def test_tensorboard_reads_the_curves_of_both_stages(tiny_run: Path, plan: TrainingPlan) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_and_resumed(["tensorboard"], plan, tiny_run)
    events = EventAccumulator(f"{plan.folder.path}/tensorboard")
    events.Reload()
    for stage in STAGES:
        for metric in ("train_loss", "val_accuracy", "learning_rate"):
            points = [(point.step, point.value) for point in events.Scalars(f"{stage}/{metric}")]
            assert points == expected(tiny_run, stage, metric)
    best = pd.read_csv(tiny_run / "pairs.csv").iloc[0]
    assert events.Scalars("chosen/accuracy")[0].value == pytest.approx(best["accuracy"])
    (text,) = events.Tensors("recipe/text_summary")
    assert b"| stage1.optimizer.lr | 0.003 |" in text.tensor_proto.string_val[0]


def test_mlflow_has_one_run_with_parameters_metrics_and_the_bundle(
    tiny_run: Path, plan: TrainingPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    # Its store of files takes a moment to make, that in a database ten seconds.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    killed_and_resumed([f"mlflow:{uri}"], plan, tiny_run)
    client = MlflowClient(tracking_uri=uri)
    (run,) = client.search_runs([client.get_experiment_by_name("hiwl").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params["stage1.optimizer.lr"] == "0.003"
    assert run.data.params["train_galaxies"] == "140"
    for stage in STAGES:
        history = client.get_metric_history(run.info.run_id, f"{stage}.val_loss")
        assert [(point.step, point.value) for point in history] == expected(tiny_run, stage, "val_loss")
    recall = client.get_metric_history(run.info.run_id, "stage1.val_recall_CSS-EO")
    assert [(one.step, one.value) for one in recall] == expected(tiny_run, "stage1", "val_recall_CSS+EO")
    files = [Path(one.path).name for one in client.list_artifacts(run.info.run_id, "bundle")]
    assert sorted(files) == sorted(file.name for file in (tiny_run / "bundle").iterdir())
    described = (tiny_run / "bundle" / "bundle.json").read_bytes()
    assert run.data.tags["model_id"] == hashlib.sha256(described).hexdigest()[:16]
    assert json.loads(Path(plan.folder.path, "mlflow.json").read_text())["run_id"] == run.info.run_id
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"--track mlflow:http://127\.0\.0\.1:9: "):
        parse_trackers(["mlflow:http://127.0.0.1:9"])[0].open(plan)


def test_a_tracker_that_fails_is_told_no_more_and_the_training_goes_on(
    tiny_run: Path, plan: TrainingPlan, capfd: pytest.CaptureFixture[str]
) -> None:
    class Gone:
        def told(self, stage: str) -> int:
            return 1

        def epoch(self, stage: str, epoch: int, metrics: Any) -> None:
            assert (stage, epoch, metrics["val_loss"] > 0) == ("stage1", 2, True)
            raise ConnectionError("nobody is\nthere")

        def finish(self, metrics: Any, bundle: str) -> None:
            raise AssertionError

        def close(self, whole: bool) -> None:
            raise AssertionError

    tracking = Tracking([Gone()], plan)
    grow(plan, tiny_run, 3)
    tracking.look()
    tracking.finish(pd.read_csv(tiny_run / "pairs.csv"))
    tracking.close(True)
    assert capfd.readouterr().err.count("warning: Gone is told no more: nobody is there") == 1


@pytest.mark.parametrize(
    ("track", "words"),
    [
        ("wandb", r"--track wandb: there are tensorboard and mlflow, with a place behind a colon"),
        (
            "mlflow:http://ada:secret@host",
            r"mlflow:http://host: give user and password in .* MLFLOW_TRACKING_PASSWORD",
        ),
    ],
)
def test_other_trackers_and_passwords_are_refused(
    tiny_data: TinyData, tiny_recipe: Recipe, tmp_path: Path, track: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(tiny_data.train, tiny_data.val, tiny_recipe, str(tmp_path / "run"), track=[track])


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow-skinny")])
def test_a_missing_package_is_one_line_before_any_work(
    tiny_data: TinyData,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    package: str,
) -> None:
    hidden = {"tensorboard": "torch.utils.tensorboard", "mlflow": "mlflow.entities"}[name]
    monkeypatch.setitem(sys.modules, hidden, None)
    words = rf"--track {name} needs the package {package}: pip install 'hiwl\[{name}\]'"
    with pytest.raises(UserError, match=words):
        train(tiny_data.train, tiny_data.val, tiny_recipe, str(tmp_path / "run"), track=[name])
    assert not list(tmp_path.rglob("*.json"))
