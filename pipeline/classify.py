"""Classify shards into a catalog: an actor pool holds the bundle, one shard is one unit of work.

The driver checks everything that can be checked before, hands out the shards whose parts are missing, and
counts; `pipeline.shard_classifier` does the work.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray.data
from ray.exceptions import RayError

from hiwl_core.bundle import ModelBundle
from hiwl_core.cutouts import OK
from hiwl_core.errors import IncompleteError, UserError
from hiwl_core.taxonomy import Taxonomy
from pipeline import storage
from pipeline.catalog import (
    TRUE_LABEL,
    PartRecord,
    catalog_schema,
    check_part,
    part_name,
    read_part,
)
from pipeline.cluster import ClusterResources, connected
from pipeline.progress import progress
from pipeline.shard_classifier import ShardClassifier, ShardTask, counted, read_bundle
from pipeline.shards import Columns, check_columns, count_rows, fingerprint, list_shards

__all__ = ["CatalogSummary", "classify", "failures"]

CPUS_AN_ACTOR = 2
MAX_RETRIES = 3
MAX_AUTOSCALED_ACTORS = 64


@dataclass
class CatalogSummary:
    """What a catalog holds, and what this call did for it.

    Parameters
    ----------
    catalog : str
    parts : list of str
        Parts of the shards that were asked for.
    classes, statuses : Counter
        Rows of each label and of each status, in all of `parts`.
    computed : int
        Rows classified by this call.
    skipped_parts : int
        Parts that were there already.
    seconds : float
        Time of the classification alone.
    failed : list of str
        A line for each shard that could not be read or whose part could not be written; it has no part.
    """

    catalog: str
    parts: list[str]
    classes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    computed: int = 0
    skipped_parts: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows in all of `parts`."""
        return self.statuses.total()


def classify(
    bundle_path: str,
    shards_path: str,
    catalog: str,
    columns: Columns | None = None,
    carry: Sequence[str] = (),
    stage2: str = "routed",
    workers: int | None = None,
    gpu: bool | None = None,
    keep_truth: bool = False,
) -> CatalogSummary:
    """Classify shards into a catalog with one part a shard; parts that are there already are skipped.

    Parameters
    ----------
    bundle_path : str
        Folder of the model bundle.
    shards_path : str
        A file, a folder or a glob.
    catalog : str
        Folder of the catalog.
    columns : Columns, optional
        What the columns of the shards are called.
    carry : sequence of str
        Further columns of the shards to take over.
    stage2 : {"routed", "always"}
        On which galaxies stage 2 runs.
    workers : int, optional
        Actors at most; default: as many as the cluster has room for now.
    gpu : bool, optional
        Whether each actor takes a GPU; default: if the cluster has any now.
    keep_truth : bool
        Take the shards' labels over as the column `true_label`.

    Raises
    ------
    UserError
        Before any work: for a bundle that is not whole, missing shards or columns, two shards of one name, or
        a part made by another model.
    IncompleteError
        If Ray gave up; whole parts are kept.
    """
    columns, carry = columns or Columns(), tuple(dict.fromkeys(carry))
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: one worker is least")
    bundle = read_bundle(bundle_path)
    for name, stage in bundle.stages.items():
        stage.network(len(bundle.taxonomy.stage_classes(name)))
    shards = list_shards(shards_path)
    _check_names(bundle.taxonomy, columns, carry)
    check_columns(
        shards, columns, required=("object_id", "image", *(["label"] if keep_truth else [])), carry=carry
    )
    folder = storage.absolute(catalog).rstrip("/")
    _check_apart(folder, storage.absolute(shards_path).rstrip("/"))
    tasks = _plan(shards, folder, bundle, columns, carry, stage2, keep_truth)
    summary = CatalogSummary(catalog, [task.part for task in tasks])
    todo = []
    for task, rows in zip(tasks, storage.in_threads(_existing_rows, tasks), strict=True):
        if rows is None:
            todo.append(task)
        else:
            summary.skipped_parts += 1
            summary.classes.update(counted(rows, "label"))
            summary.statuses.update(counted(rows, "status"))
    if not todo:
        return summary

    storage.prepare_folder(folder)
    with connected() as cluster:
        started = time.monotonic()
        counts = [count_rows(task.shard) for task in todo]
        total = None if None in counts else sum(count or 0 for count in counts)
        with progress("classifying", total) as advance:
            for done in _run(bundle_path, bundle.model_id, todo, columns, cluster, workers, gpu):
                if done["failed"]:
                    summary.failed.append(done["failed"])
                    continue
                summary.classes.update(done["classes"])
                summary.statuses.update(done["statuses"])
                rows_done = sum(done["statuses"].values())
                summary.computed += rows_done
                advance(rows_done)
        summary.seconds = time.monotonic() - started
    return summary


def _existing_rows(task: ShardTask) -> pa.Table | None:
    """Labels and statuses of a part that is there already, checked; None if it is not there."""
    if not storage.exists(task.part):
        return None
    check_part(task.part, task.record)
    return read_part(task.part, ["label", "status"])


def _plan(
    shards: list[str],
    catalog: str,
    bundle: ModelBundle,
    columns: Columns,
    carry: Sequence[str],
    stage2: str,
    keep_truth: bool,
) -> list[ShardTask]:
    settings = {
        "columns": columns.__dict__,
        "carry": list(carry),
        "stage2": stage2,
        "keep_truth": keep_truth,
    }
    tasks: dict[str, ShardTask] = {}
    for shard, mark in zip(shards, storage.in_threads(fingerprint, shards), strict=True):
        name = part_name(shard)
        if name in tasks:
            raise UserError(
                f"{tasks[name].shard} and {shard} would both become {name}: a part is named after its shard, "
                "so classify them into two catalogs or rename one"
            )
        record = PartRecord(shard.rsplit("/", 1)[-1], mark, bundle.model_id, settings)
        tasks[name] = ShardTask(shard, f"{catalog}/{name}", record)
    return list(tasks.values())


def _run(
    bundle_path: str,
    model_id: str,
    tasks: list[ShardTask],
    columns: Columns,
    cluster: ClusterResources,
    workers: int | None,
    gpu: bool | None,
) -> Iterator[dict[str, Any]]:
    use_gpu = cluster.gpus > 0 if gpu is None else gpu
    # A cluster that has nothing yet is an autoscaled one, which will start what is asked for.
    cpus = min(CPUS_AN_ACTOR, cluster.cpus) or CPUS_AN_ACTOR
    # One block a shard: a block is a task, and a task is the unit that is retried.
    dataset = ray.data.from_items(
        [{"task": task.to_json()} for task in tasks], override_num_blocks=len(tasks)
    ).map_batches(
        ShardClassifier,
        fn_constructor_args=(storage.absolute(bundle_path), model_id, columns, cpus, use_gpu),
        batch_size=1,
        batch_format="numpy",
        compute=_pool(len(tasks), workers, cluster.gpus if use_gpu else cluster.cpus // cpus),
        num_cpus=cpus,
        num_gpus=1 if use_gpu else 0,
        max_restarts=MAX_RETRIES,
        max_task_retries=MAX_RETRIES,
    )
    try:
        for row in dataset.iter_rows():
            yield json.loads(row["done"])
    # An actor or a node that was lost more often than it is tried again.
    except RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise IncompleteError(
            f"the classification broke off ({reason}); whole parts are kept: start the same command again"
        ) from error


def _pool(shards: int, workers: int | None, room: int) -> ray.data.ActorPoolStrategy:
    """As many actors as there is room for; where there is none yet, as many as the autoscaler grants."""
    if workers is None and room:
        workers = room
    wanted = min(shards, workers or MAX_AUTOSCALED_ACTORS)
    if wanted <= room:
        # A shard is minutes of work: none waits in the queue of a busy actor while another is idle.
        return ray.data.ActorPoolStrategy(size=wanted, max_tasks_in_flight_per_actor=1)
    return ray.data.ActorPoolStrategy(min_size=1, max_size=wanted)


def _check_names(taxonomy: Taxonomy, columns: Columns, carry: Sequence[str]) -> None:
    own = {*catalog_schema(taxonomy, pa.int64()).names, TRUE_LABEL, "image", columns.image}
    taken = [name for name in carry if name in own]
    if taken:
        raise UserError(f"--carry {taken[0]}: that name is taken in the catalog; rename the shards' column")


def _check_apart(catalog: str, shards: str) -> None:
    """A catalog among its shards would be classified itself the next time."""
    if f"{catalog}/".startswith(f"{shards}/") or f"{shards}/".startswith(f"{catalog}/"):
        raise UserError(
            f"the catalog {catalog} and the shards {shards} lie in each other: choose another folder"
        )


def failures(summary: CatalogSummary) -> dict[str, int]:
    """Rows that could not be classified, by status."""
    return {status: count for status, count in summary.statuses.items() if status != OK}
