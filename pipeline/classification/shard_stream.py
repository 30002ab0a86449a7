"""Shards through Ray Data: groups of them are read, classified by actors, and come back as facts.

Where reading and classifying ask for the same resources Ray Data fuses them into one operator: an actor
reads the next group while it classifies one, and no image passes through the object store. Actors that are
fed by other nodes are an operator of their own, after one of tasks that read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionOptions
from ray.exceptions import RayError

from hiwl_core.errors import IncompleteError, last_line
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.manifest import PlannedShard
from pipeline.catalog.shard_content import wanted_columns
from pipeline.classification.attempts import ask_to_read, start_attempts
from pipeline.classification.cascade_stage import CascadeStage, NothingWorks, entries_of
from pipeline.classification.seen_rows import with_seen
from pipeline.classification.shard_work import CatalogWork
from pipeline.classification.stage_actors import StageActors
from pipeline.cluster import quiet_streams
from pipeline.retry_policy import MAX_DEATHS, MAX_STREAMS
from pipeline.shards.cutout_shards import MAX_SHARD_BYTES
from pipeline.shards.shard_groups import ShardToRead, group_shards, join_groups
from pipeline.shards.shards_datasource import ShardsDatasource
from pipeline.shards.wanted_scale import WantedScale
from pipeline.waiting import waiting_lines

__all__ = ["classify_shards", "shard_stream", "waited_for"]

GROUPS_AN_ACTOR = 4
# Of so many a part is little: some may be joined.
PLENTY_AN_ACTOR = 20
CPUS_A_READER = 1
AGAIN = "start the same command again"


def classify_shards(
    work: CatalogWork,
    shards: Sequence[PlannedShard],
    actors: StageActors,
    stage: type[CascadeStage] = CascadeStage,
) -> Iterator[LedgerEntry]:
    """Classify shards on the cluster.

    Parameters
    ----------
    work : CatalogWork
    shards : sequence of PlannedShard
        Those of the plan whose parts are missing.
    actors : StageActors
    stage : type
        What each actor holds.

    Yields
    ------
    LedgerEntry
        One for each shard, in the order in which they are done.

    Raises
    ------
    IncompleteError
        If Ray gave up, or nothing works; whole parts are kept.
    """
    # Of positions the images are yet to be cut: they are not held all at once.
    least = MAX_SHARD_BYTES + 1 if "cutting" in work.settings else 0
    left = {
        shard.part: ShardToRead(shard.shard, max(shard.size, least), shard.rows, shard.fingerprint)
        for shard in shards
    }
    attempts = start_attempts(actors.fed)
    try:
        with waiting_lines(partial(waited_for, attempts, actors)):
            for _ in range(MAX_STREAMS):
                stream = shard_stream(work, list(left.values()), actors, attempts, stage)
                for facts in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                    for entry in entries_of(facts):
                        if left.pop(entry.part, None) is not None:
                            yield entry
                if not left:
                    return
        raise IncompleteError(f"{len(left)} shards were lost on the way; whole parts are kept: {AGAIN}")
    except (RayError, NothingWorks) as error:
        reason = last_line(error)[:300]
        raise IncompleteError(
            f"the classification broke off ({reason}); whole parts are kept: {AGAIN}"
        ) from error
    finally:
        ray.kill(attempts)


def shard_stream(
    work: CatalogWork,
    shards: Sequence[ShardToRead],
    actors: StageActors,
    attempts: Any,
    stage: type[CascadeStage] = CascadeStage,
) -> Dataset:
    """The stream from shards to facts, which runs as it is read from.

    Parameters
    ----------
    work, actors, stage
        See `classify_shards`.
    shards : sequence of ShardToRead
    attempts : ActorHandle
        See `pipeline.classification.attempts.start_attempts`.
    """
    expected = actors.expected
    one = actors.number == 1 and not actors.fed
    groups = group_shards(shards, 1 if one else GROUPS_AN_ACTOR * expected)
    # What has no room in a table is read by the actor, which is not to read where it is fed.
    groups = groups if actors.fed else join_groups(groups, PLENTY_AN_ACTOR * actors.number)
    size = min(len(groups), actors.number)
    # An actor that reads ahead holds a group which no idle one can take: so only where all have enough.
    ahead = size == 1 or len(groups) >= GROUPS_AN_ACTOR * expected
    calls = 2 if ahead else 1
    names = wanted_columns(work.settings).to_read
    source = ShardsDatasource(groups, *names, whole_groups=True, may_read=partial(ask_to_read, attempts))
    readers = min(len(groups), actors.readers) or None
    with DataContext.current(_context()):
        read = ray.data.read_datasource(
            source,
            num_cpus=CPUS_A_READER if actors.fed else actors.cpus,
            num_gpus=0 if actors.fed else actors.gpus,
            concurrency=readers,
            override_num_blocks=len(groups),
        )
        if actors.fed and work.reader is not None:
            # Of the same resources, and so done where it is read.
            read = read.map_batches(
                with_seen,
                fn_args=(ray.put(work.reader), WantedScale(**work.settings["scale"])),
                batch_size=None,
                batch_format="pyarrow",
                zero_copy_batch=True,
                num_cpus=CPUS_A_READER,
                concurrency=readers,
            )
        # `map_batches` itself refuses whole blocks where there are GPUs: for one a block may be too large.
        return read.map_batches_internal(
            stage,
            fn_constructor_args=(work._replace(reader=None), actors.cpus, bool(actors.gpus), attempts),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=actors.cpus,
            num_gpus=actors.gpus,
            compute=ActorPoolStrategy(
                size=size, max_tasks_in_flight_per_actor=calls, max_concurrent_calls_per_actor=calls
            ),
        )


def waited_for(attempts: Any, actors: StageActors) -> list[str] | None:
    """In words what has not begun yet; None once a worker has."""
    read, begun = ray.get(attempts.any_begun.remote())
    if begun:
        return None
    gpus = f" and {actors.gpus} GPU" if actors.gpus else ""
    lines = [f"no worker is up yet: each wants {actors.cpus} CPUs{gpus} of a node"]
    if actors.fed and not read:
        lines.append(f"nothing is read yet: that wants {CPUS_A_READER} CPU of a node")
    return lines


def _context() -> DataContext:
    """A context of this stream's own: that of the process may ask for ordered streams."""
    context = DataContext.get_current().copy()
    quiet_streams(context)
    context.execution_options = ExecutionOptions(preserve_order=False)
    # A block is a group, neither joined with others nor cut.
    context.target_max_block_size = None
    context.max_consecutive_actor_init_deaths = MAX_DEATHS
    # No operator can wait for another, see `pipeline.classification.stage_actors`. Each may wait for nodes,
    # or be hours at a shard of a stranger's.
    context.execution_no_progress_timeout_s = -1
    return context
