"""A small training is done in this process: it is over before Ray and its workers would have begun.

Only once, as for all small work (`pipeline.classification.small_work`): what was not ended here goes to Ray's
workers the next time, from the last stage that is whole. What comes out is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

import torch
from safetensors.torch import save

from hiwl_core.device import choose_compute
from hiwl_core.training import StageLearner
from pipeline import storage
from pipeline.classification.small_work import MOST_BYTES, Beside, broken_off, may_be_here
from pipeline.cores import usable_cores
from pipeline.training.checks import TrainingPlan
from pipeline.training.cutout_blocks import shard_size
from pipeline.training.cutout_store import MEBIBYTE
from pipeline.training.run_folder import BEST_KEPT, WEIGHTS, Candidate, RunFolder
from pipeline.training.stage_epochs import History, StageJob, best_weights, run_epochs

__all__ = ["SmallTraining", "is_small_training", "small_training"]

# Of all images of all epochs. Two cores need a minute for so many; Ray and its workers take as much to begin.
MOST_PIXELS = 32 * 2**20
# An image costs as much as these beside its own: it is decoded and augmented.
PIXELS_AN_IMAGE = 64**2

Result = TypeVar("Result")


def is_small_training(plan: TrainingPlan, workers: int | None, gpu: bool | None) -> bool:
    """Whether a training is to be done in this process.

    Parameters
    ----------
    plan : TrainingPlan
    workers, gpu
        As asked for.
    """
    recipe = plan.recipe
    if plan.begun or recipe.finish == "full" or not may_be_here(workers, gpu):
        return False
    parts = (plan.train, plan.val)
    images = sum(part.galaxies for part in parts)
    pixels = sum(
        stage.train_size(epoch) ** 2 + PIXELS_AN_IMAGE
        for stage in recipe.stages.values()
        for epoch in range(stage.epochs)
    )
    if images * pixels > MOST_PIXELS:
        return False
    # As a set of one window is drawn from in one way, and a larger one in another.
    most = min(MOST_BYTES, int(recipe.window_mb * MEBIBYTE))
    return all(sum(storage.in_threads(shard_size, part.shards)) <= most for part in parts)


class SmallTraining:
    """A thread that trains, and ends soon when it is to; see `small_training`."""

    def __init__(self, thread: Beside, stopped: threading.Event) -> None:
        self._thread, self.stopped = thread, stopped

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What a function gives that is called in the thread.

        Raises
        ------
        IncompleteError
            For what is no mistake of the user.
        """
        with broken_off("training", "stages that are whole are kept"):
            # A thread does not inherit who speaks.
            result: Result = self._thread.run(copy_context().run, function, *arguments)
            return result

    def fit(self, job: StageJob, folder: RunFolder) -> list[Candidate]:
        """Train one stage, as `pipeline.training.stage_fit.fit_stage` does by Ray Train."""
        return self.run(_fit, job, folder)


@contextmanager
def small_training() -> Iterator[SmallTraining]:
    """A thread to train in, for the length of a ``with`` block."""
    stopped = threading.Event()
    with Beside() as thread:
        try:
            yield SmallTraining(thread, stopped)
        except BaseException:
            stopped.set()
            raise


def _fit(job: StageJob, folder: RunFolder) -> list[Candidate]:
    # Of equal ones the later, as Ray Train keeps them.
    best: list[tuple[float, int, bytes]] = []

    def report(learner: StageLearner, history: History) -> None:
        last = history[-1]
        best.append((last["val_accuracy"], last["epoch"], save(best_weights(learner))))
        best.sort(reverse=True)
        del best[BEST_KEPT:]

    torch.set_num_threads(usable_cores())
    # The generator is the process's, which may be a notebook's.
    with torch.random.fork_rng(devices=[]):
        run_epochs(job, choose_compute(torch.device("cpu")), lambda _: [], report)
    candidates = []
    for accuracy, epoch, weights in best:
        candidate = Candidate(epoch, accuracy, f"{folder.path}/{job.stage}/epoch_{epoch:04d}")
        storage.write_bytes(f"{candidate.path}/{WEIGHTS}", weights)
        candidates.append(candidate)
    folder.finish_stage(job.stage, candidates)
    return candidates
