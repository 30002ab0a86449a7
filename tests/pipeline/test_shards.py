from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.errors import UserError
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline.catalog.shard_content import RowDigest
from pipeline.ingestion.labels import read_labels
from pipeline.ingestion.source_parquet import iter_objects
from pipeline.shards import parquet_rows
from pipeline.shards.cutout_shards import (
    Columns,
    check_columns,
    inspect_shard,
    iter_rows,
    list_shards,
    read_columns,
)
from pipeline.shards.fingerprints import fingerprint
from pipeline.shards.inspection import WantedColumns, inspect_shards
from pipeline.shards.shard_groups import ShardToRead, checked_rows, read_group
from tests.broken_inputs import fits_file, with_rows_in_footer
from tests.drawings import write_labeled_shard

BIG_ID = 1237648720693755918


def test_own_shards_read_as_they_were_written(tmp_path: Path) -> None:
    path = str(write_labeled_shard(tmp_path / "a.parquet", {"CRS": 3, "EO": 2}))
    tables = list(iter_rows(path, Columns(), ["object_id", "image", "label"], batch_rows=2))
    assert [table.num_rows for table in tables] == [2, 2, 1]
    assert pa.concat_tables(tables)["object_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert inspect_shard(path).rows == 5


def test_foreign_names_and_missing_optional_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"objid": [BIG_ID], "jpg": [b"x"]}), tmp_path / "f.parquet")
    columns = Columns(id="objid", image="jpg")
    table = read_columns(str(tmp_path / "f.parquet"), columns, ["object_id", "ra", "image", "label"])
    assert table.to_pylist() == [{"object_id": BIG_ID, "ra": None, "image": b"x", "label": None}]


def test_hugging_face_image_structs(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"x", "path": None}, {"bytes": None, "path": "b.jpg"}])
    pq.write_table(pa.table({"object_id": ["a", "b"], "image": image}), tmp_path / "hf.parquet")
    table = read_columns(str(tmp_path / "hf.parquet"), Columns(), ["object_id", "image"])
    assert table["image"].to_pylist() == [b"x", None]
    assert table["object_id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([BIG_ID, 2]).dictionary_encode(), [BIG_ID, 2]),
        (pa.array(["a", None], pa.large_string()), ["a", None]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([1, 2], pa.int16()), [1, 2]),
    ],
)
def test_ids_of_many_types(tmp_path: Path, ids: pa.Array, expected: list[object]) -> None:
    pq.write_table(pa.table({"object_id": ids, "image": [b"x", b"y"]}), tmp_path / "f.parquet")
    check_columns([str(tmp_path / "f.parquet")], Columns(), ["object_id", "image"])
    table = read_columns(str(tmp_path / "f.parquet"), Columns(), ["object_id"])
    assert table["object_id"].to_pylist() == expected
    assert table.schema.field("object_id").type in (pa.int64(), pa.string())


@pytest.mark.parametrize(
    "image",
    [
        pa.array([b"x", None], pa.large_binary()),
        pa.array([b"x", None], pa.binary_view()),
        pa.array([b"x", None], pa.binary(1)),
        pa.array([b"x", None]).dictionary_encode(),
        pa.array([{"bytes": b"x", "path": "a"}, None]),
        pa.array([{"bytes": b"x"}, {"bytes": None}], pa.struct({"bytes": pa.large_binary()})),
    ],
)
def test_images_of_many_types(tmp_path: Path, image: pa.Array) -> None:
    pq.write_table(pa.table({"object_id": [1, 2], "image": image}), tmp_path / "f.parquet")
    check_columns([str(tmp_path / "f.parquet")], Columns(), ["object_id", "image"])
    table = read_columns(str(tmp_path / "f.parquet"), Columns(), ["image"])
    assert table["image"].to_pylist() == [b"x", None]
    assert table.schema.field("image").type == pa.binary()


def test_labels_as_a_dictionary_are_words(tmp_path: Path) -> None:
    labels = pa.array(["EO", None, "EO"]).dictionary_encode()
    pq.write_table(pa.table({"object_id": [1, 2, 3], "label": labels}), tmp_path / "f.parquet")
    table = read_columns(str(tmp_path / "f.parquet"), Columns(), ["label"])
    assert table["label"].to_pylist() == ["EO", None, "EO"]


def test_large_images_make_small_tables(tmp_path: Path) -> None:
    images = [bytes(5 * 2**20) for _ in range(30)]
    table = pa.table({"object_id": range(30), "image": images, "other": [bytes(2**20)] * 30})
    pq.write_table(table, tmp_path / "f.parquet", use_dictionary=False)
    tables = list(iter_rows(str(tmp_path / "f.parquet"), Columns(), ["object_id", "image"]))
    assert max(table.num_rows for table in tables) == 12
    assert sum(table.num_rows for table in tables) == 30


@pytest.mark.parametrize("fetched", [0, 3000, 10**9])
@pytest.mark.parametrize("row_group_size", [4, 30, 100])
def test_row_groups_of_any_size_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetched: int, row_group_size: int
) -> None:
    monkeypatch.setattr(parquet_rows, "FETCHED_BYTES", fetched)
    rng = np.random.default_rng(1)
    table = pa.table(
        {"object_id": range(100), "image": [rng.bytes(int(n)) for n in rng.integers(1, 400, 100)]}
    )
    pq.write_table(table, tmp_path / "f.parquet", row_group_size=row_group_size, data_page_size=1000)
    tables = list(iter_rows(str(tmp_path / "f.parquet"), Columns(), ["object_id", "image"], batch_rows=10))
    assert max(table.num_rows for table in tables) <= 10
    assert pa.concat_tables(tables).equals(table)


def test_positions_come_from_fits_headers_where_the_shard_has_none(tmp_path: Path) -> None:
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -5.0}
    header |= {"CRPIX1": 4.5, "CRPIX2": 4.5, "CDELT1": -1e-4, "CDELT2": 1e-4}
    fits = fits_file(np.zeros((8, 8), np.float32), **header)
    image = [fits, fits, b"SIMPLE  = broken", b"jpeg", None]
    table = pa.table(
        {"object_id": range(5), "image": image, "ra": [None, 1.0, None, None, None], "dec": [2.0] * 5}
    )
    pq.write_table(table.drop_columns(["dec"]), tmp_path / "f.parquet")
    read = read_columns(str(tmp_path / "f.parquet"), Columns(), ["object_id", "ra", "dec", "image"])
    assert read["ra"].to_pylist() == [pytest.approx(10.0), 1.0, None, None, None]
    assert read["dec"].to_pylist() == [pytest.approx(-5.0), None, None, None, None]
    # Half a position is a mistake of the shard, which is left as it is.
    pq.write_table(table, tmp_path / "f.parquet")
    read = read_columns(str(tmp_path / "f.parquet"), Columns(), ["object_id", "ra", "dec", "image"])
    assert read["ra"].to_pylist() == [None, 1.0, None, None, None]


def test_listing_a_file_a_folder_and_a_glob(tmp_path: Path) -> None:
    for name in (
        "b.parquet",
        "sub/a.parquet",
        "_manifest.parquet",
        "sub/.hidden.parquet",
        "_x/c.parquet",
        "n.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [Path(shard).relative_to(tmp_path).as_posix() for shard in list_shards(str(tmp_path))]
    assert names == ["b.parquet", "sub/a.parquet"]
    assert list_shards(str(tmp_path / "*.parquet")) == [str(tmp_path / "b.parquet")]
    assert list_shards(str(tmp_path / "b.parquet")) == [str(tmp_path / "b.parquet")]


@pytest.mark.parametrize("path", ["nowhere", "*.parquet", "empty"])
def test_nothing_there_is_a_mistake(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no "):
        list_shards(str(tmp_path / path))


def test_a_wrong_column_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = str(write_labeled_shard(tmp_path / "a.parquet", {"CRS": 1}))
    with pytest.raises(UserError, match="no column 'GalaxyID' in .*it has object_id, ra.*--id-column"):
        check_columns([path], Columns(id="GalaxyID"), ["object_id"])
    with pytest.raises(UserError, match="no column 'redshift' to carry"):
        check_columns([path], Columns(), ["object_id"], carry=["redshift"])


def test_float_ids_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"object_id": [1.0], "image": [b""]}), tmp_path / "f.parquet")
    with pytest.raises(UserError, match="object ids must be integers or strings, since a float loses"):
        check_columns([str(tmp_path / "f.parquet")], Columns(), ["object_id", "image"])


def test_positions_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"object_id": [1], "image": [b""], "ra": ["10h"]}), tmp_path / "f.parquet")
    with pytest.raises(UserError, match=r"column 'ra' in .* is string: numbers are wanted; see --ra-column"):
        check_columns([str(tmp_path / "f.parquet")], Columns(), ["object_id", "image"])


@pytest.mark.parametrize(
    "image",
    [pa.array([1]), pa.array(["text"]), pa.array([[1, 2]], pa.list_(pa.uint8())), pa.array([{"path": "a"}])],
)
def test_a_column_that_holds_no_images_is_named(tmp_path: Path, image: pa.Array) -> None:
    pq.write_table(pa.table({"object_id": [1], "image": image}), tmp_path / "f.parquet")
    with pytest.raises(UserError, match="the bytes of JPEG, PNG or FITS files are wanted"):
        check_columns([str(tmp_path / "f.parquet")], Columns(), ["object_id", "image"])
    with pytest.raises(UserError, match=f"is {str(image.type).split('<')[0]}"):
        check_columns([str(tmp_path / "f.parquet")], Columns(), ["object_id", "image"])


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no parquet at all")
    with pytest.raises(UserError, match=r"x\.parquet is not a Parquet file"):
        check_columns([str(tmp_path / "x.parquet")], Columns(), ["object_id"])


def test_a_footer_that_claims_more_rows_than_there_are_is_damage(tmp_path: Path) -> None:
    """Of a shard read whole, of one read a row group at a time, of a source of ingest and of labels."""
    path = tmp_path / "sky.parquet"
    table = pa.table({"object_id": range(300), "image": [b"x"] * 300, "label": ["EO"] * 300})
    pq.write_table(table, path, row_group_size=100)
    path.write_bytes(with_rows_in_footer(path.read_bytes(), 300, 600))
    assert inspect_shard(str(path)).rows == 600
    says = "the footer says 600 rows, and there are 300"
    with pytest.raises(pa.ArrowInvalid, match=says):
        read_columns(str(path), Columns(), ["object_id"])
    shard = ShardToRead(str(path), path.stat().st_size, 600)
    (read,) = read_group([shard], Columns(), ["object_id", "image"], [])
    assert read["_left_out"].to_pylist() == [True]
    assert says in read["_failed"][0].as_py()
    with pytest.raises(UserError, match=rf"sky\.parquet: {says}"):
        list(iter_objects([str(path)], Columns(), False))
    with pytest.raises(UserError, match=rf"sky\.parquet .*{says}"):
        read_labels(str(path), None, None, (), GALAXY_ZOO)


def test_other_rows_than_were_planned_fail_a_shard(tmp_path: Path) -> None:
    path = write_labeled_shard(tmp_path / "a.parquet", {"CRS": 3})
    shard = ShardToRead(str(path), path.stat().st_size, 4)
    with pytest.raises(ValueError, match="3 rows were read of the 4 that were planned"):
        list(checked_rows(shard, Columns(), ["object_id"], []))


def test_a_digest_of_rows_is_of_their_values_however_they_come() -> None:
    table = pa.table({"object_id": [1, 2, 3], "image": [b"x", None, b""], "z": [0.1, float("nan"), None]})
    digests = []
    for changed in (table, table.set_column(1, "image", [[b"x", b"", None]]), table.slice(0, 2)):
        whole, pieces = RowDigest(), RowDigest()
        whole.add(changed.select(["z", "image", "object_id"]))
        for row in range(changed.num_rows):
            pieces.add(changed.slice(row, 1))
        assert whole.hexdigest() == pieces.hexdigest()
        digests.append(whole.hexdigest())
    assert len(set(digests)) == 3


def test_fingerprints_tell_shards_apart(tmp_path: Path) -> None:
    one, two = (
        str(write_labeled_shard(tmp_path / name / "a.parquet", {"CRS": 3}, first_id=first))
        for name, first in (("x", 0), ("y", 10))
    )
    assert fingerprint(one) == fingerprint(one) != fingerprint(two)


def test_very_many_shards_are_looked_at_by_ray_tasks_alike(tmp_path: Path, ray_session: None) -> None:
    paths = [
        str(write_labeled_shard(tmp_path / f"{name}.parquet", {"CRS": number}, first_id=10 * number))
        for number, name in enumerate("abc", 1)
    ]
    wanted = WantedColumns(Columns(), ("object_id", "image"))
    found = list(inspect_shards(paths, wanted, many=1))
    assert found == list(inspect_shards(paths, wanted))
    assert [ends.rows for ends in found] == [1, 2, 3]
    with pytest.raises(UserError, match="no column 'brightness' to carry in .*a.parquet"):
        list(inspect_shards(paths, wanted._replace(carry=["brightness"]), many=1))
