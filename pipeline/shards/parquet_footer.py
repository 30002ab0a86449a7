"""What a Parquet file's footer says: the schema, the bytes of columns, and which columns are encrypted.

Under a footer that everybody can read, single columns may be encrypted. To ask pyarrow for the sizes of one
ends the process by SIGABRT, so that no other columns than those that are read may be asked for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.errors import UserError

__all__ = ["check_not_encrypted", "column_bytes", "schema_of"]

TAIL_BYTES = 8
ENCRYPTED = b"hiwl.encrypted"


def schema_of(parquet: pq.ParquetFile, file: BinaryIO) -> pa.Schema:
    """The Arrow schema of a file, in which encrypted columns are marked for `check_not_encrypted`.

    Parameters
    ----------
    parquet : pyarrow.parquet.ParquetFile
    file : binary file
        That it reads.
    """
    schema: pa.Schema = parquet.schema_arrow
    if not _is_signed(parquet, file) or not parquet.metadata.num_row_groups:
        return schema
    for index, field in enumerate(schema):
        if _is_encrypted(parquet, field.name):
            schema = schema.set(index, field.with_metadata({**(field.metadata or {}), ENCRYPTED: b"1"}))
    return schema


def check_not_encrypted(shard: str, schema: pa.Schema, names: Iterable[str]) -> None:
    """Check that none of the columns that are to be read is encrypted.

    Raises
    ------
    UserError
    """
    for name in names:
        fields = [schema.field(index) for index in schema.get_all_field_indices(name)]
        if any(ENCRYPTED in (field.metadata or {}) for field in fields):
            raise UserError(f"column {name!r} in {shard} is encrypted: write a copy that is not")


def column_bytes(metadata: pq.FileMetaData, names: Iterable[str]) -> Iterator[tuple[int, int]]:
    """For each row group its rows, and the unpacked bytes of some columns with all that is in them."""
    wanted = set(names)
    paths = (metadata.schema.column(index).path for index in range(metadata.num_columns))
    inside = [index for index, path in enumerate(paths) if path.split(".")[0] in wanted]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        # An empty one costs as much to look at as a full one, and there may be thousands.
        there = inside if group.num_rows else []
        yield group.num_rows, sum(group.column(index).total_uncompressed_size for index in there)


def _is_signed(parquet: pq.ParquetFile, file: BinaryIO) -> bool:
    """Whether a signature follows the footer, as it does where columns are encrypted and it is not."""
    position = file.tell()
    file.seek(-TAIL_BYTES, 2)
    (length,) = struct.unpack("<I", file.read(4))
    file.seek(position)
    return bool(length > parquet.metadata.serialized_size)


def _is_encrypted(parquet: pq.ParquetFile, name: str) -> bool:
    try:
        next(parquet.iter_batches(1, row_groups=[0], columns=[name]), None)
    except OSError as error:
        return "decrypt" in str(error).lower()
    return False
