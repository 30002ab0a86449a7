"""Proof that a catalog is whole: each row of each shard is in it exactly once, as it was written.

Parts and shards are compared pair by pair, so that nothing but counts and hashes of the ids is held of each;
very many are compared by Ray tasks.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.catalog.doubles import buckets_for, id_hashes, in_buckets, repeated_ids
from pipeline.catalog.ledger import read_ledger
from pipeline.catalog.manifest import CatalogPlan, PlannedShard, part_record, read_plan
from pipeline.catalog.part_statistics import KnownPart, part_statistics, write_statistics
from pipeline.catalog.parts import check_part_record, counted, list_parts, unsound_rows
from pipeline.catalog.shard_content import content_of
from pipeline.in_notebooks import InNotebooks
from pipeline.progress import progress
from pipeline.shards.cutout_shards import Columns, inspect_shard, iter_rows
from pipeline.shards.fingerprints import ends_of
from pipeline.task_pool import ray_pool, thread_pool

__all__ = ["CHECKS", "Verification", "verify"]

CHECKS = {
    "parts": "a part for each planned shard, and no other",
    "checksums": "each part is, byte for byte, what was written",
    "models": "one model and one way of making for all rows",
    "shards": "the shards are those that the catalog was planned from",
    "answers": "rows that are ok have a label and probabilities that sum to 1",
    "rows": "as many rows in each part as in its shard",
    "ids": "the ids of each part are those of its shard, in order",
    "doubles": "no id twice",
}
FINDINGS_KEPT = 20
# So many take one process a minute.
MANY_PARTS = 2_000
PARTS_A_TASK = 128


@dataclass
class Verification(InNotebooks):
    """What a verification found.

    Parameters
    ----------
    catalog, model_id : str
    parts, rows : int
        Parts and rows looked at.
    statuses : Counter
        Rows by status.
    findings : dict of list of str
        For each of `CHECKS` what is wrong, a line each, the first 20; empty if all is well.
    counts : Counter
        How many lines each check has found, those that were not kept among them.
    skipped : tuple of str
        Checks that were not made.
    """

    in_notebooks = ("catalog", "model_id", "passed", "parts", "rows", "statuses", "findings", "skipped")

    catalog: str
    model_id: str
    parts: int = 0
    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[str]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    skipped: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no check found anything."""
        return not self.counts

    def add(self, check: str, finding: str) -> None:
        """Take down what a check found."""
        self.counts[check] += 1
        kept = self.findings.setdefault(check, [])
        if len(kept) < FINDINGS_KEPT:
            kept.append(finding)

    def add_doubles(self, times: Mapping[str, int], others: int) -> None:
        """Take down how often some ids are there, and how many more are there twice."""
        for identifier, count in times.items():
            self.add("doubles", f"id {identifier} has {count} rows")
        self.counts.update({"doubles": others} if others else {})


@dataclass(frozen=True)
class _PartFacts:
    """What the look at one part told; of some parts, what the looks at them did, with hashes by bucket."""

    known: dict[str, KnownPart]
    rows: int
    statuses: Counter[str]
    findings: list[tuple[str, str]]
    hashes: Any


class _PartToCheck(NamedTuple):
    """A part's shard, the ledger's digests of the part and of the shard's rows, and its state as listed."""

    shard: PlannedShard
    checksums: frozenset[str]
    contents: frozenset[str]
    size: int
    mark: str


class _Checks(NamedTuple):
    """What the looks at all parts have in common; the plan is without its shards."""

    folder: str
    plan: CatalogPlan
    with_shards: bool
    buckets: int
    in_ray: bool


def verify(catalog: str, with_shards: bool = True) -> Verification:
    """Check a catalog against its plan, its ledger and its shards.

    Parameters
    ----------
    catalog : str
        Folder of a catalog that `classify` wrote.
    with_shards : bool
        Read the ids of the shards too; without, the catalog is compared with its plan alone.

    Returns
    -------
    Verification

    Raises
    ------
    UserError
        If there is no catalog.
    """
    folder = storage.absolute(catalog).rstrip("/")
    plan = read_plan(folder)
    ledger = read_ledger(folder)
    result = Verification(catalog, plan.model_id, skipped=() if with_shards else ("shards", "ids"))
    there = list_parts(folder)
    marks = {entry.path: entry.mark for entry in storage.iter_entries(folder)}
    for name in there.keys() - plan.shards.keys():
        result.add("parts", f"{folder}/{name} belongs to no shard of the plan")
    missing = plan.shards.keys() - there.keys()
    for part in sorted(missing):
        result.add("parts", f"no part for {plan.shards[part].shard}")

    present, place = [], folder.removeprefix("file://")
    for part, shard in plan.shards.items():
        if part not in missing:
            made = [entry for entry in ledger.get(part, []) if entry.fingerprint == shard.fingerprint]
            checksums = frozenset(entry.sha256 for entry in made if entry.sha256)
            contents = frozenset(entry.content for entry in made if entry.content)
            mark = marks.get(f"{place}/{part}", "")
            present.append(_PartToCheck(shard, checksums, contents, there[part], mark))
    many = len(present) >= MANY_PARTS
    bare = CatalogPlan(plan.model_id, plan.settings, {})
    checks = _Checks(folder, bare, with_shards, buckets_for(plan.rows), many)
    tasks = [present[start : start + PARTS_A_TASK] for start in range(0, len(present), PARTS_A_TASK)]
    buckets: list[list[Any]] = [[] for _ in range(checks.buckets)]
    known: dict[str, KnownPart] = {}
    work = "the verification"
    with (
        ray_pool(None, work) if many else thread_pool(1, work) as pool,
        progress("verifying", plan.rows) as advance,
    ):
        for number, facts in pool.run(_look_at_some, tasks, checks):
            known.update(facts.known)
            result.parts += len(tasks[number])
            result.rows += facts.rows
            result.statuses.update(facts.statuses)
            for check, finding in facts.findings:
                result.add(check, finding)
            for bucket, hashes in zip(buckets, facts.hashes, strict=True):
                bucket.append(hashes)
            advance(facts.rows)
        paths = [[f"{folder}/{one.shard.part}" for one in task] for task in tasks]
        result.add_doubles(*repeated_ids(pool, buckets, paths))
    # Who may not write here may verify all the same.
    with suppress(OSError, UserError):
        write_statistics(folder, known)
    return result


def _look_at_some(parts: Sequence[_PartToCheck], checks: _Checks) -> _PartFacts:
    """Compare some parts with what they should be."""
    rows, statuses = 0, Counter[str]()
    known: dict[str, KnownPart] = {}
    findings: list[tuple[str, str]] = []
    hashes = [np.empty(0, np.uint64)]
    for facts in storage.in_threads(partial(_look, checks), parts):
        known.update(facts.known)
        rows += facts.rows
        statuses.update(facts.statuses)
        findings += facts.findings
        hashes.append(facts.hashes)
    spread: list[Any] = in_buckets(np.concatenate(hashes), checks.buckets)
    if checks.in_ray:
        import ray

        # They stay where they are until they are looked through, bucket by bucket.
        spread = [ray.put(bucket) for bucket in spread]
    return _PartFacts(known, rows, statuses, findings, spread)


def _look(checks: _Checks, part: _PartToCheck) -> _PartFacts:
    """Compare one part with its entries in the ledger, its plan and its shard."""
    shard, checksums = part.shard, part.checksums
    plan, path = checks.plan, f"{checks.folder}/{shard.part}"
    findings: list[tuple[str, str]] = []
    content = storage.read_bytes(path)
    if not checksums:
        findings.append(("checksums", f"{path} is not in the ledger yet: start `hiwl classify` again"))
    elif hashlib.sha256(content).hexdigest() not in checksums:
        findings.append(
            ("checksums", f"{path} is not what was written: remove it and start `hiwl classify` again")
        )
    try:
        table = pq.ParquetFile(io.BytesIO(content)).read()
        if not check_part_record(path, table.schema.metadata, part_record(plan, shard)):
            findings.append(("models", f"{path} was made from another state of its shard"))
    except (pa.ArrowException, OSError, UserError) as error:
        findings.append(("models", f"{path} cannot be read as a part of this catalog: {error}"))
        return _PartFacts({}, 0, Counter(), findings, np.empty(0, np.uint64))
    models = pc.unique(table["model_id"]).to_pylist()
    if models not in ([plan.model_id], []):
        findings.append(("models", f"{path} has rows of the models {models}"))
    if unsound := unsound_rows(table):
        findings.append(
            (
                "answers",
                f"{path} has {unsound} rows that are called ok without a label and probabilities that sum "
                "to 1: remove it and start `hiwl classify` again",
            )
        )
    if shard.rows is not None and table.num_rows != shard.rows:
        findings.append(("rows", f"{path} has {table.num_rows} rows, its shard {shard.rows}"))
    if checks.with_shards:
        findings += _compare_ids(path, table["object_id"], plan, part)
    known = {shard.part: part_statistics(table, part.size, part.mark)}
    return _PartFacts(known, table.num_rows, counted(table, "status"), findings, id_hashes(table))


def _compare_ids(
    path: str, ids: pa.ChunkedArray, plan: CatalogPlan, part: _PartToCheck
) -> Iterator[tuple[str, str]]:
    shard = part.shard
    columns = Columns(**plan.settings["columns"])
    try:
        if inspect_shard(shard.shard).fingerprint != ends_of(shard.fingerprint):
            yield "shards", f"{shard.shard} changed since the catalog was planned"
            return
        if _written_since(shard) and content_of(shard.shard, plan.settings) not in part.contents:
            yield "shards", f"{shard.shard} was written since the catalog was planned, and may have changed"
            return
        start = 0
        for rows in iter_rows(shard.shard, columns, ["object_id"], batch_rows=65536):
            expected = rows["object_id"]
            found = ids.slice(start, len(expected))
            if len(found) != len(expected) or not _same(found, expected):
                yield "ids", f"{path} differs from {shard.shard} in rows {start} to {start + len(expected)}"
            start += len(expected)
        if start != len(ids):
            yield "rows", f"{path} has {len(ids)} rows, its shard {start}"
    except storage.StoreError:
        # That the store is out of reach says nothing of what lies in it.
        raise
    except (OSError, UserError, pa.ArrowException) as error:
        yield "shards", f"{shard.shard} cannot be read: {error}"


def _written_since(shard: PlannedShard) -> bool:
    return any(entry.mark != shard.mark for entry in storage.iter_entries(shard.shard))


def _same(found: pa.ChunkedArray, expected: pa.ChunkedArray) -> bool:
    if found.type != expected.type:
        found, expected = found.cast(pa.string()), expected.cast(pa.string())
    return bool(found.equals(expected))
