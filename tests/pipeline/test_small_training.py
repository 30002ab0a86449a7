"""A small training in this process: when it is one, and what is kept of one that was stopped."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from hiwl_core.recipe import load_recipe
from pipeline.training.checks import plan_training
from pipeline.training.small_training import is_small_training
from pipeline.training.train import train
from tests.conftest import TINY, TinyData, hiwl


@pytest.mark.parametrize(
    ("changes", "small"),
    [
        ((), True),
        (("stage1.epochs=200",), False),
        (("stage1.input_size=240",), False),
        # Drawn from in another way, window by window.
        (("window_mb=0.1",), False),
        # Minutes, for graphs of other precisions.
        (("finish=full",), False),
    ],
)
def test_what_is_a_small_training(
    changes: tuple[str, ...],
    small: bool,
    tiny_data: TinyData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = load_recipe("demo", [*TINY, *changes])
    plan = plan_training(tiny_data.train, tiny_data.val, recipe, str(tmp_path / "run"))
    assert is_small_training(plan, None, None) is small
    assert not is_small_training(plan, 1, None)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert not is_small_training(plan, None, None)


def test_how_long_it_takes_is_said_from_the_second_step_on(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The first step waits for libraries and compilers: from it alone, hours would be promised.
    monkeypatch.setattr("pipeline.training.stage_epochs.SECONDS_BETWEEN_LINES", 0.0)
    recipe = load_recipe("demo", [*TINY, "stage1.epochs=1", "stage2.epochs=1", "stage1.batch_size=16"])
    train(tiny_data.train, tiny_data.val, recipe, str(tmp_path / "run"))
    lines = [line for line in capsys.readouterr().err.splitlines() if "to the stage's end" in line]
    assert re.match(r"stage1 epoch 1/1: step 2/\d+, \d+ images/s, about \d+ s to the stage's end", lines[0])


@pytest.mark.slow
def test_one_that_is_stopped_ends_soon_keeps_whole_stages_and_goes_to_ray_the_next_time(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    changes = [*TINY, "stage1.epochs=1", "stage2.epochs=20"]
    options = [word for change in changes for word in ("--set", change)]
    where = ["--data", tiny_data.train, "--val", tiny_data.val, "--out", str(run)]
    process = hiwl("train", *where, "--recipe", "demo", *options)
    until = time.monotonic() + 300
    while not (run / "stage2_epochs.csv").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signal.SIGINT, said
    assert said.splitlines()[-1].startswith("Error: stopped by Ctrl-C; what was written whole is kept")
    # No Ray.
    assert not (run / "stage1" / "checkpoint_manager_snapshot.json").exists()
    recipe = load_recipe("demo", changes)
    assert len((run / "stage2_epochs.csv").read_text().splitlines()) < 20
    assert (run / "stage1.json").exists()
    assert not (run / "bundle").exists()
    plan = plan_training(tiny_data.train, tiny_data.val, recipe, str(run))
    assert plan.begun
    assert not is_small_training(plan, None, None)
