"""Stages that fail, or only wait: light, since Ray starts a process for each of their deaths."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from hiwl_core.cascade import combine_stages
from hiwl_core.statuses import OK
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline import storage
from pipeline.catalog.ledger import LedgerEntry
from pipeline.classification.attempts import ask_to_read
from pipeline.classification.cascade_stage import CascadeStage, entry_table
from pipeline.classification.shard_work import CatalogWork, ShardTask, ShardWork
from pipeline.shards.shard_groups import SHARD_DAMAGE
from pipeline.storage import retries

__all__ = [
    "NODES",
    "HopelessStage",
    "LightCascadeStage",
    "PatientStage",
    "PoisonedStage",
    "SickStage",
    "ask_slowly",
    "hurry",
    "nodes",
]

NODES = 3
PATIENCE = 90.0
SECONDS_A_SHARD = 1.0
SECONDS_A_LIGHT_SHARD = 0.15
# Waits for a store that is away, and how long it is away in tests: a minute is little more than a second.
HURRY = 50
TRIES_OF_A_STORE = 4


def note_process(log: Path) -> None:
    """Add a line for this process."""
    with log.open("a") as lines:
        lines.write(f"{os.getpid()}\n")


class FaultyClassifier:
    """Has another classify some groups, and raises from then on, as after a fault of a GPU."""

    def __init__(self, log: Path, groups: int = 0, healthy: Any = None) -> None:
        self.log, self.groups, self.healthy = log, groups, healthy

    def classify(self, tasks: Sequence[ShardTask]) -> list[LedgerEntry]:
        """Entries of shards."""
        if not self.groups:
            note_process(self.log)
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.groups -= 1
        found: list[LedgerEntry] = self.healthy.classify(tasks)
        return found


class SickStage(CascadeStage):
    """`LightCascadeStage`, but that it raises in the first process of a catalog, from its second group on."""

    def _load(self, cpus: int, use_gpu: bool) -> Any:
        healthy, sickness = NumbersOfBytes(self._work), Path(self._work.folder).with_name("sickness")
        try:
            sickness.touch(exist_ok=False)
        except FileExistsError:
            return healthy
        return FaultyClassifier(sickness.with_suffix(".log"), 1, healthy)


class HopelessStage(CascadeStage):
    """Raises in each process from the first group on."""

    def _load(self, cpus: int, use_gpu: bool) -> Any:
        return FaultyClassifier(Path(self._work.folder).with_name("sickness.log"))


class PoisonedStage(CascadeStage):
    """Dies over the second shard, and makes nothing of the others but entries."""

    def _load(self, cpus: int, use_gpu: bool) -> Any:
        return None

    def _classify(self, tasks: Sequence[ShardTask]) -> list[LedgerEntry]:
        if any(task.shard.endswith("01.parquet") for task in tasks):
            note_process(Path(self._work.folder).with_name("deaths"))
            os.kill(os.getpid(), signal.SIGKILL)
        return [task.entry() for task in tasks]


def nodes() -> int:
    """Nodes that have CPUs."""
    return sum(node["Alive"] and "CPU" in node["Resources"] for node in ray.nodes())


class PatientStage(CascadeStage):
    """Begins when all nodes are there, and says on which of them it is instead of what it sees."""

    def _load(self, cpus: int, use_gpu: bool) -> Any:
        return None

    def __call__(self, group: pa.Table) -> pa.Table:
        tasks = [task for task, _ in self._tasks(group)]
        until = time.monotonic() + PATIENCE
        while nodes() < NODES and time.monotonic() < until:
            time.sleep(0.2)
        time.sleep(SECONDS_A_SHARD * len(tasks))
        here = ray.get_runtime_context().get_node_id()
        return entry_table([task.entry(statuses={here: 1}) for task in tasks])


def hurry() -> None:
    """Have this process wait a fiftieth as long for a store that is away."""
    retries.FIRST_WAIT_SECONDS = 0.2 / HURRY
    retries.LONGEST_WAIT_SECONDS = 10.0 / HURRY


def ask_slowly(attempts: Any, shards: list[str]) -> bool:
    """`ask_to_read`, of a reader that takes a moment for a shard."""
    may = ask_to_read(attempts, shards)
    time.sleep(SECONDS_A_LIGHT_SHARD * len(shards))
    return may


class LightCascadeStage(CascadeStage):
    """Reads, writes and tries again as the real one; what it says of a galaxy are numbers of its bytes."""

    def _load(self, cpus: int, use_gpu: bool) -> Any:
        hurry()
        return NumbersOfBytes(self._work)


class NumbersOfBytes:
    """In the place of a `ShardClassifier`, without PyTorch; a shard takes it a moment."""

    def __init__(self, work: CatalogWork) -> None:
        self._work = work
        self._bundle: Any = SimpleNamespace(taxonomy=GALAXY_ZOO, model_id=work.model_id)

    def classify(self, tasks: Sequence[ShardTask]) -> list[LedgerEntry]:
        """Entries of shards, or of what a store that was away for too long made of them."""
        return [self._with_patience(task) for task in tasks]

    def _with_patience(self, task: ShardTask) -> LedgerEntry:
        for _ in range(TRIES_OF_A_STORE):
            try:
                return self._classify(task)
            except storage.StoreError as error:
                failed = task.entry(failed=f"{task.shard}: {error}")
                time.sleep(30.0 / HURRY)
            except SHARD_DAMAGE as error:
                return task.entry(failed=f"{task.shard}: {error}")
        return failed

    def _classify(self, task: ShardTask) -> LedgerEntry:
        time.sleep(SECONDS_A_LIGHT_SHARD)
        work = ShardWork(task, self._bundle)
        kinds = {stage: len(GALAXY_ZOO.stage_classes(stage)) for stage in GALAXY_ZOO.stages}
        members = GALAXY_ZOO.member_frequencies(dict.fromkeys(GALAXY_ZOO.classes, 1))
        for images in work.images():
            numbers = [np.random.default_rng(zlib.crc32(bytes(image))) for image in images]
            said = {
                stage: np.stack([one.dirichlet(np.ones(kind)) for one in numbers])
                for stage, kind in kinds.items()
            }
            work.take([OK] * len(images), combine_stages(said, members, GALAXY_ZOO))
        if work.error is not None:
            raise work.error
        return work.write("numbers of bytes")
