"""Columns of the types that people's programs write: read for what they mean, or refused in one line."""

import io
import json
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from hiwl_core.errors import UserError
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline.catalog.shard_content import wanted_columns
from pipeline.classification.decided import check_names
from pipeline.ingestion.labels import read_labels
from pipeline.ingestion.source_parquet import describe_tables, gather_rows, iter_objects
from pipeline.querying.astropy_tables import fits_bytes, votable_bytes
from pipeline.querying.query import ROWS, ask, open_catalog
from pipeline.shards.cutout_shards import Columns, check_columns, read_columns
from pipeline.shards.inspection import WantedColumns, inspect_shards
from pipeline.training.labeled_shards import check_labeled

BIG_ID = 1237648720693755918
BYTES_NOT_UTF8 = pa.array([b"a", b"\xff"], pa.binary())


def write(path: Path, metadata: dict[bytes, bytes] | None = None, **columns: object) -> str:
    rows = len(next(iter(columns.values())))  # type: ignore[arg-type]
    columns = {"object_id": list(range(rows)), "image": [b"x"] * rows, **columns}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return str(path)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([b"J1", b"J2"], pa.binary()), ["J1", "J2"]),
        (pa.array([b"J1", b"J2"], pa.binary(2)), ["J1", "J2"]),
        (BYTES_NOT_UTF8, ["a", "\\xff"]),
        (pa.array([BIG_ID, 2], pa.uint64()), [BIG_ID, 2]),
        (pa.array([2**32 - 1, 2], pa.uint32()), [2**32 - 1, 2]),
        (pa.array([Decimal(BIG_ID), Decimal(2)], pa.decimal128(20, 0)), [BIG_ID, 2]),
        (pa.array([BIG_ID, 2], pa.uint64()).dictionary_encode(), [BIG_ID, 2]),
        (pa.array([b"J1", b"J2"]).dictionary_encode(), ["J1", "J2"]),
    ],
)
def test_ids_are_read_by_every_reader(tmp_path: Path, ids: pa.Array, expected: list[object]) -> None:
    path = write(tmp_path / "a.parquet", object_id=ids)
    check_columns([path], Columns(), ["object_id", "image"])
    assert read_columns(path, Columns(), ["object_id"])["object_id"].to_pylist() == expected
    ((objects, integers),) = iter_objects([path], Columns(), has_label=False)
    assert objects["object_id"].to_pylist() == list(map(str, expected))
    assert integers == isinstance(expected[0], int)
    labels = write(tmp_path / "labels.parquet", id=ids, **{"class": ["EO", "SPI"]})
    assert read_labels(labels, id_column="id").table["id"].to_pylist() == list(map(str, expected))


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (pa.array([1.5, 2.0]), "double: object ids must be integers or strings, since a float loses"),
        (pa.array([Decimal("1.5")] * 2), r"decimal128\(2, 1\): object ids must be .* since a float loses"),
        (pa.array([True, False]), "bool: object ids must be integers or strings; see --id-column"),
    ],
)
def test_ids_that_are_none_are_refused_for_their_reason(tmp_path: Path, ids: pa.Array, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_columns([write(tmp_path / "a.parquet", object_id=ids)], Columns(), ["object_id"])


def test_an_id_beyond_64_bits_is_refused_by_its_value(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", object_id=pa.array([2**64 - 1, 1], pa.uint64()))
    with pytest.raises(UserError, match="object id 18446744073709551615 is no signed integer"):
        read_columns(path, Columns(), ["object_id"])
    with pytest.raises(UserError, match="object id 18446744073709551615 is no signed integer"):
        list(iter_objects([path], Columns(), has_label=False))


def hugging_face(*names: str) -> dict[bytes, bytes]:
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def test_classes_as_numbers_have_the_names_that_the_file_gives_them(tmp_path: Path) -> None:
    expected = ["SPI", "EO", None, None, "EO"]
    numbers = pa.array([1, 0, -1, None, 0], pa.int64())
    path = write(tmp_path / "a.parquet", hugging_face("EO", "SPI"), label=numbers)
    table = read_columns(path, Columns(), ["object_id", "label"], ["label"])
    assert table.num_rows == len(numbers)
    assert table["label"].to_pylist() == expected
    labeled = check_labeled([path], Columns(), GALAXY_ZOO)
    assert (labeled.class_counts["EO"], labeled.class_counts["SPI"], labeled.unlabeled) == (2, 1, 2)
    described = describe_tables([path], Columns(), [])
    ((objects, _),) = iter_objects([path], Columns(), described.has_label)
    assert objects["label"].to_pylist() == expected
    labels = write(tmp_path / "l.parquet", hugging_face("EO", "SPI"), id=list("abcde"), label=numbers)
    assert read_labels(labels).table["label"].to_pylist() == expected


def test_a_class_number_without_a_name_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", hugging_face("EO"), label=[0, 1])
    with pytest.raises(UserError, match=r"'label' has the class number 1, and names for 0 to 0"):
        read_columns(path, Columns(), ["label"])


def test_classes_as_bytes_are_words(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", label=pa.array([b"EO", None]), id=[1, 2])
    assert read_columns(path, Columns(), ["label"])["label"].to_pylist() == ["EO", None]
    assert describe_tables([path], Columns(), []).has_label
    assert read_labels(path, id_column="id").table["label"].to_pylist() == ["EO", None]


def test_two_columns_of_one_name_are_refused_if_one_is_needed(tmp_path: Path) -> None:
    data = [pa.array([1]), pa.array([b"x"]), pa.array([1.0]), pa.array([2.0])]
    other = pa.table(data, names=["object_id", "image", "other", "other"])
    pq.write_table(other, tmp_path / "other.parquet")
    place = str(tmp_path / "other.parquet")
    check_columns([place], Columns(), ["object_id", "image"])
    assert read_columns(place, Columns(), ["object_id", "image"]).num_rows == 1
    with pytest.raises(UserError, match="has 2 columns 'other': rename all but one"):
        check_columns([place], Columns(), ["object_id"], ["other"])
    pq.write_table(other.rename_columns(["object_id", "image", "ra", "ra"]), place)
    with pytest.raises(UserError, match="has 2 columns 'ra': rename all but one"):
        check_columns([place], Columns(), ["object_id"])


def test_names_that_differ_by_case_alone_are_one_name_in_a_catalog(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ra=[1.0], dec=[1.0], RA=[2.0])
    assert read_columns(path, Columns(), ["ra"])["ra"].to_pylist() == [1.0]
    with pytest.raises(UserError, match="--carry RA: that name is taken in the catalog by 'ra'"):
        check_names(GALAXY_ZOO, Columns(), ["RA"])
    with pytest.raises(UserError, match="--carry Mag: that name is taken in the catalog by 'mag'"):
        check_names(GALAXY_ZOO, Columns(), ["mag", "Mag"])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([0.5, None], pa.float16()), pa.float32()),
        (pa.array(["a", None], pa.string_view()), pa.string()),
        (pa.array([b"a", None], pa.binary_view()), pa.binary()),
    ],
)
def test_carried_columns_have_types_that_all_can_read(
    tmp_path: Path, values: pa.Array, kind: pa.DataType
) -> None:
    path = write(tmp_path / "a.parquet", note=values)
    table = read_columns(path, Columns(), ["object_id"], ["note"])
    assert table["note"].type == kind
    assert table["note"].to_pylist() == values.to_pylist()
    described = describe_tables([path], Columns(), ["note"])
    objects = pa.table({"file": [path, path], "row": pa.array([0, 1])})
    assert gather_rows(objects, described)["carry:note"].type == kind


def test_empty_row_groups_cost_no_more_than_the_footer(tmp_path: Path) -> None:
    table = pa.table({"object_id": range(8), "image": [b"x"] * 8, "ra": [1.0] * 8, "dec": [1.0] * 8})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for row in range(8):
            writer.write_table(table.slice(row, 1))
            for _ in range(300):
                writer.write_table(table.slice(0, 0))
    path = str(tmp_path / "a.parquet")

    def seconds(action: Callable[[], object]) -> float:
        """The least CPU time of some tries."""
        tries = []
        for _ in range(3):
            started = time.process_time()
            action()
            tries.append(time.process_time() - started)
        return min(tries)

    footer = seconds(lambda: pq.ParquetFile(path))
    assert read_columns(path, Columns(), ["object_id"])["object_id"].to_pylist() == list(range(8))
    objects = [found for found, _ in iter_objects([path], Columns(), has_label=False)]
    assert pa.concat_tables(objects)["object_id"].to_pylist() == list(map(str, range(8)))
    # Opened one by one they take twenty times as long.
    assert seconds(lambda: list(iter_objects([path], Columns(), has_label=False))) < 6 * footer


def test_the_truth_of_a_catalog_is_read_as_any_label(tmp_path: Path) -> None:
    settings = {"columns": {}, "scale": {}, "carry": ["note"], "keep_truth": True}
    numbers = pa.array([1, -1], pa.int64())
    path = write(tmp_path / "a.parquet", hugging_face("EO", "SPI"), label=numbers, note=[1, 2])
    table = read_columns(path, *wanted_columns(settings).to_read)
    assert table["label"].to_pylist() == ["SPI", None]
    assert table["note"].to_pylist() == [1, 2]


def test_a_carried_column_whose_type_drifts_is_told_before_the_night(tmp_path: Path) -> None:
    notes = {
        "a": pa.nulls(1),
        "b": pa.array([1.5], pa.float16()),
        "c": pa.array([1]),
        "d": pa.array([2.5]),
        "e": pa.array(["x"]),
    }
    shards = [write(tmp_path / f"{name}.parquet", note=note) for name, note in notes.items()]
    wanted = WantedColumns(Columns(), ["object_id", "image"], ["note"])
    assert [ends.rows for ends in inspect_shards(shards[:4], wanted)] == [1, 1, 1, 1]
    words = r"'note' to carry is float in .*/b.parquet and string in .*/e.parquet: write it in one type"
    with pytest.raises(UserError, match=words):
        list(inspect_shards(shards, wanted))


@pytest.mark.parametrize("out", [fits_bytes, votable_bytes])
def test_durations_are_seconds_in_tables_of_astronomy(
    out: Callable[[pa.Table], bytes], tmp_path: Path
) -> None:
    times = pa.array([timedelta(days=1, seconds=1.5), None], pa.duration("us"))
    path = write(tmp_path / "a.parquet", ra=[1.0, 2.0], dec=[1.0, 2.0], exposure=times)
    rows = ask(open_catalog(path, None), f"SELECT * EXCLUDE (image) FROM {ROWS} ORDER BY object_id").table()
    table = Table.read(io.BytesIO(out(rows)), format="fits" if out is fits_bytes else "votable")
    assert len(table) == 2
    assert table["exposure"][0] == 86401.5
    assert np.ma.filled(table["exposure"], np.nan)[1] != table["exposure"][0]
    assert str(table["exposure"].unit) == "s"
    with pytest.raises(UserError, match="'image' is .*binary"):
        out(pa.table({"image": pa.array([b"\xff"], pa.large_binary())}))
