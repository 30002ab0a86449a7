"""A small training in this process: when it is one, and what is kept of one that was stopped."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from hiwl_core.recipe import load_recipe
from pipeline.training.plan import plan_training
from pipeline.training.small_training import is_small_training
from pipeline.training.train import train
from tests.conftest import TINY, TinyData


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


def test_one_that_is_stopped_ends_soon_keeps_whole_stages_and_goes_to_ray_the_next_time(
    tiny_data: TinyData, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    recipe = load_recipe("demo", [*TINY, "stage1.epochs=1", "stage2.epochs=20"])
    ended = threading.Event()

    def stop() -> None:
        while not (run / "stage2_epochs.csv").exists() and not ended.wait(0.05):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tiny_data.train, tiny_data.val, recipe, str(run))
    finally:
        ended.set()
    # No Ray, and nothing that goes on.
    assert not (run / "stage1" / "checkpoint_manager_snapshot.json").exists()
    assert not [one for one in threading.enumerate() if one.name.startswith("networks")]
    assert len((run / "stage2_epochs.csv").read_text().splitlines()) < 20
    assert (run / "stage1.json").exists()
    assert not (run / "bundle").exists()
    plan = plan_training(tiny_data.train, tiny_data.val, recipe, str(run))
    assert plan.begun
    assert not is_small_training(plan, None, None)
