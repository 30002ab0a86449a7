"""Classify shards into a catalog: an actor pool holds the bundle, one shard is one unit of work.

An actor reads a shard a few hundred rows at a time, decodes them with threads, runs the cascade and writes
the shard's part whole. No image passes through the object store; the driver sees one small row a shard.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
import torch

from hiwl_core.bundle import ModelBundle, bundle_from_files
from hiwl_core.cutouts import OK
from hiwl_core.errors import UserError
from hiwl_core.inference import CascadeClassifier
from hiwl_core.taxonomy import Taxonomy
from pipeline import storage
from pipeline.catalog import (
    TRUE_LABEL,
    PartRecord,
    catalog_schema,
    check_part,
    encode_part,
    part_name,
    part_table,
    read_part,
)
from pipeline.cluster import ClusterResources, connected
from pipeline.progress import progress
from pipeline.shards import Columns, check_columns, count_rows, fingerprint, iter_rows, list_shards

__all__ = ["CatalogSummary", "ShardTask", "classify", "read_bundle"]

CPUS_AN_ACTOR = 2


@dataclass(frozen=True)
class ShardTask:
    """One unit of work: a shard and the part it becomes."""

    shard: str
    part: str
    record: PartRecord


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
    """

    catalog: str
    parts: list[str]
    classes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    computed: int = 0
    skipped_parts: int = 0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Rows in all of `parts`."""
        return self.statuses.total()


def read_bundle(path: str) -> ModelBundle:
    """A model bundle from a local folder or a URL, its hashes checked.

    Raises
    ------
    UserError
        If it is not whole or was changed.
    """
    folder = storage.absolute(path).rstrip("/")

    def read(name: str) -> bytes:
        if not storage.exists(f"{folder}/{name}"):
            raise UserError(f"no model bundle at {path!r}: {name} is missing")
        return storage.read_bytes(f"{folder}/{name}")

    return bundle_from_files(read, path)


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
    """
    columns = columns or Columns()
    bundle = read_bundle(bundle_path)
    shards = list_shards(shards_path)
    check_columns(
        shards, columns, required=("object_id", "image", *(["label"] if keep_truth else [])), carry=carry
    )
    _check_names(bundle.taxonomy, carry)
    tasks = _plan(shards, storage.absolute(catalog).rstrip("/"), bundle, columns, carry, stage2, keep_truth)
    existing = [task for task in tasks if storage.exists(task.part)]
    for task in existing:
        check_part(task.part, task.record)
    summary = CatalogSummary(catalog, [task.part for task in tasks], skipped_parts=len(existing))
    for task in existing:
        _count(summary, read_part(task.part, ["label", "status"]))
    todo = [task for task in tasks if task not in existing]
    if not todo:
        return summary

    with connected() as cluster:
        started = time.monotonic()
        with progress("classifying", sum(count_rows(task.shard) for task in todo)) as advance:
            for done in _run(bundle_path, bundle.model_id, todo, columns, cluster, workers, gpu):
                summary.classes.update(done["classes"])
                summary.statuses.update(done["statuses"])
                rows = sum(done["statuses"].values())
                summary.computed += rows
                advance(rows)
        summary.seconds = time.monotonic() - started
    return summary


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
    for shard in shards:
        name = part_name(shard)
        if name in tasks:
            raise UserError(
                f"{tasks[name].shard} and {shard} would both become {name}: a part is named after its shard, "
                "so classify them into two catalogs or rename one"
            )
        record = PartRecord(shard.rsplit("/", 1)[-1], fingerprint(shard), bundle.model_id, settings)
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
    cpus = max(1, min(CPUS_AN_ACTOR, cluster.cpus))
    use_gpu = cluster.gpus > 0 if gpu is None else gpu
    room = cluster.gpus if use_gpu else cluster.cpus // cpus
    # One block a shard: a block is a task, and a task is the unit that is retried.
    dataset = ray.data.from_items(
        [{"task": task} for task in tasks], override_num_blocks=len(tasks)
    ).map_batches(
        _ShardClassifier,
        fn_constructor_args=(storage.absolute(bundle_path), model_id, columns, cpus),
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(len(tasks), workers or max(1, room))),
        num_cpus=cpus,
        num_gpus=1 if use_gpu else 0,
    )
    for row in dataset.iter_rows():
        yield row["done"]


class _ShardClassifier:
    """An actor that holds the bundle and turns one shard after the other into parts."""

    def __init__(self, bundle_path: str, model_id: str, columns: Columns, cpus: int) -> None:
        self._bundle = read_bundle(bundle_path)
        if self._bundle.model_id != model_id:
            raise RuntimeError(
                f"the bundle at {bundle_path} changed: {self._bundle.model_id}, not {model_id}"
            )
        torch.set_num_threads(cpus)
        self._columns, self._threads = columns, cpus
        self._classifiers: dict[bool, CascadeClassifier] = {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        return {"done": [self._classify(task) for task in batch["task"]]}

    def _classify(self, task: ShardTask) -> dict[str, Any]:
        settings = task.record.settings
        carried = [*settings["carry"], *([self._columns.label] if settings["keep_truth"] else [])]
        tables: list[pa.Table] = []

        def images() -> Iterator[list[bytes | None]]:
            wanted = ["object_id", "ra", "dec", "image"]
            for table in iter_rows(task.shard, self._columns, wanted, list(dict.fromkeys(carried))):
                tables.append(table.drop_columns(["image"]))
                yield table["image"].to_pylist()

        # Rows are read a batch ahead of the networks, so tables and results are joined by position.
        parts = [
            self._rows(tables[index], statuses, prediction, settings)
            for index, (statuses, prediction) in enumerate(
                self._classifier(settings).classify_batches(images())
            )
        ]
        table = pa.concat_tables(parts)
        storage.write_bytes(task.part, encode_part(table, task.record))
        summary = CatalogSummary("", [])
        _count(summary, table)
        return {"classes": dict(summary.classes), "statuses": dict(summary.statuses)}

    def _rows(
        self, rows: pa.Table, statuses: list[str], prediction: Any, settings: dict[str, Any]
    ) -> pa.Table:
        carried = [rows.schema.field(name).remove_metadata() for name in settings["carry"]]
        if settings["keep_truth"]:
            rows = rows.append_column(TRUE_LABEL, rows[self._columns.label].cast(pa.string()))
            carried.append(pa.field(TRUE_LABEL, pa.string()))
        return part_table(rows, statuses, prediction, self._bundle.taxonomy, self._bundle.model_id, carried)

    def _classifier(self, settings: dict[str, Any]) -> CascadeClassifier:
        always = settings["stage2"] == "always"
        if always not in self._classifiers:
            self._classifiers[always] = CascadeClassifier(
                self._bundle, threads=self._threads, always_stage2=always
            )
        return self._classifiers[always]


def _check_names(taxonomy: Taxonomy, carry: Sequence[str]) -> None:
    own = {*catalog_schema(taxonomy, pa.int64()).names, TRUE_LABEL}
    taken = [name for name in carry if name in own]
    if taken:
        raise UserError(f"--carry {taken[0]}: the catalog has a column of that name; rename it in the shards")


def _count(summary: CatalogSummary, table: pa.Table) -> None:
    for column, counter in (("label", summary.classes), ("status", summary.statuses)):
        for entry in pc.value_counts(table[column]).to_pylist():
            if column == "status" or entry["values"] is not None:
                counter[entry["values"]] += entry["counts"]


def failures(summary: CatalogSummary) -> dict[str, int]:
    """Rows that could not be classified, by status."""
    return {status: count for status, count in summary.statuses.items() if status != OK}
