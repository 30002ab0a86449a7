"""The stage of a Ray Data stream in which groups of shards become parts: `map_batches(CascadeStage, ...)`.

What comes in is a group as `pipeline.shards.shard_groups.read_group` gives it, what goes out a row of facts
for each of its shards, which is all that the driver needs for the ledger.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from hiwl_core.errors import words_of
from pipeline.catalog.ledger import LedgerEntry
from pipeline.classification.attempts import Verdict
from pipeline.classification.shard_work import CatalogWork, ShardTask
from pipeline.shards.shard_groups import (
    FINGERPRINT_COLUMN,
    LATER_COLUMN,
    LEFT_OUT_COLUMN,
    NOTES,
    SHARD_COLUMN,
)

if TYPE_CHECKING:
    from pipeline.classification.shard_classifier import ShardClassifier

__all__ = ["CascadeStage", "NothingWorks", "entries_of", "entry_table"]

ENTRY_COLUMN, HOPELESS_COLUMN = "entry", "hopeless"


class NothingWorks(RuntimeError):
    """Not one shard could be classified, wherever it was tried."""


class CascadeStage:
    """Classifies groups of shards and writes their parts.

    The shards whose rows came along are classified together, and with them those for which there was only no
    room. The others are read here, one by one: those that are too large to come along, and those of a group
    over which workers died. A process that raises may be spoiled for good, as one is after a fault of its
    GPU: it ends, and Ray starts another instead.

    Parameters
    ----------
    work : CatalogWork
    cpus : int
        Threads that decode and compute.
    use_gpu : bool
    attempts : ActorHandle
        Of `pipeline.classification.attempts.Attempts`.
    """

    def __init__(self, work: CatalogWork, cpus: int, use_gpu: bool, attempts: Any) -> None:
        self._work, self._attempts = work, attempts
        self._classifier = self._load(cpus, use_gpu)

    def _load(self, cpus: int, use_gpu: bool) -> ShardClassifier:
        # Here, since it brings PyTorch, which the stages that stand in for this one do without.
        from pipeline.classification.shard_classifier import ShardClassifier

        return ShardClassifier(self._work, cpus, use_gpu)

    # No generator: Ray calls this for one group at a time, but would step through generators side by side.
    def __call__(self, group: pa.Table) -> pa.Table:
        """An entry for each shard of a group, for `entries_of`."""
        found = list(self._tasks(group))
        shards = [task.shard for task, _ in found]
        any_came = not all(alone for _, alone in found)
        apart = any_came and not ray.get(self._attempts.may_classify.remote(shards))
        try:
            entries = self._classify([task for task, alone in found if not (alone or apart)])
            entries += [self._try_alone(task) for task, alone in found if alone or apart]
        except NothingWorks as error:
            return entry_table([], str(error))
        any_done = not all(entry.failed for entry in entries)
        self._attempts.forget.remote(shards, any_done)
        return entry_table(entries)

    def _tasks(self, group: pa.Table) -> Iterator[tuple[ShardTask, bool]]:
        """The shards of a group, in order, and whether each is to be tried by itself."""
        shards = group[SHARD_COLUMN].cast(pa.string()).combine_chunks()
        start = 0
        for end in pc.run_end_encode(shards).run_ends.to_pylist():
            rows = group.slice(start, end - start)
            left_out, later = rows[LEFT_OUT_COLUMN][0].as_py(), rows[LATER_COLUMN][0].as_py()
            fingerprint = rows[FINGERPRINT_COLUMN][0].as_py()
            came = None if left_out else rows.drop_columns(NOTES)
            yield self._work.task(shards[start].as_py(), fingerprint, came), left_out and not later
            start = end

    def _try_alone(self, task: ShardTask) -> LedgerEntry:
        verdict: Verdict = ray.get(self._attempts.begin.remote(task.shard))
        if verdict.hopeless:
            raise NothingWorks(f"no shard can be classified, the last for {verdict.hopeless}")
        if verdict.entry is not None:
            return verdict.entry
        if verdict.give_up:
            entry = task.entry(failed=f"{task.shard}: {verdict.give_up}")
        else:
            (entry,) = self._classify([task])
        ray.get(self._attempts.end.remote(task.shard, entry))
        return entry

    def _classify(self, tasks: Sequence[ShardTask]) -> list[LedgerEntry]:
        if not tasks:
            return []
        try:
            return self._classifier.classify(tasks)
        # Damage of shards is none of these: it comes back as entries.
        except Exception as error:
            reason = f"{type(error).__name__}: {words_of(error, 300)}"
            ray.get(self._attempts.raised.remote([task.shard for task in tasks], reason))
            os._exit(1)


def entry_table(entries: Sequence[LedgerEntry], hopeless: str | None = None) -> pa.Table:
    """Entries, or why nothing works, as a row each; the inverse is `entries_of`."""
    # As facts and no exception, in whose text Ray puts advice of its own.
    rows = (
        [(json.dumps(asdict(entry)), None) for entry in entries] if hopeless is None else [(None, hopeless)]
    )
    columns = dict(zip((ENTRY_COLUMN, HOPELESS_COLUMN), zip(*rows, strict=True), strict=True))
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def entries_of(facts: pa.Table) -> list[LedgerEntry]:
    """The entries in what `CascadeStage` gave.

    Raises
    ------
    NothingWorks
        If that is what it gave.
    """
    hopeless = facts[HOPELESS_COLUMN].drop_null()
    if len(hopeless):
        raise NothingWorks(hopeless[0].as_py())
    return [LedgerEntry(**json.loads(text)) for text in facts[ENTRY_COLUMN].to_pylist()]
