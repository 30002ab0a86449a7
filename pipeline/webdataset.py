"""WebDataset tars as shards: ``key.jpg`` holds the image, ``key.json`` the other columns.

The last dot of a name, not the first, ends its key: names such as ``J1234+56.7.jpg`` hold dots of their own.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline import storage

__all__ = ["iter_samples"]


def iter_samples(
    shard: str,
    names: Mapping[str, str],
    types: Mapping[str, pa.DataType],
    carry: Sequence[str],
    batch_rows: int,
) -> Iterator[pa.Table]:
    """The samples of a tar as rows, some at a time: members that share a name up to the last dot.

    Parameters
    ----------
    shard : str
        Path or URL.
    names : mapping of str to str
        From the contract's names to the keys of the JSON members.
    types : mapping of str to pyarrow.DataType
        The wanted columns by their contract names; `object_id` is a string here, whatever it says.
    carry : sequence of str
        Further keys to read.
    batch_rows : int
        Rows a table, at most.

    Yields
    ------
    pyarrow.Table
        At least one, which is empty if the tar is.

    Raises
    ------
    tarfile.TarError
        If the tar is damaged.
    """
    rows: list[dict[str, Any]] = []
    with storage.open_input(shard) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
        key: str | None = None
        sample: dict[str, bytes] = {}
        for member in tar:
            if not member.isfile():
                continue
            stem, _, suffix = member.name.rpartition(".")
            if stem != key:
                if key is not None:
                    rows.append(_row(key, sample, names, carry))
                key, sample = stem, {}
            content = tar.extractfile(member)
            sample[suffix.lower()] = content.read() if content else b""
            if len(rows) >= batch_rows:
                yield _table(rows, types, carry)
                rows = []
        if key is not None:
            rows.append(_row(key, sample, names, carry))
    if rows or key is None:
        yield _table(rows, types, carry)


def _row(
    key: str, sample: dict[str, bytes], names: Mapping[str, str], carry: Sequence[str]
) -> dict[str, Any]:
    try:
        fields = json.loads(sample.get("json", b"{}"))
    except ValueError:
        fields = {}
    fields = fields if isinstance(fields, dict) else {}
    row = {standard: fields.get(name) for standard, name in names.items()}
    for standard in ("ra", "dec", "pixel_scale"):
        row[standard] = _number(row[standard])
    if row["label"] is not None:
        row["label"] = str(row["label"])
    image = next((sample[suffix] for suffix in ("jpg", "jpeg", "png") if suffix in sample), None)
    # An id in the JSON may be a number of any length: Python's integers keep all its digits.
    identifier = row["object_id"] if row["object_id"] is not None else key.rsplit("/", 1)[-1]
    return {**row, "object_id": str(identifier), "image": image, **{name: fields.get(name) for name in carry}}


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _table(rows: list[dict[str, Any]], types: Mapping[str, pa.DataType], carry: Sequence[str]) -> pa.Table:
    arrays: dict[str, Any] = {}
    for standard, kind in types.items():
        kind = pa.string() if standard == "object_id" else kind
        arrays[standard] = pa.array([row[standard] for row in rows], kind)
    for name in carry:
        arrays[name] = pa.array([row[name] for row in rows])
    return pa.table(arrays)
