"""A stage that takes the time of a network and of a store, and no core: for `benchmarks/scaling.py`.

Light to import, so that many workers fit on a small machine.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import ray

from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.parts import part_name
from pipeline.classification.cascade_stage import entry_table
from pipeline.shards.shard_groups import SHARD_COLUMN

__all__ = ["StandInStage", "StandInWork"]


class StandInWork(NamedTuple):
    """What `pipeline.classification.shard_work.CatalogWork` is to the real stage.

    Parameters
    ----------
    settings
        As there.
    rows : int
        Galaxies that a shard stands for, though the file in its place may be small.
    seconds_network, seconds_store : float
        For each shard.
    reader : None
        As there: nothing is decoded.
    """

    settings: dict[str, Any]
    rows: int
    seconds_network: float
    seconds_store: float
    reader: None = None


class StandInStage:
    """Waits as a store and a network would, and gives the facts that the real stage gives."""

    def __init__(self, work: StandInWork, cpus: int, use_gpu: bool, attempts: Any) -> None:
        self._work, self._attempts = work, attempts

    def __call__(self, group: pa.Table) -> pa.Table:
        """An entry for each shard of a group, as `CascadeStage` gives them."""
        shards = pc.unique(group[SHARD_COLUMN].cast(pa.string())).to_pylist()
        # The first has been read while the group before was classified, the others are read meanwhile.
        slowest = max(self._work.seconds_network, self._work.seconds_store)
        time.sleep(self._work.seconds_network + (len(shards) - 1) * slowest)
        entries = [
            LedgerEntry(
                part_name(shard),
                "0" * 16,
                size=250_000,
                sha256="0" * 64,
                classes={"CRS": self._work.rows},
                statuses={"ok": self._work.rows},
                finished=time.time(),
            )
            for shard in shards
        ]
        ray.get(self._attempts.forget.remote(shards, True))
        return entry_table(entries)
