"""The catalog: one Parquet part for each input shard, each input row in it exactly once.

A part's name is a function of its shard's name alone and a part is written whole or not at all, so a
retry overwrites itself and a resume skips what is there. Its footer says which model made it, from which
shard and how; a part that would be skipped but was made otherwise is a mistake to report, not rows to lose.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.conformal import set_names
from hiwl_core.errors import UserError
from hiwl_core.flags import FLAGS
from hiwl_core.statuses import NOT_FINITE, OK
from hiwl_core.taxonomy import Taxonomy, probability_column
from pipeline import storage

if TYPE_CHECKING:  # torch comes with it, which verbs that only read a catalog should not wait for
    from hiwl_core.cascade import CascadePrediction
from pipeline.catalog.catalog_schema import FEATURES, TRUE_LABEL, catalog_schema, class_columns, stage_columns

__all__ = [
    "PartRecord",
    "check_part_record",
    "content_in",
    "counted",
    "encode_part",
    "facts_of",
    "list_parts",
    "making_in",
    "making_of",
    "part_name",
    "part_table",
    "read_part",
    "unsound_rows",
]

RECORD_KEY = b"hiwl.part"
# float32, of some classes.
MOST_OFF = 1e-3


@dataclass(frozen=True)
class PartRecord:
    """What a part's footer says of its making.

    Parameters
    ----------
    shard : str
        File name of the shard.
    shard_fingerprint : str
    model_id : str
    settings : dict
        Whatever else decides what the part holds: carried columns, when stage 2 ran.
    """

    shard: str
    shard_fingerprint: str
    model_id: str
    settings: dict[str, Any]

    @property
    def making(self) -> str:
        """See `making_of`."""
        return making_of(self.model_id, self.settings)


def making_of(model_id: str, settings: Mapping[str, Any]) -> str:
    """A digest of model and settings: what header, ledger and parts of one catalog have in common."""
    said = json.dumps([model_id, settings], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def part_name(shard: str) -> str:
    """File name of a shard's part: ``field3.tar`` and ``field3.parquet`` both become ``field3.parquet``.

    Folders such as ``Norder=5/Dir=0/Npix=12`` right above a shard are of its name, as Hive and HATS mean it:
    the file in each of them may be ``part0.parquet``.
    """
    *folders, name = shard.split("/")
    keyed = list(takewhile(lambda folder: re.fullmatch(r"[A-Za-z_]\w*=[^=]+", folder), reversed(folders)))
    name = re.sub(r"\.(parquet|tar|tar\.gz|tgz)$", "", name, flags=re.IGNORECASE)
    return "-".join([*reversed(keyed), name]) + ".parquet"


def part_table(
    rows: pa.Table,
    statuses: Sequence[str],
    prediction: CascadePrediction,
    taxonomy: Taxonomy,
    model_id: str,
    carry: Sequence[str] = (),
    keep_truth: bool = False,
) -> pa.Table:
    """Catalog rows of some shard rows: the same number, in the same order.

    Parameters
    ----------
    rows : pyarrow.Table
        `object_id`, `ra`, `dec`, the carried columns, and with `keep_truth` the `label`; N rows.
    statuses : sequence of str, length N
    prediction : CascadePrediction
        Of the rows with status ``"ok"``, in order.
    taxonomy : Taxonomy
    model_id : str
    carry : sequence of str
        Columns of `rows` to take over.
    keep_truth : bool
        Take the label over as the column `true_label`.
    """
    statuses, prediction = _sound(statuses, prediction)
    ok = np.array([status == OK for status in statuses], dtype=bool)

    def spread(values: np.ndarray | None) -> pa.Array:
        """Values of the classified rows, null elsewhere and where they are NaN or not known."""
        column = np.full(len(ok), np.nan, dtype=np.float32)
        if values is not None:
            column[ok] = values
        return pa.array(column, mask=np.isnan(column))

    def words(values: Sequence[str] | np.ndarray | None) -> pa.Array:
        """Text of the classified rows, null elsewhere."""
        column = np.full(len(ok), None, dtype=object)
        if values is not None:
            column[ok] = values
        return pa.array(column, pa.string())

    def lists(values: np.ndarray) -> pa.Array:
        """Some numbers of each classified row, NaN elsewhere: astropy does not read lists among nulls."""
        column = np.full((len(ok), values.shape[1]), np.nan, np.float32)
        column[ok] = values
        return pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), values.shape[1])

    classes = np.array(taxonomy.classes, dtype=object)
    sets = None if prediction.sets is None else set_names(prediction.sets, taxonomy.classes)
    columns: dict[str, Any] = {
        "object_id": rows["object_id"],
        "ra": rows["ra"],
        "dec": rows["dec"],
        "label": words(classes[prediction.class_indices]),
        "confidence": spread(prediction.confidence),
        **{
            probability_column(name): spread(prediction.probabilities[:, index])
            for index, name in enumerate(taxonomy.classes)
        },
        "label_map": words(classes[prediction.most_probable]),
        "class_set": words(sets),
        **{
            column: spread(None if place is None else prediction.stages[stage][:, place])
            for column, (stage, place) in stage_columns(taxonomy).items()
        },
        "views_used": spread(prediction.views),
        "ood_score": spread(prediction.ood_scores),
        **({} if prediction.features is None else {FEATURES: lists(prediction.features)}),
        "flags": spread(prediction.flags),
        "status": pa.array(statuses, pa.string()),
        "model_id": pa.array([model_id] * len(ok), pa.string()),
        **{name: rows[name] for name in carry},
        **({TRUE_LABEL: rows["label"]} if keep_truth else {}),
    }
    carried = [rows.schema.field(name).remove_metadata() for name in carry]
    carried += [pa.field(TRUE_LABEL, pa.string())] if keep_truth else []
    width = 0 if prediction.features is None else prediction.features.shape[1]
    schema = catalog_schema(taxonomy, rows["object_id"].type, carried, width)
    return pa.table(columns).cast(schema)


def _sound(statuses: Sequence[str], prediction: CascadePrediction) -> tuple[list[str], CascadePrediction]:
    """The same, where rows whose probabilities do not sum to 1 are not OK: the last door to a catalog."""
    given = np.array(statuses, dtype=object)
    rows = np.flatnonzero(given == OK)
    sums = prediction.probabilities.sum(axis=1, dtype=np.float64)
    sound = np.abs(sums - 1) < MOST_OFF
    if sound.all():
        return list(statuses), prediction
    given[rows[~sound]] = NOT_FINITE
    return given.tolist(), prediction.of_rows(sound)


def unsound_rows(table: pa.Table) -> int:
    """How many rows of a part are called OK without a label and probabilities that sum to 1."""
    ok = table.filter(pc.equal(table["status"], OK))
    bad = pc.is_null(ok["label"]).to_numpy()
    if columns := class_columns(table.schema):
        values = [ok[name].cast(pa.float64()).to_numpy() for name in columns]
        # What is null is NaN here, and a NaN is off by no number.
        bad |= ~(np.abs(np.sum(values, axis=0) - 1) < MOST_OFF)
    return int(bad.sum())


def encode_part(table: pa.Table, record: PartRecord, engine: str = "", content: str = "") -> bytes:
    """A part's file content, with its record in the footer, and what computed it.

    Parameters
    ----------
    table : pyarrow.Table
        From `part_table`.
    record : PartRecord
    engine : str
        See `hiwl_core.engines.EngineChoice.describe`. Engines agree, so that parts of one catalog may have
        different ones.
    content : str
        Of the shard's rows; see `pipeline.catalog.shard_content`.
    """
    said = {**record.__dict__, "making": record.making, "engine": engine, "content": content}
    note = json.dumps(said, sort_keys=True).encode()
    table = table.replace_schema_metadata({RECORD_KEY: note})
    buffer = io.BytesIO()
    # Of numbers that are all different a dictionary is half as much again, and takes time to read.
    others = [name for name in table.column_names if name != FEATURES]
    dictionary = others if FEATURES in table.column_names else True
    pq.write_table(table, buffer, compression="zstd", use_dictionary=dictionary)
    return buffer.getvalue()


def read_part(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of a part; its record is in the schema's metadata."""
    with storage.open_input(path) as file:
        return pq.ParquetFile(file).read(columns=list(columns) if columns is not None else None)


def check_part_record(path: str, metadata: Mapping[bytes, bytes] | None, record: PartRecord) -> bool:
    """Whether a part that is there already is what would be written now; False if its shard has changed.

    Parameters
    ----------
    path : str
        For messages.
    metadata : mapping of bytes
        Of the part's schema.
    record : PartRecord
        What would be written now.

    Raises
    ------
    UserError
        If it is not a part, or one of another model or with other settings.
    """
    try:
        made = json.loads((metadata or {})[RECORD_KEY])
        ours = (made["model_id"], made["settings"]) == (record.model_id, record.settings)
    except (KeyError, TypeError, ValueError):
        ours, made = False, {}
    if not ours:
        raise UserError(f"{path} is not a part of this catalog: move it elsewhere, or choose another folder")
    return bool(made["shard_fingerprint"] == record.shard_fingerprint)


def making_in(metadata: Mapping[bytes, bytes] | None) -> str:
    """The `making_of` of a part, by the metadata of its schema; empty if it is no part."""
    note = json.loads((metadata or {}).get(RECORD_KEY, b"{}"))
    # Parts of before say model and settings alone.
    return str(note.get("making") or (making_of(note["model_id"], note["settings"]) if note else ""))


def content_in(metadata: Mapping[bytes, bytes] | None) -> str:
    """The digest of a part's shard in the metadata of its schema; empty if it has none."""
    return str(json.loads((metadata or {}).get(RECORD_KEY, b"{}")).get("content", ""))


def list_parts(folder: str) -> dict[str, int]:
    """Bytes of the Parquet files in a catalog's folder, by their place in it.

    A part's place is its file name alone; a file deeper in the folder is something else, whatever its name.
    """
    root = folder.removeprefix("file://")
    return {
        path.removeprefix(root).lstrip("/"): size
        for path, size in storage.list_files(folder)
        if path.endswith(".parquet")
    }


def counted(table: pa.Table, column: str) -> Counter[str]:
    """How often each value stands in a column; nulls do not count."""
    counts = pc.value_counts(table[column].drop_null()).to_pylist()
    return Counter({entry["values"]: entry["counts"] for entry in counts})


def facts_of(content: bytes, table: pa.Table) -> dict[str, Any]:
    """What the ledger says of a part, by the bytes of its file and its rows."""
    return {
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "classes": dict(counted(table, "label")),
        "statuses": dict(counted(table, "status")),
        "flags": _counted_flags(table),
    }


def _counted_flags(table: pa.Table) -> dict[str, int]:
    """How many rows have each flag; flags that none has are left out."""
    if "flags" not in table.column_names:
        return {}
    counts = Counter[str]()
    for bits, count in zip(*table["flags"].drop_null().value_counts().flatten(), strict=True):
        counts.update(
            dict.fromkeys((name for bit, name in FLAGS.items() if bits.as_py() & bit), count.as_py())
        )
    return dict(counts)
