"""Tasks of a pool: a worker that dies again and again costs its own task, where the others are to go on."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.retry_policy import TASK_RETRIES
from pipeline.task_pool import ray_pool

KILLER = 1


def noted(task: int, folder: str) -> int:
    """A task's number; that of one ends its worker, each time that it is tried."""
    if task == KILLER:
        with open(f"{folder}/tries", "a") as file:
            file.write("x")
        os._exit(1)
    return task


def test_what_kills_workers_costs_itself_alone(tmp_path: Path) -> None:
    with ray_pool(2, "the work", lambda task, fault: -task) as pool:
        found = dict(pool.run(noted, [0, KILLER, 2], str(tmp_path)))
    assert found == {0: 0, 1: -KILLER, 2: 2}
    assert len((tmp_path / "tries").read_text()) == 1 + TASK_RETRIES
