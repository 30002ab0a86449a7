"""The actor that holds a model bundle and turns one shard after the other into parts of a catalog.

It reads a shard a few hundred rows at a time, decodes them with threads, runs the cascade and writes the
shard's part whole. No image passes through the object store, and what it returns is one small row a shard.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import pyarrow as pa
import torch

from hiwl_core.bundle import ModelBundle, bundle_from_files
from hiwl_core.cutouts import DUPLICATE_ID, NO_ID, Cutout
from hiwl_core.device import choose_compute
from hiwl_core.errors import UserError
from hiwl_core.inference import CascadeClassifier
from pipeline import storage
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.parts import TRUE_LABEL, PartRecord, counted, encode_part, part_table
from pipeline.shards.cutout_shards import STATUS_COLUMN, Columns, fingerprint, iter_rows
from pipeline.shards.wanted_scale import WantedScale

__all__ = ["SHARD_DAMAGE", "ShardClassifier", "ShardTask", "read_bundle"]


# Each request to a store is tried for a minute and a half by itself; a store may be away for longer.
ATTEMPTS = 4
# What reading a damaged shard raises.
SHARD_DAMAGE = (OSError, pa.ArrowException, tarfile.TarError, ValueError, KeyError, TypeError)
SECONDS_BETWEEN_ATTEMPTS = 30.0


@dataclass(frozen=True)
class ShardTask:
    """One unit of work: a shard and the part it becomes."""

    shard: str
    part: str
    record: PartRecord

    def to_json(self) -> str:
        """As text, which Ray Data carries without pickling; `from_json` is its inverse."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ShardTask:
        """The task that `to_json` described."""
        fields = json.loads(text)
        return cls(fields["shard"], fields["part"], PartRecord(**fields["record"]))

    def entry(self, **facts: Any) -> LedgerEntry:
        """The ledger's line on this task."""
        name = self.part.rsplit("/", 1)[-1]
        return LedgerEntry(name, self.record.shard_fingerprint, finished=time.time(), **facts)


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


class ShardClassifier:
    """An actor that holds the bundle and turns one shard after the other into parts."""

    def __init__(self, bundle_path: str, model_id: str, columns: Columns, cpus: int, use_gpu: bool) -> None:
        self._bundle = read_bundle(bundle_path)
        if self._bundle.model_id != model_id:
            raise RuntimeError(
                f"the bundle at {bundle_path} changed: {self._bundle.model_id}, not {model_id}"
            )
        torch.set_num_threads(cpus)
        self._columns, self._threads = columns, cpus
        self._compute = choose_compute(None if use_gpu else torch.device("cpu"))
        self._classifiers: dict[bool, CascadeClassifier] = {}

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        # As text: as a column of structs, the classes of one shard would become nulls of another.
        tasks = map(ShardTask.from_json, batch["task"])
        return {"done": [json.dumps(asdict(self._classify_or_say_why(task))) for task in tasks]}

    def _classify_or_say_why(self, task: ShardTask) -> LedgerEntry:
        started = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._classify(task, started)
            # A damaged shard must not end the night of the others, nor must a store that is away for minutes.
            except SHARD_DAMAGE as error:
                if isinstance(error, storage.StoreError) and attempt < ATTEMPTS:
                    time.sleep(SECONDS_BETWEEN_ATTEMPTS)
                    continue
                reason = " ".join(str(error).split())[:300]
                failed = f"{task.shard}: {type(error).__name__}: {reason}"
                return task.entry(failed=failed, seconds=time.monotonic() - started)
        raise AssertionError("the last attempt returns")

    def _classify(self, task: ShardTask, started: float) -> LedgerEntry:
        if fingerprint(task.shard) != task.record.shard_fingerprint:
            raise ValueError("the shard changed after the catalog was planned; start the same command again")
        settings = task.record.settings
        carried = [*settings["carry"], *([self._columns.label] if settings["keep_truth"] else [])]
        scale = WantedScale(**settings["scale"])
        read = list(dict.fromkeys([*carried, *scale.carry]))
        tables: list[pa.Table] = []
        verdicts: list[list[str | None]] = []
        seen: set[Any] = set()

        def images() -> Iterator[list[bytes | Cutout | None]]:
            wanted = ["object_id", "ra", "dec", "image", *scale.wanted]
            for table in iter_rows(task.shard, self._columns, wanted, read):
                tables.append(table.drop_columns(["image"]))
                verdicts.append(_verdicts(table, seen))
                # A row that is not to be classified need not be decoded.
                yield [
                    cutout if verdict is None else None
                    for cutout, verdict in zip(scale.cutouts(table), verdicts[-1], strict=True)
                ]

        # Rows are read a batch ahead of the networks, so tables and results are joined by position.
        parts = [
            self._rows(
                tables[index],
                [given or found for given, found in zip(verdicts[index], statuses, strict=True)],
                prediction,
                settings,
            )
            for index, (statuses, prediction) in enumerate(
                self._classifier(settings).classify_batches(images())
            )
        ]
        table = pa.concat_tables(parts, promote_options="permissive")
        content = encode_part(table, task.record)
        storage.write_bytes(task.part, content)
        return task.entry(
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            classes=dict(counted(table, "label")),
            statuses=dict(counted(table, "status")),
            seconds=time.monotonic() - started,
        )

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
                self._bundle, self._compute, self._threads, always_stage2=always
            )
        return self._classifiers[always]


def _verdicts(table: pa.Table, seen: set[Any]) -> list[str | None]:
    """For each row the status that it has whatever its image is, or None; `seen` gains the ids."""
    given = table[STATUS_COLUMN].to_pylist() if STATUS_COLUMN in table.column_names else []
    verdicts: list[str | None] = []
    for identifier, status in zip_longest(table["object_id"].to_pylist(), given):
        own = NO_ID if identifier is None else DUPLICATE_ID if identifier in seen else None
        verdicts.append(status or own)
        seen.add(identifier)
    return verdicts
