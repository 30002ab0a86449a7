"""The folder that `ingest` writes: shards, ``rejects.csv`` and, in ``_ingest/``, the plan and the records."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import mmap
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, cast

import pyarrow as pa

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.ingestion.shard_plan import OBJECTS_OF_BEFORE, IngestPlan, ShardToWrite, plan_lines
from pipeline.shards.cutout_shards import encode_shard

__all__ = ["IngestFolder", "ShardRecord", "count_classes"]

FOREIGN = ("rejects.csv", "_catalog.json", "run.json", "bundle.json")
PARTS_AT_ONCE = 256
COPIED_BYTES = 64 * 2**20
HEADER = b"object_id,file,reason\n"
MARK_BYTES = 256


@dataclass(frozen=True)
class ShardRecord:
    """What became of a shard; kept beside the shards, so that a later run need not read them again.

    Parameters
    ----------
    name, series : str
    rows : int
        Rows in the shard; a shard of 0 rows is not written.
    classes : dict of str to int
        Rows by label; the key ``""`` counts those without one.
    rejects : int
        Objects whose image cannot be used; they are listed in a file of their own.
    sha256 : str
        Of the shard's file; empty if it has no rows, and in records of earlier versions.
    """

    name: str
    series: str
    rows: int
    classes: dict[str, int]
    rejects: int = 0
    sha256: str = ""


class IngestFolder:
    """Reads and writes what is not a shard; safe to use from any worker.

    Parameters
    ----------
    path : str
        Absolute path or URL.
    """

    def __init__(self, path: str) -> None:
        self.path = path.rstrip("/")
        self._plan = f"{self.path}/_ingest/plan.json"

    def read_plan(self) -> IngestPlan | None:
        """The plan of an earlier run, if there is one.

        Raises
        ------
        UserError
            If there is none, and the folder holds what ingest did not make and would overwrite or mix with.
        """
        place = self._plan
        if storage.exists(place):
            try:
                return IngestPlan(**json.loads(storage.read_bytes(place)))
            except (ValueError, TypeError):
                raise UserError(
                    f"{place} is no plan that this version can go on with: choose another folder, or remove "
                    f"{self.path}"
                ) from None
        for entry in storage.iter_entries(self.path):
            if entry.path == self.path.removeprefix("file://"):
                raise UserError(f"{self.path} is a file: choose a folder for the shards")
            if entry.path.endswith(".parquet"):
                raise UserError(
                    f"{self.path} holds other Parquet files: choose another folder, or remove them"
                )
        for name in FOREIGN:
            if storage.exists(f"{self.path}/{name}"):
                raise UserError(f"{self.path} holds another {name}: choose another folder, or remove it")
        return None

    def begin(self, work: str) -> str:
        """A name for the objects' folder of a new plan, once the folder is claimed.

        Parameters
        ----------
        work : str
            The verb, for messages.

        Raises
        ------
        UserError
            If another run's plan came since the look at this folder.
        """
        if self.read_plan() is not None:
            raise UserError(
                f"another run of `{work}` began in {self.path} meanwhile: start the same command again, or "
                "choose another folder"
            )
        return f"{OBJECTS_OF_BEFORE}-{secrets.token_hex(4)}"

    def objects_of(self, name: str) -> str:
        """The folder with a plan's objects, by its name."""
        return f"{self.path}/_ingest/{name}"

    def check_same(self, begun: IngestPlan, now: IngestPlan) -> None:
        """Check that an ingest from the same source and with the same options began here.

        Raises
        ------
        UserError
        """
        difference = _difference(begun, now)
        if difference:
            raise UserError(
                f"{self.path} holds an ingest of another plan: {difference}; choose another folder, or "
                "remove this one"
            )

    def write_plan(self, plan: IngestPlan, without_image: bytes) -> None:
        """Make a plan, whose objects are there already, the folder's, and remove what others planned.

        Raises
        ------
        UserError
            If another run's plan is there meanwhile.
        """
        storage.write_bytes(self._without_image(plan), without_image)
        if not storage.create_bytes(self._plan, _json_bytes(plan.to_dict())):
            raise UserError(
                f"{self._plan} was made by another run meanwhile: choose another folder, or remove it and "
                "start again"
            )
        inside = {name.split("/")[0] for name in _names(f"{self.path}/_ingest") if "/" in name}
        for name in inside - {plan.objects}:
            if name.startswith(OBJECTS_OF_BEFORE):
                storage.remove(self.objects_of(name))

    def plan_mark(self) -> bytes:
        """Tells this plan from another: workers write nothing once the folder has become another's.

        These are its first bytes, which have a name of its own; the whole may be megabytes.
        """
        with storage.open_input(self._plan) as file:
            return file.read(MARK_BYTES)

    def read_rejects(self, record: ShardRecord) -> bytes:
        """The lines of a shard's rejects; nothing if they are not there."""
        path = self._rejects_path(record.name)
        return storage.read_bytes(path) if record.rejects and storage.exists(path) else b""

    def write_shard(
        self, shard: ShardToWrite, table: pa.Table, rejects: Sequence[Sequence[str]], source: str
    ) -> ShardRecord:
        """Keep a shard, whole, and what became of it.

        Parameters
        ----------
        shard : ShardToWrite
        table : pyarrow.Table
            Its rows, see `pipeline.shards.cutout_shards.encode_shard`; one without any is not written.
        rejects : sequence of (object id, file, reason)
        source : str
            What made it.
        """
        content = encode_shard(table, source) if table.num_rows else b""
        record = ShardRecord(
            shard.name,
            shard.series,
            table.num_rows,
            dict(Counter(label or "" for label in table["label"].to_pylist())),
            len(rejects),
            hashlib.sha256(content).hexdigest() if content else "",
        )
        # The record first: where there is a shard, there is its record.
        if rejects:
            storage.write_bytes(self._rejects_path(shard.name), plan_lines(rejects))
        storage.write_bytes(self._record_path(shard.name), _json_bytes(asdict(record)))
        if content:
            storage.write_bytes(f"{self.path}/{shard.name}", content)
        return record

    def finished(self, shards: Sequence[ShardToWrite]) -> dict[str, ShardRecord]:
        """The records of the shards that an earlier run finished."""
        there, kept = _names(self.path), _names(f"{self.path}/_ingest")
        begun = [self._record_path(shard.name) for shard in shards if _stem(shard.name) + ".json" in kept]
        records = (
            ShardRecord(**json.loads(content)) for content in storage.in_threads(storage.read_bytes, begun)
        )
        return {record.name: record for record in records if not record.rows or record.name in there}

    def write_rejects(self, plan: IngestPlan, records: Iterable[ShardRecord], named: int) -> list[list[str]]:
        """Gather the rejects of all shards and the labels without an image into ``rejects.csv``.

        Parameters
        ----------
        plan : IngestPlan
        records : iterable of ShardRecord
            In the order of the shards.
        named : int
            How many to return.

        Returns
        -------
        list of [object id, file, reason]
            The first of them.
        """
        parts = [self._rejects_path(record.name) for record in records if record.rejects]
        parts.append(self._without_image(plan))
        # Through a file here, since there may be as many rejects as objects.
        with tempfile.TemporaryFile() as file:
            file.write(HEADER)
            for start in range(0, len(parts), PARTS_AT_ONCE):
                some = parts[start : start + PARTS_AT_ONCE]
                file.writelines(storage.in_threads(storage.read_bytes, some))
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                # A map is cut into parts like bytes, and need not fit in memory.
                whole = content[:] if len(content) <= COPIED_BYTES else cast(bytes, content)
                storage.write_bytes(f"{self.path}/rejects.csv", whole)
            file.seek(len(HEADER))
            return list(islice(csv.reader(io.TextIOWrapper(file, "utf-8", newline="")), named))

    def _without_image(self, plan: IngestPlan) -> str:
        inside = "" if plan.objects == OBJECTS_OF_BEFORE else f"{plan.objects}/"
        return f"{self.path}/_ingest/{inside}without_image.csv"

    def _record_path(self, name: str) -> str:
        return f"{self.path}/_ingest/{_stem(name)}.json"

    def _rejects_path(self, name: str) -> str:
        return f"{self.path}/_ingest/{_stem(name)}.rejects.csv"


def count_classes(records: Iterable[ShardRecord]) -> dict[str, dict[str, int]]:
    """For each series its rows by label."""
    classes: dict[str, Counter[str]] = {}
    for record in records:
        classes.setdefault(record.series, Counter()).update(record.classes)
    return {series: dict(counts) for series, counts in classes.items()}


def _difference(begun: IngestPlan, now: IngestPlan) -> str | None:
    """The first difference of two plans' sources and settings, in the user's words."""
    if begun.place != now.place:
        return f"it is from {begun.place}, not from {now.place}"
    # As JSON keeps them: a tuple there is a list here.
    there, here = (json.loads(json.dumps(plan.settings)) for plan in (begun, now))
    for option in {**there, **here}:
        old, new = there.get(option), here.get(option)
        if old != new:
            what = "" if option == "--labels" and old and new else f" ({old!r} there, now {new!r})"
            return f"{option} is not the same{what}"
    if begun.digest != now.digest:
        count = f"{begun.images:,} images then, {now.images:,} now"
        what = count if begun.images != now.images else "other names, sizes or dates"
        return f"the files of the source {now.place} have changed ({what})"
    return None


def _names(folder: str) -> set[str]:
    """Names of the files in a folder, with those of subfolders before them."""
    prefix = folder.removeprefix("file://") + "/"
    return {path.removeprefix(prefix) for path, _ in storage.list_files(folder)}


def _stem(name: str) -> str:
    return name.removesuffix(".parquet")


def _json_bytes(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()
