"""The actors that classify on a cluster, and the groups of shards that are handed out to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from hiwl_core.errors import IncompleteError, UserError
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.plan import CatalogPlan, PlannedShard, part_record
from pipeline.classification.shard_classifier import ShardClassifier
from pipeline.classification.shard_work import ShardTask
from pipeline.cluster import ClusterResources
from pipeline.shards.cutout_shards import MAX_SHARD_ROWS, Columns

__all__ = ["ActorPool", "classify_shards", "group_shards"]

# A shard whose worker died so often is set aside: it may well be what kills them.
MAX_DEATHS = 4
# One of a group may be what kills workers: the group is soon given up, and its shards are tried one by one.
MAX_DEATHS_OF_A_GROUP = 2
MAX_AUTOSCALED_ACTORS = 64
GROUPS_AN_ACTOR = 4

_Actor: TypeAlias = ActorHandle[ShardClassifier]


@dataclass(frozen=True)
class ActorPool:
    """The actors that classify: what each takes, and how many there may be.

    Parameters
    ----------
    bundle_path : str
    columns : Columns
        The shards' names.
    engine : str
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
        cpus = cluster.cpus_an_actor(use_gpu)
        room = cluster.gpus if use_gpu else cluster.cpus // cpus
        return cls(bundle_path, columns, engine, cpus, int(use_gpu), room, workers)

    def create(self, model_id: str) -> _Actor:
        """Ask for an actor, which runs as soon as the cluster has room for it.

        Ray is to retry nothing: who works on what, and how often, is decided here.
        """
        actor = ray.remote(ShardClassifier).options(
            num_cpus=self.cpus, num_gpus=self.gpus, max_restarts=0, max_task_retries=0
        )
        settings = (self.cpus, bool(self.gpus), self.engine)
        return actor.remote(self.bundle_path, model_id, self.columns, *settings)


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
    most = actors.most or actors.room or MAX_AUTOSCALED_ACTORS
    groups = [_Group([tasks[part] for part in group]) for group in group_shards(shards, most)]
    work = _Work(actors, plan.model_id, groups)
    try:
        yield from work.run(min(len(groups), most))
    except RayError as error:
        raise IncompleteError(
            f"the classification broke off ({_last_line(error)}); whole parts are kept: start the same "
            "command again"
        ) from error
    finally:
        work.stop()


@dataclass
class _Group:
    """Shards that are classified together, and how often the worker died over them."""

    tasks: list[ShardTask]
    deaths: int = 0


class _Work:
    """Groups, the actors that take them, and who is at work on what."""

    def __init__(self, actors: ActorPool, model_id: str, groups: Sequence[_Group]) -> None:
        self._actors, self._model_id = actors, model_id
        self._groups = deque(groups)
        # An actor gets its first group once it runs, which on a cluster without room may be never.
        self._starting: dict[ray.ObjectRef, _Actor] = {}
        self._idle: list[_Actor] = []
        self._at_work: dict[ray.ObjectRef, tuple[_Actor, _Group]] = {}
        self._failed_starts = 0

    def run(self, actors: int) -> Iterator[LedgerEntry]:
        """An entry for each shard, as they are done."""
        for _ in range(actors):
            self._start_one()
        while self._groups or self._at_work:
            while self._groups and self._idle:
                actor, group = self._idle.pop(), self._groups.popleft()
                # A group is minutes of work: none waits for a busy actor while another is idle.
                self._at_work[actor.classify.remote(group.tasks)] = (actor, group)
            (ready,), _ = ray.wait([*self._at_work, *(self._starting if self._groups else ())])
            if ready in self._starting:
                self._take_started(ready)
            else:
                yield from self._take_result(ready)

    def stop(self) -> None:
        """End all actors."""
        for actor in (*self._starting.values(), *self._idle, *(actor for actor, _ in self._at_work.values())):
            ray.kill(actor)

    def _start_one(self) -> None:
        actor = self._actors.create(self._model_id)
        self._starting[actor.__ray_ready__.remote()] = actor

    def _take_started(self, ready: ray.ObjectRef) -> None:
        actor = self._starting.pop(ready)
        try:
            ray.get(ready)
        except RayError as error:
            self._failed_starts += 1
            hopeless = getattr(error, "actor_init_failed", False) or self._failed_starts > MAX_DEATHS
            if hopeless and not (self._idle or self._at_work or self._starting):
                raise
            if not hopeless:
                self._start_one()
        else:
            self._failed_starts = 0
            self._idle.append(actor)

    def _take_result(self, ready: ray.ObjectRef) -> Iterator[LedgerEntry]:
        actor, group = self._at_work.pop(ready)
        try:
            entries: list[LedgerEntry] = ray.get(ready)
        except RayTaskError as error:
            # It raised and lives, and would raise again.
            self._idle.append(actor)
            group.deaths = MAX_DEATHS
            yield from self._try_again(group, error)
        except RayError as error:
            # It died, or was ended for lack of memory, or cannot be reached and must not go on by itself.
            ray.kill(actor)
            self._start_one()
            group.deaths += 1
            yield from self._try_again(group, error)
        else:
            self._idle.append(actor)
            yield from entries

    def _try_again(self, group: _Group, error: RayError) -> Iterator[LedgerEntry]:
        """Put a group back, or one by one the shards of it, or give a shard up."""
        if len(group.tasks) > 1 and group.deaths >= MAX_DEATHS_OF_A_GROUP:
            self._groups.extend(_Group([task]) for task in group.tasks)
        elif group.deaths < MAX_DEATHS:
            self._groups.append(group)
        else:
            (task,) = group.tasks
            died = f"its worker died {MAX_DEATHS} times, for lack of memory perhaps"
            reason = _last_line(error) if isinstance(error, RayTaskError) else died
            yield task.entry(failed=f"{task.shard}: {reason}")


def _last_line(error: RayError) -> str:
    """What was raised, without the traceback before it."""
    return str(error).strip().splitlines()[-1][:300]


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
