"""A training as others watch it: TensorBoard and MLflow, told of each epoch while it goes on.

What is told is what stands in the run folder: the tables of epochs are looked at every few seconds, so that
workers know nothing of it, and a run that goes on tells only what was not told before it was killed.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import pandas as pd

from hiwl_core.errors import UserError, words_of
from pipeline import storage
from pipeline.progress import say
from pipeline.storage.secret_urls import USER, check_no_secret, without_secrets
from pipeline.training.checks import TrainingPlan
from pipeline.training.run_folder import RunFolder

__all__ = ["TRACKERS", "Tracker", "Tracking", "WantedTracker", "parse_trackers", "tracked"]

TRACKERS = ("tensorboard", "mlflow")
SECONDS_BETWEEN_LOOKS = 5.0


class Tracker(Protocol):
    """Where a training is told."""

    def told(self, stage: str) -> int:
        """The last epoch of a stage that it knows already; 0 for none."""

    def epoch(self, stage: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """What was measured in an epoch."""

    def finish(self, metrics: Mapping[str, float], bundle: str) -> None:
        """The chosen model: its scores on validation, and the folder of its bundle."""

    def close(self, whole: bool) -> None:
        """Nothing more comes; `whole` if that is because the training is complete."""


@dataclass(frozen=True)
class WantedTracker:
    """A tracker that is asked for.

    Parameters
    ----------
    name : {"tensorboard", "mlflow"}
    place : str
        A folder or a URI; empty for the usual one.
    """

    name: str
    place: str = ""

    def open(self, plan: TrainingPlan) -> Tracker:
        """The tracker, at work.

        Raises
        ------
        UserError
            If its package is missing or its place cannot be used.
        """
        # Here: each brings a package that only some have.
        if self.name == "tensorboard":
            from pipeline.training.tensorboard_tracker import TensorBoardTracker

            return TensorBoardTracker(self.place, plan)
        from pipeline.training.mlflow_tracker import MlflowTracker

        return MlflowTracker(self.place, plan)


def parse_trackers(track: Sequence[str]) -> list[WantedTracker]:
    """Trackers from words such as ``tensorboard``, ``tensorboard:FOLDER`` or ``mlflow:URI``.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    wanted = []
    for text in track:
        name, _, place = text.partition(":")
        if name not in TRACKERS:
            raise UserError(
                f"--track {text}: there are {' and '.join(TRACKERS)}, with a place behind a colon if it is "
                "not the usual one: tensorboard:FOLDER, mlflow:http://HOST:5000"
            )
        if USER.search(place):
            raise UserError(
                f"--track {name}:{without_secrets(place)}: give user and password in the environment, as "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
        check_no_secret(place)
        wanted.append(WantedTracker(name, place))
    return wanted


class Tracking:
    """Tells trackers what a run folder has that they do not know.

    Parameters
    ----------
    trackers : sequence of Tracker
    plan : TrainingPlan
    """

    def __init__(self, trackers: Sequence[Tracker], plan: TrainingPlan) -> None:
        self._folder, self._stages = plan.folder, tuple(plan.recipe.stages)
        self._one_at_a_time = threading.RLock()
        self._told = [(one, {stage: one.told(stage) for stage in self._stages}) for one in trackers]

    def look(self) -> None:
        """Tell the epochs that are new."""
        if not self._told:
            return
        with self._one_at_a_time:
            for stage in self._stages:
                rows = epochs_of(self._folder, stage)
                self._each(partial(_tell_new, stage, rows))

    def finish(self, pairs: pd.DataFrame) -> None:
        """Tell which model was chosen."""
        self.look()
        best = {str(name): float(value) for name, value in pairs.iloc[0].items()}
        with self._one_at_a_time:
            self._each(lambda one, _: one.finish(best, self._folder.bundle))

    def close(self, whole: bool) -> None:
        """Tell what is left, and that nothing more comes."""
        self.look()
        with self._one_at_a_time:
            self._each(lambda one, _: one.close(whole))

    def _each(self, tell: Callable[[Tracker, dict[str, int]], None]) -> None:
        """Tell each tracker something; one that fails is left alone, and the training goes on."""
        for one, told in list(self._told):
            try:
                tell(one, told)
            # Whatever it is: a training of a night does not end because nobody can watch it.
            except Exception as error:
                words = words_of(error, 200)
                say(f"warning: {type(one).__name__.removesuffix('Tracker')} is told no more: {words}")
                self._told.remove((one, told))


@contextmanager
def tracked(track: Sequence[WantedTracker], plan: TrainingPlan) -> Iterator[Tracking]:
    """Tell trackers of a training for the length of a ``with`` block.

    Parameters
    ----------
    track : sequence of WantedTracker
    plan : TrainingPlan

    Raises
    ------
    UserError
        See `WantedTracker.open`.
    """
    tracking = Tracking([one.open(plan) for one in track], plan)
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(SECONDS_BETWEEN_LOOKS):
            tracking.look()

    whole = False
    # A thread does not inherit who speaks.
    thread = threading.Thread(target=copy_context().run, args=(watch,), daemon=True)
    if track:
        thread.start()
    try:
        yield tracking
        whole = True
    finally:
        stopped.set()
        if track:
            thread.join()
        tracking.close(whole)


def epochs_of(folder: RunFolder, stage: str) -> list[dict[str, float]]:
    """The numbers of a stage's epochs, a mapping an epoch; none before the first."""
    path = f"{folder.path}/{stage}_epochs.csv"
    if not storage.exists(path):
        return []
    table = pd.read_csv(io.BytesIO(storage.read_bytes(path)))
    rows = table.select_dtypes("number").astype(float).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _tell_new(stage: str, rows: Sequence[Mapping[str, float]], one: Tracker, told: dict[str, int]) -> None:
    for row in rows:
        epoch = int(row["epoch"])
        if epoch > told[stage]:
            one.epoch(stage, epoch, {name: value for name, value in row.items() if name != "epoch"})
            told[stage] = epoch
