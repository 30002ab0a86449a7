"""Which object goes to which shard: decided on the driver, before any image is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.errors import UserError
from pipeline.labels import UNLABELED, Labels
from pipeline.shards import MAX_SHARD_BYTES, MAX_SHARD_ROWS, SHARD_SCHEMA, shard_name
from pipeline.source import Source

__all__ = ["IngestPlan", "ShardPlan", "make_plan", "table_bytes"]


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write: its file name, its series (``train``, ...), and its objects in order.

    `objects` has the columns of `pipeline.source.Source.objects`, then those that the labels table has:
    ``ra``, ``dec``, ``pixel_scale`` and, as ``carry:<name>``, the carried ones.
    """

    name: str
    series: str
    objects: pa.Table


@dataclass(frozen=True)
class IngestPlan:
    """All shards to write.

    Parameters
    ----------
    shards : list of ShardPlan
    digest : str
        Hash of everything that decides what the shards will hold.
    carry : tuple of str
    unlabeled, dropped : int
        Objects without a label that are kept and that are left out.
    without_image : list of str
        Ids of the labels table that the source does not have.
    """

    shards: list[ShardPlan]
    digest: str
    carry: tuple[str, ...]
    unlabeled: int
    dropped: int
    without_image: list[str]

    @property
    def rows(self) -> int:
        """Objects in all shards."""
        return sum(shard.objects.num_rows for shard in self.shards)


def make_plan(
    source: Source,
    labels: Labels | None,
    name: str,
    carry: Sequence[str] = (),
    drop_unlabeled: bool = False,
    shard_rows: int = MAX_SHARD_ROWS,
    shard_bytes: int = MAX_SHARD_BYTES,
) -> IngestPlan:
    """Join the labels, sort the objects into series and cut these into shards.

    Parameters
    ----------
    source : Source
    labels : Labels, optional
    name : str
        The series of objects that have no split.
    carry : sequence of str
        Further columns of the labels table or the source to keep.
    drop_unlabeled : bool
        Leave out the objects without a label.
    shard_rows, shard_bytes : int
        Upper bounds of a shard.

    Raises
    ------
    UserError
        If a column to carry is nowhere, or nothing is left to write.
    """
    _check_carry(source, labels, carry)
    objects = source.objects
    series = np.full(objects.num_rows, name, dtype=object)
    without_image: list[str] = []
    if labels is not None:
        texts = source.id_texts()
        labels.check_ids(texts)
        known = labels.table["id"]
        row_of = pc.index_in(texts, value_set=known)
        joined = labels.table.drop_columns("id").take(row_of)
        if "split" in joined.column_names:
            series = joined["split"].to_numpy().astype(object)
            joined = joined.drop_columns("split")
        objects = pa.table({**_columns(objects.drop_columns("label")), **_columns(joined)})
        series[objects["label"].is_null().to_numpy()] = UNLABELED
        without_image = known.filter(pc.invert(pc.is_in(known, value_set=texts))).to_pylist()
    nulls = objects["label"].is_null().to_numpy()
    if drop_unlabeled:
        objects, series = objects.filter(pa.array(~nulls)), series[~nulls]
        if not objects.num_rows:
            raise UserError(f"no object of {source.place} has a label, and --drop-unlabeled leaves out all")

    shards: list[ShardPlan] = []
    # Training first, then by name; what has no label comes last.
    for one in sorted(set(series), key=lambda one: (one == UNLABELED, one != "train", one)):
        members = objects.filter(pa.array(series == one)).combine_chunks()
        bounds = _cut(members["size"].to_numpy(), shard_rows, shard_bytes)
        shards += [
            ShardPlan(shard_name(one, index, len(bounds)), one, members.slice(start, stop - start))
            for index, (start, stop) in enumerate(bounds)
        ]
    return IngestPlan(
        shards,
        _digest(source, shards, carry),
        tuple(carry),
        unlabeled=0 if drop_unlabeled else int(nulls.sum()),
        dropped=int(nulls.sum()) if drop_unlabeled else 0,
        without_image=without_image,
    )


def table_bytes(table: pa.Table) -> bytes:
    """A small table as bytes, to hand to a worker; `pyarrow.ipc.open_stream` reads it."""
    sink = pa.BufferOutputStream()
    # A slice is compacted first, or each shard would carry the buffers of all.
    compact = table.take(pa.array(np.arange(table.num_rows)))
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(compact)
    return bytes(sink.getvalue())


def _check_carry(source: Source, labels: Labels | None, carry: Sequence[str]) -> None:
    in_source = {column for column, _ in source.parquet.carried}
    in_labels = set(labels.carried) if labels else set()
    for column in carry:
        if column in SHARD_SCHEMA.names:
            raise UserError(f"--carry {column}: every shard has this column already, leave the option out")
        if column not in in_source | in_labels:
            tables = [labels.place] if labels else []
            tables += [source.place] if source.kind == "parquet" else []
            where = " or ".join(tables) or "the images: give --labels"
            raise UserError(f"no column {column!r} to carry in {where}")


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in table.column_names}


def _cut(sizes: np.ndarray, most_rows: int, most_bytes: int) -> list[tuple[int, int]]:
    """Contiguous ranges of at most so many rows and bytes; an object larger than that is alone."""
    bounds: list[tuple[int, int]] = []
    start, filled = 0, 0
    for index, size in enumerate(sizes.tolist()):
        if index > start and (index - start == most_rows or filled + size > most_bytes):
            bounds.append((start, index))
            start, filled = index, 0
        filled += size
    return [*bounds, (start, len(sizes))]


def _digest(source: Source, shards: Sequence[ShardPlan], carry: Sequence[str]) -> str:
    digest = hashlib.sha256()
    columns = [source.parquet.image, *source.parquet.optional, source.parquet.has_label]
    settings = {"place": source.place, "kind": source.kind, "columns": columns, "carry": list(carry)}
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for shard in shards:
        digest.update(shard.name.encode())
        digest.update(shard.objects.schema.to_string().encode())
        # Values, not buffers: these may differ between runs where the values do not.
        digest.update(json.dumps(shard.objects.to_pydict(), default=str).encode())
    return digest.hexdigest()
