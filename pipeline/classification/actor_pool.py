"""The actors that classify on a cluster, and the groups of shards that are handed out to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray.data
from ray.exceptions import RayError

from hiwl_core.errors import IncompleteError, UserError
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.plan import CatalogPlan, PlannedShard, part_record
from pipeline.classification.shard_classifier import ShardClassifier
from pipeline.classification.shard_work import ShardTask
from pipeline.cluster import ClusterResources
from pipeline.shards.cutout_shards import MAX_SHARD_ROWS, Columns

__all__ = ["CPUS_AN_ACTOR", "ActorPool", "classify_shards", "group_shards"]

CPUS_AN_ACTOR = 2
# A shard whose worker died so often is set aside: it may well be what kills them.
MAX_RETRIES = 3
MAX_AUTOSCALED_ACTORS = 64
GROUPS_AN_ACTOR = 4


@dataclass(frozen=True)
class ActorPool:
    """The actors that classify: what each takes, and how many there may be.

    Parameters
    ----------
    bundle_path : str
    columns : Columns
        The shards' names.
    engine, precision : str
        See `hiwl_core.engines.choose_engine`.
    cpus, gpus : int
        Of one actor.
    room : int
        Actors that the cluster has room for now; 0 if it has nothing yet.
    most : int or None
        Actors that the user allows.
    """

    bundle_path: str
    columns: Columns
    engine: str
    precision: str
    cpus: int
    gpus: int
    room: int
    most: int | None

    @classmethod
    def on(
        cls,
        cluster: ClusterResources,
        bundle_path: str,
        columns: Columns,
        engine: str,
        precision: str,
        workers: int | None,
        gpu: bool | None,
    ) -> ActorPool:
        """The pool that a cluster has room for.

        Raises
        ------
        UserError
            If OpenVINO is asked for and the actors would take GPUs.
        """
        use_gpu = cluster.gpus > 0 if gpu is None else gpu
        if use_gpu and engine == "openvino":
            raise UserError("--engine openvino computes on CPUs: add --no-gpu, or leave the engine out")
        # A cluster that has nothing yet is an autoscaled one, which will start what is asked for.
        cpus = min(CPUS_AN_ACTOR, cluster.cpus) or CPUS_AN_ACTOR
        room = cluster.gpus if use_gpu else cluster.cpus // cpus
        return cls(bundle_path, columns, engine, precision, cpus, int(use_gpu), room, workers)

    def strategy(self, groups: int) -> ray.data.ActorPoolStrategy:
        """As many actors as there is room for; where there is none yet, as many as the autoscaler grants."""
        wanted = min(groups, self.most or self.room or MAX_AUTOSCALED_ACTORS)
        if wanted <= self.room:
            # A group is minutes of work: none waits in the queue of a busy actor while another is idle.
            return ray.data.ActorPoolStrategy(size=wanted, max_tasks_in_flight_per_actor=1)
        return ray.data.ActorPoolStrategy(min_size=1, max_size=wanted)


def classify_shards(
    folder: str, plan: CatalogPlan, shards: Sequence[PlannedShard], actors: ActorPool
) -> Iterator[LedgerEntry]:
    """Classify shards on the cluster.

    Parameters
    ----------
    folder : str
        Of the catalog, absolute.
    plan : CatalogPlan
    shards : sequence of PlannedShard
        Those of the plan whose parts are missing.
    actors : ActorPool

    Yields
    ------
    LedgerEntry
        One for each shard, in the order in which they are done.

    Raises
    ------
    IncompleteError
        If Ray gave up; whole parts are kept.
    """
    tasks = {
        shard.part: ShardTask(shard.shard, f"{folder}/{shard.part}", part_record(plan, shard))
        for shard in shards
    }
    groups = group_shards(shards, actors.most or actors.room or MAX_AUTOSCALED_ACTORS)
    if len(groups) < len(shards):
        yield from _run_groups(
            [[tasks[part] for part in group] for group in groups], tasks, plan.model_id, actors, 1
        )
    # One shard of a group may be what kills workers: what is left is tried by itself.
    yield from _run_groups([[task] for task in tasks.values()], tasks, plan.model_id, actors, MAX_RETRIES)
    for task in tasks.values():
        died = f"{task.shard}: its worker died {MAX_RETRIES + 1} times, for lack of memory perhaps"
        yield task.entry(failed=died)


def _run_groups(
    groups: Sequence[Sequence[ShardTask]],
    left: dict[str, ShardTask],
    model_id: str,
    actors: ActorPool,
    retries: int,
) -> Iterator[LedgerEntry]:
    """Classify groups of shards; an entry for each shard, which is taken out of `left`."""
    if not groups:
        return
    # One block a group: a block is a task, and a task is the unit that is retried.
    dataset = ray.data.from_items(
        [{"group": ShardTask.group_to_json(group)} for group in groups], override_num_blocks=len(groups)
    ).map_batches(
        ShardClassifier,
        fn_constructor_args=(
            actors.bundle_path,
            model_id,
            actors.columns,
            actors.cpus,
            bool(actors.gpus),
            actors.engine,
            actors.precision,
        ),
        batch_size=1,
        batch_format="numpy",
        compute=actors.strategy(len(groups)),
        num_cpus=actors.cpus,
        num_gpus=actors.gpus,
        # Nodes may come and go all night; what is bounded is how often one group is tried.
        max_restarts=-1,
        max_task_retries=retries,
    )
    dataset.context.max_errored_blocks = -1
    # A group that takes long must not hold back the news of the others.
    dataset.context.execution_options.preserve_order = False
    try:
        for row in dataset.iter_rows():
            for entry in json.loads(row["done"]):
                # Should Ray ever hand out a task twice, its second result is no further part.
                if left.pop(entry["part"], None):
                    yield LedgerEntry(**entry)
    except RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise IncompleteError(
            f"the classification broke off ({reason}); whole parts are kept: start the same command again"
        ) from error


def group_shards(shards: Sequence[PlannedShard], actors: int) -> list[list[str]]:
    """Parts by the groups in which their shards are classified, in order.

    A task and its first and last batches cost some tenths of a second, so that small shards go together, up
    to the rows of a large one; but each of several actors gets several groups, lest one be left with all the
    work.
    """
    known = sum(shard.rows or 0 for shard in shards)
    most = MAX_SHARD_ROWS if actors == 1 else min(MAX_SHARD_ROWS, known // (GROUPS_AN_ACTOR * actors))
    groups: list[list[str]] = []
    held = 0
    for shard in shards:
        # Of a tar only its size is known, which may be anything.
        rows = most if shard.rows is None else shard.rows
        if not groups or held + rows > most:
            groups.append([])
            held = 0
        groups[-1].append(shard.part)
        held += rows
    return groups
