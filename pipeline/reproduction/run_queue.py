"""The trainings of the grid, each to its scores: here if they are small, else through Ray, several at once.

Each is a run of `hiwl train` in a folder of its own, so that a grid that was stopped goes on where it was:
finished runs are left as they are, the one that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace

import ray

from hiwl_core.errors import IncompleteError, UserError, last_line
from pipeline.classification.computing import Computing
from pipeline.cluster import abandon_own_ray, connected
from pipeline.evaluation.evaluate import evaluate
from pipeline.pages.numbers import duration
from pipeline.progress import lines_of, say
from pipeline.reproduction.grid import GridRun
from pipeline.reproduction.reproduce_options import ReproduceOptions
from pipeline.reproduction.scores import ScoredPart
from pipeline.training.checks import TrainingPlan
from pipeline.training.small_training import is_small_training
from pipeline.training.stores import Stores, load_stores
from pipeline.training.train import run_training

__all__ = ["PlannedRun", "run_grid"]


@dataclass(frozen=True)
class PlannedRun:
    """A training of the grid, checked, where it goes, and what it is to be scored on."""

    run: GridRun
    plan: TrainingPlan
    scored: tuple[ScoredPart, ...]

    @property
    def folder(self) -> str:
        """The run folder."""
        return self.plan.folder.path

    def missing(self) -> list[ScoredPart]:
        """The parts that it was not scored on yet.

        Raises
        ------
        UserError
            If it was scored on other galaxies.
        """
        return [part for part in self.scored if not part.is_scored(self.folder)]


Outcomes = Generator[tuple[PlannedRun, BaseException | None]]
"""Runs as they end, with what went wrong."""


class SharedStores:
    """The cutouts of all runs, loaded once: they train on the same galaxies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: dict[object, Stores] = {}

    def __call__(self, plan: TrainingPlan) -> Stores:
        """Those of a plan; see `pipeline.training.stores.load_stores`."""
        recipe = plan.recipe
        # What decides which cutouts are readable, and their class numbers; the shards are the grid's.
        crops = [(stage.augmentation.center_crop, stage.center_crop) for stage in recipe.stages.values()]
        key = (
            recipe.taxonomy.classes,
            max(train for train, _ in crops),
            max(val for _, val in crops),
            recipe.rgb,
            recipe.window_mb,
        )
        with self._lock:
            if key not in self._loaded:
                self._loaded[key] = load_stores(plan)
            return self._loaded[key]


def run_grid(planned: Sequence[PlannedRun], options: ReproduceOptions) -> dict[str, str]:
    """Train and score all runs that are not done.

    A run that fails does not end the others.

    Returns
    -------
    dict of str
        Why runs failed, by their folders.

    Raises
    ------
    UserError
        Before any work, if a run was scored on other galaxies.
    """
    missing = [one for one in planned if one.missing()]
    say(f"{len(planned)} trainings, {len(planned) - len(missing)} of them done before")
    failed: dict[str, str] = {}
    if not missing:
        return failed
    started = time.monotonic()
    small = options.at_once is None and all(_is_small(one, options) for one in missing)
    with closing((_here if small else _by_ray)(missing, options)) as outcomes:
        for number, (one, error) in enumerate(outcomes, start=1):
            name = one.run.name
            if error is None:
                took = time.monotonic() - started
                left = duration(took / number * (len(missing) - number))
                say(f"done {number}/{len(missing)}: {name}; {duration(took)}, about {left} to go")
            else:
                failed[one.folder] = _reason(error)
                say(f"failed: {name} ({failed[one.folder]})")
    return failed


def _is_small(one: PlannedRun, options: ReproduceOptions) -> bool:
    """Whether a run is trained already, or would be in this process."""
    return one.plan.folder.is_bundled() or is_small_training(one.plan, options.workers, options.gpu)


def _here(missing: Sequence[PlannedRun], options: ReproduceOptions) -> Outcomes:
    """Train and score runs one after the other, and see what comes of each."""
    for one in missing:
        error: BaseException | None = None
        try:
            _run(one, replace(options, workers=None))
        except Exception as raised:
            error = raised
        yield one, error


def _by_ray(missing: Sequence[PlannedRun], options: ReproduceOptions) -> Outcomes:
    """The same through Ray, several at once."""
    workers = options.workers or 1
    # One slot for the worker of each run, one for its feed.
    slots = (options.at_once or 1) * workers + 1
    with connected(min_cpus=slots) as cluster:
        use_gpu = cluster.takes_gpus(options.gpu)
        at_once = min(options.at_once or _room(use_gpu, cluster.gpus, workers), len(missing))
        executor, ended = ThreadPoolExecutor(at_once, "run"), threading.Event()
        found = replace(options, at_once=at_once, workers=workers, gpu=use_gpu)
        stores = SharedStores()
        try:
            futures = {executor.submit(_run, one, found, stores, ended): one for one in missing}
            for future in as_completed(futures):
                yield futures[future], future.exception()
        except (KeyboardInterrupt, GeneratorExit):
            abandon_own_ray()
            raise
        finally:
            # When the user ends all, what waits must not begin: Ray is gone, and would be started again.
            ended.set()
            executor.shutdown(wait=False, cancel_futures=True)


def _reason(error: BaseException) -> str:
    """What went wrong in a line; what is not for users to mend is shown whole besides."""
    if not isinstance(error, (UserError, IncompleteError)):
        traceback.print_exception(error)
    return last_line(error)


def _run(
    one: PlannedRun,
    options: ReproduceOptions,
    stores: SharedStores | None = None,
    ended: threading.Event | None = None,
) -> None:
    """Train one run, or go on with it, and score it."""
    workers, gpu = options.workers, options.gpu
    several = options.at_once is not None and options.at_once > 1
    with lines_of(one.run.name) if several else nullcontext():
        if not several:
            say(f"== {one.run.name}")
        result = run_training(one.plan, workers, gpu, stores)
        computing = Computing(workers=workers, gpu=gpu)
        for part in one.missing():
            if ended is not None and ended.is_set():
                return
            evaluate(result.bundle, part.path, part.folder(one.folder), options.columns, computing=computing)


def _room(gpu: bool, gpus: int, workers: int) -> int:
    """Runs that the cluster has room for now."""
    if gpu:
        return max(1, gpus // workers)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    return max(1, len(nodes) // workers)
