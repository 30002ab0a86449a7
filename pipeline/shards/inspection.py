"""A look at the ends of shards before they are read: by threads, or where they are very many by Ray tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from pipeline import storage
from pipeline.progress import progress
from pipeline.shards.cutout_shards import Columns, check_schema, inspect_shard
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale
from pipeline.task_pool import ray_pool

__all__ = ["ShardEnds", "WantedColumns", "inspect_shards"]

# Of so many a process that waits for an object store is done within two minutes.
MANY_SHARDS = 20_000
SHARDS_A_TASK = 512


class WantedColumns(NamedTuple):
    """What each shard must have; see `pipeline.shards.cutout_shards.check_schema`.

    Parameters
    ----------
    columns : Columns
    required, carry : sequence of str
    scale : WantedScale
    """

    columns: Columns
    required: Sequence[str]
    carry: Sequence[str] = ()
    scale: WantedScale = AS_IT_IS


class ShardEnds(NamedTuple):
    """What the look at a shard told; see `pipeline.shards.cutout_shards.ShardFacts`.

    Parameters
    ----------
    rows : int or None
    fingerprint : str
    """

    rows: int | None
    fingerprint: str


def inspect_shards(
    shards: Sequence[str], wanted: WantedColumns, many: int = MANY_SHARDS
) -> Iterator[ShardEnds]:
    """Check the columns of shards, and count their rows by their footers.

    Parameters
    ----------
    shards : sequence of str
    wanted : WantedColumns
    many : int
        From so many on they are looked at by Ray tasks.

    Yields
    ------
    ShardEnds
        One for each shard, in order.

    Raises
    ------
    UserError
        For a file that is no shard, and for columns that are not there.
    """
    if len(shards) < many:
        yield from storage.in_threads(partial(_inspect, wanted), shards)
        return
    tasks = [shards[start : start + SHARDS_A_TASK] for start in range(0, len(shards), SHARDS_A_TASK)]
    # They come in the order in which they are done, packed as they were sent.
    done: dict[int, tuple[list[int | None], list[str]]] = {}
    following = 0
    with (
        ray_pool(None, "the look at the shards") as pool,
        progress("planning", len(shards), unit="shards") as advance,
    ):
        for number, found in pool.run(_inspect_some, tasks, wanted):
            done[number] = found
            advance(len(tasks[number]))
            while following in done:
                yield from map(ShardEnds, *done.pop(following))
                following += 1


def _inspect_some(shards: Sequence[str], wanted: Any) -> tuple[list[int | None], list[str]]:
    found = list(storage.in_threads(partial(_inspect, wanted), shards))
    return [ends.rows for ends in found], [ends.fingerprint for ends in found]


def _inspect(wanted: WantedColumns, shard: str) -> ShardEnds:
    facts = inspect_shard(shard)
    if facts.schema is not None:
        check_schema(shard, facts.schema, *wanted)
    return ShardEnds(facts.rows, facts.fingerprint)
