"""Parquet files with a plain footer and an encrypted column: one line where it is needed, rows where not.

What fails here ends the process, so that nothing may be asked for by trial.
"""

import base64
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from hiwl_core.errors import UserError
from pipeline.ingestion.source_parquet import describe_tables, iter_objects
from pipeline.shards.cutout_shards import Columns, check_columns, inspect_shard, iter_rows, read_columns

KEYS = {"footer": "0123456789012345", "column": "1234567890123450"}


class PlainKms(pe.KmsClient):
    """A key store that hides nothing."""

    def __init__(self, _: object) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64encode(KEYS[master].encode() + key)

    def unwrap_key(self, wrapped: bytes, master: str) -> bytes:
        return base64.b64decode(wrapped)[len(KEYS[master]) :]


def encrypted(path: Path, column: str) -> str:
    settings = pe.EncryptionConfiguration("footer", column_keys={"column": [column]}, plaintext_footer=True)
    factory = pe.CryptoFactory(PlainKms)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), settings)
    table = pa.table(
        {"object_id": range(4), "image": [b"x"] * 4, "ra": [1.0] * 4, "dec": [1.0] * 4, "note": [1.0] * 4}
    )
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return str(path)


def test_a_column_that_nobody_needs_may_be_encrypted(tmp_path: Path) -> None:
    path = encrypted(tmp_path / "a.parquet", "note")
    check_columns([path], Columns(), ["object_id", "image"])
    assert sum(table.num_rows for table in iter_rows(path, Columns(), ["object_id", "ra", "image"])) == 4
    assert describe_tables([path], Columns(), []).image == "image"
    assert sum(objects.num_rows for objects, _ in iter_objects([path], Columns(), has_label=False)) == 4


@pytest.mark.parametrize("column", ["object_id", "image", "ra", "note"])
def test_a_column_that_is_needed_is_named(tmp_path: Path, column: str) -> None:
    path = encrypted(tmp_path / "a.parquet", column)
    words = f"column '{column}' in .* is encrypted: write a copy that is not"
    with pytest.raises(UserError, match=words):
        check_columns([path], Columns(), ["object_id", "image"], ["note"])
    with pytest.raises(UserError, match=words):
        describe_tables([path], Columns(), ["note"])
    assert inspect_shard(path).rows == 4


def test_a_column_that_is_read_all_the_same_is_an_error_and_no_abort(tmp_path: Path) -> None:
    path = encrypted(tmp_path / "a.parquet", "image")
    with pytest.raises((OSError, ValueError), match="encrypted"):
        read_columns(path, Columns(), ["object_id", "image"])
