"""WebDataset tars as shards: ``key.jpg`` holds the image, ``key.json`` other columns, ``key.cls`` the class.

The last dot of a name, not the first, ends its key: names such as ``J1234+56.7.jpg`` hold dots of their own.
``key.image.jpg`` and ``key.labels.json``, as galaxy-datasets writes them, are of the key ``key``. Where two
members that follow each other have one name, as after a tar was appended to, the second is a row of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from hiwl_core.compressed import MAX_BYTES
from hiwl_core.image_formats import IMAGE_SUFFIXES, unpacked_name
from hiwl_core.statuses import BROKEN_SHARD, DUPLICATE_ID, TOO_LARGE
from pipeline import storage
from pipeline.shards.tar_members import BrokenTar, Member, iter_members

__all__ = ["STATUS_COLUMN", "TAR_SUFFIXES", "iter_samples", "sample_key"]

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
STATUS_COLUMN = "_status"
"""A further column of the tables: null, or the status that a row has whatever its image is."""
# Parts of a name between the key and the suffix, by the kind of the file.
INFIXES = {"image": ".image", "json": ".labels"}
BESIDE = frozenset(("json", "cls"))
TABLE_BYTES = 64 * 2**20


@dataclass
class _Sample:
    """The members of one key."""

    key: str
    image: bytes | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    kinds: set[str] = field(default_factory=set)
    status: str | None = None
    cls: str | None = None
    names: Counter[str] = field(default_factory=Counter)

    @property
    def copies(self) -> int:
        """Further rows that its members would make: there are so many of one name."""
        return max(self.names.values(), default=1) - 1

    def add(self, kind: str, member: Member) -> None:
        if kind != "other":
            self.names[member.name] += 1
        if kind == "json":
            self.fields = {**_fields(member.content), **self.fields}
        elif kind == "cls":
            self.cls = (member.content or b"").decode("utf-8", "backslashreplace").strip() or self.cls
        elif kind == "image" and "image" not in self.kinds:
            self.image = member.content
            self.status = TOO_LARGE if member.content is None else None
        self.kinds.add(kind)


def iter_samples(
    shard: str,
    names: Mapping[str, str],
    types: Mapping[str, pa.DataType],
    carry: Sequence[str],
    batch_rows: int,
) -> Iterator[pa.Table]:
    """The samples of a tar as rows, some at a time: neighboring members that share a key.

    A tar that is cut off or damaged gives the samples that are whole and then one row that names the break:
    its `object_id` is the tar's name, ``@`` and the byte, its status ``broken_shard``.

    Parameters
    ----------
    shard : str
        Path or URL of a tar, which may be gzipped.
    names : mapping of str to str
        From the contract's names to the keys of the JSON members.
    types : mapping of str to pyarrow.DataType
        The wanted columns by their contract names; `object_id` is a string here, whatever it says.
    carry : sequence of str
        Further keys to read.
    batch_rows : int
        Rows a table, at most; of large images fewer.

    Yields
    ------
    pyarrow.Table
        With the column `STATUS_COLUMN` last. At least one, which is empty if the tar is.
    """
    rows: list[dict[str, Any]] = []
    held, any_table = 0, False
    for row in _rows(shard, names, carry):
        rows.append(row)
        held += len(row["image"] or b"")
        if len(rows) >= batch_rows or held >= TABLE_BYTES:
            yield _table(rows, types, carry)
            rows, held, any_table = [], 0, True
    if rows or not any_table:
        yield _table(rows, types, carry)


def sample_key(name: str) -> str:
    """The key of the sample that a member belongs to, by its name."""
    return _kind(name)[0]


def _rows(shard: str, names: Mapping[str, str], carry: Sequence[str]) -> Iterator[dict[str, Any]]:
    sample: _Sample | None = None
    # What samples of this tar have beside their images.
    usual: set[str] = set()
    with storage.open_input(shard) as file:
        try:
            for member in iter_members(file, lambda name: _kind(name)[1] != "other", MAX_BYTES):
                key, kind = _kind(member.name)
                if key.rsplit("/", 1)[-1].startswith("."):
                    continue  # what file managers leave behind
                if sample is None or not _belongs(key, kind, sample.key):
                    if sample is not None:
                        yield from _rows_of(sample, names, carry)
                    sample = _Sample(key)
                sample.add(kind, member)
                usual |= {kind} & BESIDE
        except BrokenTar as broken:
            if sample is not None and _is_whole(sample, broken, usual):
                yield from _rows_of(sample, names, carry)
            identifier = f"{shard.rsplit('/', 1)[-1]}@{broken.offset}"
            yield {
                **dict.fromkeys([*names, *carry]),
                "object_id": identifier,
                STATUS_COLUMN: BROKEN_SHARD,
            }
            return
    if sample is not None:
        yield from _rows_of(sample, names, carry)


def _rows_of(sample: _Sample, names: Mapping[str, str], carry: Sequence[str]) -> Iterator[dict[str, Any]]:
    row = _row(sample, names, carry)
    yield row
    for _ in range(sample.copies):
        yield {**row, "image": None, STATUS_COLUMN: DUPLICATE_ID}


def _kind(name: str) -> tuple[str, str]:
    """A member's key, and whether it is an ``image``, ``json``, ``cls`` or ``other``."""
    name = unpacked_name(name)
    stem, _, suffix = name.rpartition(".")
    suffix = suffix.lower()
    kind = "image" if f".{suffix}" in IMAGE_SUFFIXES else suffix if suffix in BESIDE else "other"
    return stem.removesuffix(INFIXES.get(kind, "")) or name, kind


def _belongs(key: str, kind: str, current: str) -> bool:
    # A file that is of no use here is no sample of its own beside one, whatever stands before its suffix.
    return key == current or (kind == "other" and key.startswith(f"{current}."))


def _is_whole(sample: _Sample, broken: BrokenTar, usual: set[str]) -> bool:
    """Whether the last sample before a break lacks nothing."""
    if broken.name is not None:
        return not _belongs(*_kind(broken.name), sample.key)
    # The next header cannot be read: it may have been that of this sample's JSON, which may hold its id.
    return "image" in sample.kinds and usual <= sample.kinds


def _fields(content: bytes | None) -> dict[str, Any]:
    try:
        fields = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _row(sample: _Sample, names: Mapping[str, str], carry: Sequence[str]) -> dict[str, Any]:
    fields = sample.fields
    row: dict[str, Any] = {standard: fields.get(name) for standard, name in names.items()}
    for standard in ("ra", "dec", "pixel_scale"):
        row[standard] = _number(row[standard])
    if row["label"] is None:
        row["label"] = sample.cls
    else:
        row["label"] = _text(row["label"])
    # An id in the JSON may be an integer of any length: Python keeps all its digits. A float has lost some.
    identifier = row["object_id"]
    if isinstance(identifier, bool) or not isinstance(identifier, int | str):
        identifier = sample.key.rsplit("/", 1)[-1]
    row |= {"object_id": _text(identifier), "image": sample.image, STATUS_COLUMN: sample.status}
    return row | {name: fields.get(name) for name in carry}


def _text(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    # JSON can hold halves of characters, which are no text for Arrow.
    return text.encode("utf-8", "backslashreplace").decode()


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None


def _table(rows: list[dict[str, Any]], types: Mapping[str, pa.DataType], carry: Sequence[str]) -> pa.Table:
    arrays: dict[str, Any] = {}
    for standard, kind in types.items():
        kind = pa.string() if standard == "object_id" else kind
        arrays[standard] = pa.array([row.get(standard) for row in rows], kind)
    for name in carry:
        arrays[name] = _carried([row[name] for row in rows])
    arrays[STATUS_COLUMN] = pa.array([row[STATUS_COLUMN] for row in rows], pa.string())
    return pa.table(arrays)


def _carried(values: list[Any]) -> pa.Array:
    """Values of any JSON type as a column: as they are, or as JSON texts if they do not go together."""
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError):
        texts = (
            None if value is None else value if isinstance(value, str) else json.dumps(value)
            for value in values
        )
        return pa.array([None if text is None else _text(text) for text in texts], pa.string())
