"""One shard on its way to its part: what is asked for, what was read of it, what became of its rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from hiwl_core.cascade import CascadePrediction
from hiwl_core.statuses import DUPLICATE_ID, NO_ID
from pipeline import storage
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.manifest import read_making
from pipeline.catalog.parts import PartRecord, encode_part, facts_of, part_name, part_table
from pipeline.catalog.shard_content import RowDigest, wanted_columns
from pipeline.classification.seen_rows import SEEN_COLUMN, images_of
from pipeline.shards.cutout_shards import ROW_GROUP_ROWS
from pipeline.shards.shard_groups import SHARD_DAMAGE, ShardToRead, checked_rows
from pipeline.shards.wanted_scale import WantedScale
from pipeline.shards.webdataset import STATUS_COLUMN

if TYPE_CHECKING:
    # They bring PyTorch.
    from hiwl_core.bundle import ModelBundle
    from hiwl_core.cascade_stream import Image
    from hiwl_core.cutout_reader import CutoutReader

__all__ = ["CatalogWork", "ShardTask", "ShardWork"]


@dataclass(frozen=True)
class ShardTask:
    """One unit of work: a shard and the part it becomes.

    Parameters
    ----------
    shard, part : str
    record : PartRecord
    rows : pyarrow.Table or None
        All rows of the shard, with the columns that are wanted, and perhaps what is seen of their images,
        as of `pipeline.classification.seen_rows`; None: they are read here, a few at a time.
    """

    shard: str
    part: str
    record: PartRecord
    rows: pa.Table | None = None

    def entry(self, **facts: Any) -> LedgerEntry:
        """The ledger's line on this task."""
        name = self.part.rsplit("/", 1)[-1]
        making = self.record.making
        return LedgerEntry(name, self.record.shard_fingerprint, finished=time.time(), making=making, **facts)


class CatalogWork(NamedTuple):
    """What all shards of a catalog have in common.

    Parameters
    ----------
    bundle_path : str
        See `pipeline.classification.shard_classifier.bundle_place`.
    model_id : str
    settings : dict
        Of the catalog's plan.
    folder : str
        Of the catalog, absolute.
    engine : str
        See `pipeline.classification.computing.Computing`.
    reader : CutoutReader, optional
        Of the bundle, for where images are decoded for the actors; None if they are not.
    """

    bundle_path: str
    model_id: str
    settings: dict[str, Any]
    folder: str
    engine: str = "auto"
    reader: CutoutReader | None = None

    def task(self, shard: str, fingerprint: str, rows: pa.Table | None) -> ShardTask:
        """The unit of work that a shard is."""
        record = PartRecord(shard.rsplit("/", 1)[-1], fingerprint, self.model_id, self.settings)
        return ShardTask(shard, f"{self.folder}/{part_name(shard)}", record, rows)


class ShardWork:
    """The rows of a shard, from reading to the part.

    Reading and what comes back are on different threads: `images` runs ahead of `take`.

    Parameters
    ----------
    task : ShardTask
    bundle : ModelBundle

    Attributes
    ----------
    error : Exception or None
        What ended the work: the shard is damaged, or its store is away.
    """

    def __init__(self, task: ShardTask, bundle: ModelBundle) -> None:
        self.task = task
        self.error: Exception | None = None
        self._bundle, self._settings = bundle, task.record.settings
        self._read: list[tuple[pa.Table, list[str | None]]] = []
        self._read_whole = False
        self._content = RowDigest()
        self._parts: list[pa.Table] = []
        self._started = 0.0

    @property
    def finished(self) -> bool:
        """Whether all rows are there to be written."""
        return self._read_whole and self.error is None and len(self._parts) == len(self._read)

    def images(self) -> Iterator[list[Image]]:
        """The images of the rows, some at a time; none more after `error`."""
        self._started = time.monotonic()
        try:
            yield from self._images()
            self._read_whole = True
        # A damaged shard must not end the night of the others.
        except SHARD_DAMAGE as error:
            self.error = error

    def _images(self) -> Iterator[list[Image]]:
        scale = WantedScale(**self._settings["scale"])
        seen: set[Any] = set()
        for rows, table in self._tables():
            self._content.add(rows)
            verdicts = _verdicts(table, seen)
            self._read.append(
                (table.drop_columns(list({"image", SEEN_COLUMN} & {*table.column_names})), verdicts)
            )
            # A row that is not to be classified need not be decoded.
            yield [
                image if verdict is None else None
                for image, verdict in zip(images_of(table, scale), verdicts, strict=True)
            ]

    def _tables(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """The rows as they are in the shard, and with their images."""
        rows, names = self.task.rows, wanted_columns(self._settings).to_read
        shard = ShardToRead(self.task.shard, 0, fingerprint=self.task.record.shard_fingerprint)
        if rows is not None:
            own = rows.select([name for name in rows.column_names if name != SEEN_COLUMN])
            for start in range(0, rows.num_rows, ROW_GROUP_ROWS):
                yield own.slice(start, ROW_GROUP_ROWS), rows.slice(start, ROW_GROUP_ROWS)
        elif "cutting" in self._settings:
            # Here, since shards that have their images do without what it brings.
            from pipeline.cutouts.position_images import cut_rows

            yield from cut_rows(shard, *names, self._settings["cutting"])
        else:
            for table in checked_rows(shard, *names):
                yield table, table

    def take(self, statuses: list[str], prediction: CascadePrediction) -> None:
        """What became of the next images, in the order in which they were read."""
        if self.error is not None:
            return
        rows, verdicts = self._read[len(self._parts)]
        given = [verdict or found for verdict, found in zip(verdicts, statuses, strict=True)]
        try:
            self._parts.append(self._catalog_rows(rows, given, prediction))
        except SHARD_DAMAGE as error:
            self.error = error

    def write(self, engine: str) -> LedgerEntry:
        """Write the part, whole, unless the catalog has become another's.

        Parameters
        ----------
        engine : str
            What computed it, for the footer.
        """
        table = pa.concat_tables(self._parts, promote_options="permissive")
        of_shard = self._content.hexdigest()
        content = encode_part(table, self.task.record, engine, of_shard)
        folder = self.task.part.rpartition("/")[0]
        if read_making(folder) not in ("", self.task.record.making):
            raise ValueError(f"{folder} is another run's catalog now, of another model or other settings")
        storage.write_bytes(self.task.part, content)
        return self.task.entry(
            **facts_of(content, table),
            seconds=self.seconds,
            content=of_shard,
        )

    @property
    def seconds(self) -> float:
        """Since the first row was asked for."""
        return time.monotonic() - self._started

    def _catalog_rows(self, rows: pa.Table, statuses: list[str], prediction: CascadePrediction) -> pa.Table:
        carry, keep_truth = self._settings["carry"], self._settings["keep_truth"]
        bundle = self._bundle
        return part_table(rows, statuses, prediction, bundle.taxonomy, bundle.model_id, carry, keep_truth)


def _verdicts(table: pa.Table, seen: set[Any]) -> list[str | None]:
    """For each row the status that it has whatever its image is, or None; `seen` gains the ids."""
    given = table[STATUS_COLUMN].to_pylist() if STATUS_COLUMN in table.column_names else []
    verdicts: list[str | None] = []
    for identifier, status in zip_longest(table["object_id"].to_pylist(), given):
        own = NO_ID if identifier is None else DUPLICATE_ID if identifier in seen else None
        verdicts.append(status or own)
        seen.add(identifier)
    return verdicts
