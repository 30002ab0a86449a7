"""A look at the ends of shards before they are read: by threads, or where they are very many by Ray tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.progress import progress
from pipeline.shards.cutout_shards import Columns, check_schema, inspect_shard
from pipeline.shards.plain_columns import class_names, plain_type
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

    @property
    def to_read(self) -> tuple[Columns, list[str], list[str]]:
        """What is read of it, as `pipeline.shards.cutout_shards.iter_rows` takes it."""
        wanted = [*self.required, "ra", "dec", *self.scale.wanted]
        return self.columns, wanted, list(dict.fromkeys([*self.carry, *self.scale.carry]))


class ShardEnds(NamedTuple):
    """What the look at a shard told; see `pipeline.shards.cutout_shards.ShardFacts`.

    Parameters
    ----------
    rows : int or None
    fingerprint : str
    carried : sequence of (str, pyarrow.DataType)
        The carried columns with their types; none of a tar, whose members each have their own.
    """

    rows: int | None
    fingerprint: str
    carried: Sequence[tuple[str, pa.DataType]] = ()


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
        For a file that is no shard, for columns that are not there, and for a carried column whose types in
        two shards do not go together.
    """
    seen: dict[str, dict[pa.DataType, str]] = {}
    for shard, ends in zip(shards, _looks(shards, wanted, many), strict=True):
        for name, kind in ends.carried:
            _check_types(name, kind, shard, seen.setdefault(name, {}))
        yield ends


def _check_types(name: str, kind: pa.DataType, shard: str, seen: dict[pa.DataType, str]) -> None:
    """Check a type against those that shards before had, and note it with its shard if it is new."""
    if kind in seen:
        return
    for other, place in seen.items():
        try:
            pa.unify_schemas(
                [pa.schema([(name, one)]) for one in (other, kind)], promote_options="permissive"
            )
        except pa.ArrowException:
            raise UserError(
                f"column {name!r} to carry is {other} in {place} and {kind} in {shard}: write it in one "
                "type, or leave it out"
            ) from None
    seen[kind] = shard


def _looks(shards: Sequence[str], wanted: WantedColumns, many: int) -> Iterator[ShardEnds]:
    if len(shards) < many:
        yield from storage.in_threads(partial(_inspect, wanted), shards)
        return
    tasks = [shards[start : start + SHARDS_A_TASK] for start in range(0, len(shards), SHARDS_A_TASK)]
    # They come in the order in which they are done, packed as they were sent.
    done: dict[int, tuple[list[Any], ...]] = {}
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


def _inspect_some(shards: Sequence[str], wanted: Any) -> tuple[list[Any], ...]:
    found = list(storage.in_threads(partial(_inspect, wanted), shards))
    return (
        [ends.rows for ends in found],
        [ends.fingerprint for ends in found],
        [ends.carried for ends in found],
    )


def _inspect(wanted: WantedColumns, shard: str) -> ShardEnds:
    facts = inspect_shard(shard)
    if facts.schema is None:
        return ShardEnds(facts.rows, facts.fingerprint)
    check_schema(shard, facts.schema, *wanted)
    classes = class_names(facts.schema)
    carried = [
        (name, pa.string() if name in classes else plain_type(facts.schema.field(name).type))
        for name in wanted.carry
    ]
    return ShardEnds(facts.rows, facts.fingerprint, carried)
