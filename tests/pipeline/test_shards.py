import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.errors import UserError
from pipeline.shards import (
    Columns,
    check_columns,
    count_rows,
    fingerprint,
    iter_rows,
    list_shards,
    read_columns,
)
from tests.drawings import draw_galaxy, write_labeled_shard

BIG_ID = 1237648720693755918


def test_own_shards_read_as_they_were_written(tmp_path: Path) -> None:
    path = str(write_labeled_shard(tmp_path / "a.parquet", {"CRS": 3, "EO": 2}))
    tables = list(iter_rows(path, Columns(), ["object_id", "image", "label"], batch_rows=2))
    assert [table.num_rows for table in tables] == [2, 2, 1]
    assert pa.concat_tables(tables)["object_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert count_rows(path) == 5


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


def test_webdataset_tars_keep_dots_in_keys_and_digits_in_ids(tmp_path: Path) -> None:
    path = tmp_path / "w.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in [
            ("J1234+56.7.jpg", draw_galaxy("EO", 0)),
            ("J1234+56.7.json", json.dumps({"label": "EO", "ra": 188.5}).encode()),
            ("J1234+56.9.jpg", b"broken"),
            ("sub/third.png", b"png"),
            ("sub/third.json", json.dumps({"object_id": BIG_ID}).encode()),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    rows = read_columns(str(path), Columns(), ["object_id", "ra", "image", "label"]).to_pylist()
    assert [row["object_id"] for row in rows] == ["J1234+56.7", "J1234+56.9", str(BIG_ID)]
    assert [row["label"] for row in rows] == ["EO", None, None]
    assert rows[0]["ra"] == 188.5
    assert rows[1]["image"] == b"broken"
    assert count_rows(str(path)) is None


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
    with pytest.raises(UserError, match="object ids must be signed integers or strings"):
        check_columns([str(tmp_path / "f.parquet")], Columns(), ["object_id", "image"])


@pytest.mark.parametrize("image", [pa.array([1]), pa.array(["text"])])
def test_a_column_that_holds_no_images_is_named(tmp_path: Path, image: pa.Array) -> None:
    pq.write_table(pa.table({"object_id": [1], "image": image}), tmp_path / "f.parquet")
    with pytest.raises(UserError, match="the bytes of JPEG or PNG files are wanted"):
        check_columns([str(tmp_path / "f.parquet")], Columns(), ["object_id", "image"])


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("no parquet at all")
    with pytest.raises(UserError, match=r"x\.parquet is not a Parquet file"):
        check_columns([str(tmp_path / "x.parquet")], Columns(), ["object_id"])


def test_fingerprints_tell_shards_apart(tmp_path: Path) -> None:
    one, two = (
        str(write_labeled_shard(tmp_path / name / "a.parquet", {"CRS": 3}, first_id=first))
        for name, first in (("x", 0), ("y", 10))
    )
    assert fingerprint(one) == fingerprint(one) != fingerprint(two)
