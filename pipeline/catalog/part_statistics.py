"""What a reader of a catalog has to know of its parts before it reads them, of all parts in one file.

``CATALOG/_statistics.arrow`` is written by `pipeline.catalog.verify`, which reads all parts anyway. It saves
a reader of a hundred thousand parts as many requests for their footers. It is never trusted over the parts:
what it says of one holds only if size and mark (the ETag in S3; of a local file the time of its last change)
are those that the listing has of the part now. A part without such a line is opened, a line without a part is
ignored.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import feather

from hiwl_core.errors import UserError
from pipeline import storage

__all__ = ["KnownPart", "part_statistics", "read_statistics", "write_statistics"]

TABLE = "_statistics.arrow"
FORMAT_KEY, FORMAT_VERSION = b"hiwl.statistics", b"1"
BOX = ("ra_min", "ra_max", "dec_min", "dec_max")
SCHEMA = pa.schema(
    [
        pa.field("part", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("mark", pa.string()),
        pa.field("schema", pa.dictionary(pa.int32(), pa.binary())),
        *(pa.field(name, pa.float64(), metadata={"unit": "deg"}) for name in BOX),
    ],
    metadata={FORMAT_KEY: FORMAT_VERSION},
)


@dataclass(frozen=True, slots=True)
class KnownPart:
    """What is known of a part in a certain state.

    Parameters
    ----------
    size : int
        Bytes.
    mark : str
        See `pipeline.storage.Entry`.
    schema : bytes
        As Arrow serializes it: with units and descriptions, without what differs from part to part.
    box : tuple of float, optional
        Least and greatest right ascension and declination, degrees; None if no row has a position.
    """

    size: int
    mark: str
    schema: bytes
    box: tuple[float, float, float, float] | None


def part_statistics(table: pa.Table, size: int, mark: str) -> KnownPart:
    """What is to be known of a part.

    Parameters
    ----------
    table : pyarrow.Table
        All of it.
    size, mark
        See `KnownPart`.
    """
    box: list[float] = []
    for name in ("ra", "dec"):
        if name in table.column_names:
            found = pc.min_max(table[name]).as_py()
            box += [value for value in (found["min"], found["max"]) if value is not None]
    west_east_south_north = (box[0], box[1], box[2], box[3]) if len(box) == 4 else None
    schema = table.schema.remove_metadata().serialize().to_pybytes()
    return KnownPart(size, mark, schema, west_east_south_north)


def write_statistics(folder: str, parts: dict[str, KnownPart]) -> None:
    """Write what is known of a catalog's parts, by their names."""
    boxes = zip(*(known.box or (None,) * len(BOX) for known in parts.values()), strict=True)
    columns = [
        pa.array(list(parts), pa.string()),
        pa.array([known.size for known in parts.values()], pa.int64()),
        pa.array([known.mark for known in parts.values()], pa.string()),
        pa.array([known.schema for known in parts.values()], pa.binary()).dictionary_encode(),
        *(pa.array(values, pa.float64()) for values in boxes),
    ]
    buffer = io.BytesIO()
    feather.write_feather(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
    storage.write_bytes(f"{folder}/{TABLE}", buffer.getvalue())


def read_statistics(folder: str, entries: Sequence[storage.Entry]) -> dict[str, KnownPart]:
    """What is known of parts in the state in which they are now, by their paths.

    Parameters
    ----------
    folder : str
        Of a catalog.
    entries : sequence of Entry
        Its parts as they are listed now.
    """
    try:
        table = feather.read_table(io.BytesIO(storage.read_bytes(f"{folder}/{TABLE}")))
        if not table.schema.equals(SCHEMA) or table.schema.metadata != SCHEMA.metadata:
            return {}
        texts = table["schema"].combine_chunks()
        schemas = texts.dictionary.to_pylist()
        columns = [table[name].to_pylist() for name in ("part", "size", "mark", *BOX)]
        states = {
            row[0]: (row[1], row[2], index, row[3:])
            for *row, index in zip(*columns, texts.indices.to_pylist(), strict=True)
        }
    except (UserError, pa.ArrowException, OSError, ValueError):
        # There is none, or it is damaged: the parts tell all of it.
        return {}
    known = {}
    for entry in entries:
        size, mark, index, box = states.get(entry.path.rsplit("/", 1)[-1], (None, None, 0, []))
        if entry.mark and (size, mark) == (entry.size, entry.mark):
            whole = None if None in box else (box[0], box[1], box[2], box[3])
            known[entry.path] = KnownPart(entry.size, entry.mark, schemas[index], whole)
    return known
