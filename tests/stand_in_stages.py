"""Stages that fail, or only wait: light, since Ray starts a process for each of their deaths."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from pipeline.catalog.ledger import LedgerEntry
from pipeline.classification.cascade_stage import CascadeStage, entry_table
from pipeline.classification.shard_work import ShardTask

__all__ = ["NODES", "HopelessStage", "PatientStage", "PoisonedStage", "SickStage", "nodes"]

NODES = 3
PATIENCE = 90.0
SECONDS_A_SHARD = 1.0


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
    """Raises in the first process that a catalog has, from its second group on."""

    def _load(self, cpus: int, use_gpu: bool) -> Any:
        healthy, sickness = super()._load(cpus, use_gpu), Path(self._work.folder).with_name("sickness")
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
