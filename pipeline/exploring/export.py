"""The labels of people as a file that ``hiwl ingest --labels`` reads."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.exploring.labels import Labels, exported

__all__ = ["ENDINGS", "export_bytes", "export_labels"]

ENDINGS = (".csv", ".parquet")


def export_labels(labels: Labels, out: str) -> int:
    """Write the labels of `pipeline.exploring.labels.exported`; how many there are.

    Parameters
    ----------
    labels : Labels
    out : str
        A path or a URL that ends with one of `ENDINGS`, and is not taken yet.

    Raises
    ------
    UserError
        If it is, or ends otherwise, or if there is no label.
    """
    if not out.lower().endswith(ENDINGS):
        raise UserError(f"--export {out}: give a file that ends with {' or '.join(ENDINGS)}")
    if storage.exists(out):
        raise UserError(f"{out} is there already: choose another file, or remove it")
    table = exported(labels)
    if not table.num_rows:
        raise UserError(f"there is no label in {labels.path}: label some galaxies first")
    storage.write_bytes(out, export_bytes(table, out))
    return int(table.num_rows)


def export_bytes(table: pa.Table, name: str) -> bytes:
    """A table as the content of a file, by the ending of its name."""
    buffer = io.BytesIO()
    if name.lower().endswith(".parquet"):
        pq.write_table(table, buffer)
    else:
        pa.csv.write_csv(table, buffer)
    return buffer.getvalue()
