"""The grid's trainings through Ray: as many at once as there is room for, each to its scores.

Each is a run of `hiwl train` in a folder of its own, so that a grid that was stopped goes on where it was:
finished runs are left as they are, the one that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass

import ray

from hiwl_core.errors import IncompleteError, UserError
from pipeline.cluster import connected
from pipeline.evaluation.evaluate import evaluate
from pipeline.progress import lines_of, say
from pipeline.reproduction.grid import GridRun
from pipeline.reproduction.scores import scores_folder, scores_known
from pipeline.shards.cutout_shards import Columns
from pipeline.training.plan import TrainingPlan
from pipeline.training.train import Stores, load_stores, run_training

__all__ = ["PlannedRun", "QueueSettings", "run_grid"]


@dataclass(frozen=True)
class PlannedRun:
    """A training of the grid, checked, and where it goes."""

    run: GridRun
    plan: TrainingPlan

    @property
    def folder(self) -> str:
        """The run folder."""
        return self.plan.folder.path


@dataclass(frozen=True)
class QueueSettings:
    """How the grid is run.

    Parameters
    ----------
    shards : str
        Labeled shards to score on.
    on_test : bool
        Whether they are others than those that the checkpoints were selected by.
    columns : Columns
    at_once : int or None
        Runs at once; None: one a GPU, or one a node without GPUs, since a training takes all its cores.
    workers : int or None
        Data-parallel workers of each run; None: one.
    gpu : bool or None
        Whether each takes a GPU; None: if the cluster has any.
    """

    shards: str
    on_test: bool
    columns: Columns
    at_once: int | None = None
    workers: int | None = None
    gpu: bool | None = None


class SharedStores:
    """The cutouts of all runs, loaded once: they train on the same galaxies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[object, Stores] = {}

    def __call__(self, plan: TrainingPlan) -> Stores:
        """Those of a plan; see `pipeline.training.train.load_stores`."""
        recipe = plan.recipe
        # What decides which cutouts are readable, and their class numbers; the shards are the grid's.
        crops = [(stage.augmentation.center_crop, stage.center_crop) for stage in recipe.stages.values()]
        key = (
            recipe.taxonomy.classes,
            max(train for train, _ in crops),
            max(val for _, val in crops),
            recipe.rgb,
        )
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = load_stores(plan)
            return self._loaded[key]


def run_grid(planned: Sequence[PlannedRun], settings: QueueSettings) -> None:
    """Train and score all runs that are not done.

    A run that fails does not end the others.

    Raises
    ------
    IncompleteError
        At the end, naming the runs that failed; the others are kept.
    """
    missing = [one for one in planned if not scores_known(one.folder, settings.shards, settings.on_test)]
    say(f"{len(planned)} trainings, {len(planned) - len(missing)} of them done before")
    if not missing:
        return
    started = time.monotonic()
    failed: list[str] = []
    # One slot for the worker of each run, one for its feed.
    slots = (settings.at_once or 1) * (settings.workers or 1) + 1
    with connected(min_cpus=slots) as cluster:
        use_gpu = cluster.gpus > 0 if settings.gpu is None else settings.gpu
        at_once = settings.at_once or _room(use_gpu, cluster.gpus, settings.workers or 1)
        at_once = min(at_once, len(missing))
        stores = SharedStores()
        executor = ThreadPoolExecutor(at_once, "run")
        try:
            futures = {
                executor.submit(_run, one, settings, use_gpu, stores, at_once > 1): one for one in missing
            }
            for number, future in enumerate(as_completed(futures), start=1):
                name = futures[future].run.name
                error = future.exception()
                if error is None:
                    minutes = (time.monotonic() - started) / 60
                    left = minutes / number * (len(missing) - number)
                    say(f"done {number}/{len(missing)}: {name}; {minutes:.0f} min, about {left:.0f} to go")
                elif isinstance(error, (UserError, IncompleteError)):
                    failed.append(f"{name} ({error})")
                    say(f"failed: {failed[-1]}")
                else:
                    raise error
        finally:
            # What waits must not begin when one run, or the user, ends all.
            executor.shutdown(wait=False, cancel_futures=True)
    if failed:
        raise IncompleteError(
            f"{len(failed)} of {len(planned)} trainings failed, the others are kept; start the same command "
            f"again to go on: {failed[0]}"
        )


def _run(
    one: PlannedRun, settings: QueueSettings, gpu: bool, stores: Callable[[TrainingPlan], Stores], named: bool
) -> None:
    """Train one run, or go on with it, and score it."""
    workers = settings.workers or 1
    with lines_of(one.run.name) if named else nullcontext():
        if not named:
            say(f"== {one.run.name}")
        result = run_training(one.plan, workers, gpu, stores)
        out = scores_folder(one.folder, settings.on_test)
        evaluate(result.bundle, settings.shards, out, settings.columns, workers, gpu)


def _room(gpu: bool, gpus: int, workers: int) -> int:
    """Runs that the cluster has room for now."""
    if gpu:
        return max(1, gpus // workers)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    return max(1, len(nodes) // workers)
