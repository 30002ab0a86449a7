"""Images and tables to cutout shards, on a real local Ray."""

from __future__ import annotations

import csv
import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hiwl_core.errors import IncompleteError, UserError
from pipeline.ingestion.images import PackedImage, pack_image
from pipeline.ingestion.ingest import ingest
from pipeline.ingestion.ingest_options import IngestOptions
from pipeline.ingestion.verify import verify_shards
from pipeline.shards.cutout_shards import SHARD_SCHEMA, Columns

SURVEY_ID = 1237648720693755918


def picture(seed: int, image_format: str = "JPEG", side: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format)
    return buffer.getvalue()


def folder_of(path: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(picture(seed, "PNG" if name.endswith("png") else "JPEG"))
    return path


def csv_of(path: Path, header: str, *rows: str) -> str:
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def read(out: Path, pattern: str = "*.parquet") -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(out.glob(pattern)))


def rejects(out: Path) -> list[tuple[str, str]]:
    with (out / "rejects.csv").open() as file:
        return [(row["object_id"], row["reason"]) for row in csv.DictReader(file)]


def shard_names(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("*.parquet"))


def test_folder_with_splits(tmp_path: Path) -> None:
    ids = [SURVEY_ID + step for step in range(-4, 5)]
    images = folder_of(tmp_path / "images", [f"{step % 3}/deep/{name}.jpg" for step, name in enumerate(ids)])
    (images / "notes.txt").write_text("not an image")
    (images / "_hidden.jpg").write_text("a marker")
    splits = ["train"] * 5 + ["val", "test"]
    rows = [f"{name},{'EO' if step % 2 else 'CRS'},{splits[step]}" for step, name in enumerate(ids[:7])]
    rows += [f"{ids[7]},,", "12,EO,train"]
    table = csv_of(tmp_path / "classes.csv", "GalaxyID,class,split", *rows)
    out = tmp_path / "out"
    summary = ingest(str(images), str(out), IngestOptions(table, shard_rows=2))
    assert shard_names(out) == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00003.parquet",
        "train-00001-of-00003.parquet",
        "train-00002-of-00003.parquet",
        "unlabeled-00000-of-00001.parquet",
        "val-00000-of-00001.parquet",
    ]
    stored = read(out)
    assert stored.schema.equals(SHARD_SCHEMA)
    assert sorted(stored["object_id"].to_pylist()) == ids
    labels = dict(zip(stored["object_id"].to_pylist(), stored["label"].to_pylist(), strict=True))
    assert [labels[name] for name in ids] == ["CRS", "EO", "CRS", "EO", "CRS", "EO", "CRS", None, None]
    contents = dict(zip(stored["object_id"].to_pylist(), stored["image"].to_pylist(), strict=True))
    assert all(contents[name] == picture(step) for step, name in enumerate(ids))
    assert set(read(out, "train-*")["object_id"].to_pylist()) == set(ids[:5])
    assert set(read(out, "unlabeled-*")["object_id"].to_pylist()) == set(ids[7:])
    assert rejects(out) == [("12", "no image")]
    assert verify_shards(str(out)).passed
    assert (summary.rows, summary.shards, summary.unlabeled, summary.without_image) == (9, 6, 2, 1)
    assert summary.other_files == 1
    assert summary.classes["train"] == {"CRS": 3, "EO": 2}
    metadata = pq.read_metadata(out / "val-00000-of-00001.parquet").metadata
    assert b"images" in metadata[b"hiwl.source"]

    dropped = ingest(str(images), str(tmp_path / "labeled"), IngestOptions(table, drop_unlabeled=True))
    assert (dropped.rows, dropped.dropped, dropped.unlabeled) == (7, 2, 0)
    assert not list((tmp_path / "labeled").glob("unlabeled-*"))


def test_bad_images_are_rejected_by_name(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["good.png", "cut.jpg", "cut2.png", "header.png"])
    (images / "cut.jpg").write_bytes(picture(1)[:-200])
    (images / "cut2.png").write_bytes(picture(1, "PNG")[:-900])
    (images / "header.png").write_bytes(picture(1, "PNG")[:20])
    (images / "start.jpg").write_bytes(b"\xff\xd8\xff")
    (images / "text.jpg").write_text("no picture at all")
    (images / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(images / "bitmap.png", "BMP")
    out = tmp_path / "out"
    summary = ingest(str(images), str(out))
    assert read(out)["object_id"].to_pylist() == ["good"]
    assert sorted(rejects(out)) == [
        ("bitmap", "not a JPEG, PNG or FITS image"),
        ("cut", "truncated"),
        ("cut2", "truncated"),
        ("empty", "empty file"),
        ("header", "truncated"),
        ("start", "broken header"),
        ("text", "not a JPEG, PNG or FITS image"),
    ]
    assert summary.rows == 1


def test_a_decompression_bomb_is_not_decoded() -> None:
    # PNGs that only say how large they are: Pillow warns of the first and refuses the second.
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    for side in (10_000, 60_000):
        header = side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
        problem = pack_image(png).problem
        assert problem is not None
        assert problem.startswith("too_large: ")
    assert pack_image(None).problem == "null image"
    assert pack_image(picture(0)) == PackedImage(picture(0))


def test_zip(tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for seed in range(5):
            opened.writestr(f"a/b/{seed + 10}.jpg", picture(seed))
        opened.writestr("__MACOSX/._10.jpg", b"x")
        opened.writestr("readme.md", "other")
    damaged = bytearray(archive.read_bytes())
    damaged[damaged.index(picture(3)) + 300] ^= 0xFF
    archive.write_bytes(damaged)
    out = tmp_path / "out"
    rows = [f"{name},SPI,{name}.5,-1e1" for name in (10, 11)]
    labels = csv_of(tmp_path / "l.csv", "id,label,ra,dec", *rows)
    summary = ingest(f"file://{archive}", f"file://{out}", IngestOptions(labels, name="zoo", shard_rows=3))
    assert shard_names(out) == ["unlabeled-00000-of-00001.parquet", "zoo-00000-of-00001.parquet"]
    stored = read(out, "zoo-*")
    assert stored["object_id"].to_pylist() == [10, 11]
    assert stored["ra"].to_pylist() == [10.5, 11.5]
    assert stored["dec"].to_pylist() == [-10, -10]
    assert stored["image"].to_pylist() == [picture(0), picture(1)]
    assert rejects(out) == [("13", "damaged in the zip file")]
    assert (summary.rows, summary.other_files) == (4, 1)


def test_ids_that_are_no_integers_make_all_of_them_strings(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["J1234+56.7.jpg", "J1234+56.9.jpg", "007.jpg", "7.jpg"])
    table = csv_of(tmp_path / "l.csv", "object_id,label", "J1234+56.7,EO", "007,CSS", "7,CRS")
    out = tmp_path / "out"
    ingest(str(images), str(out), IngestOptions(table))
    stored = read(out, "cutouts-*")
    found = dict(zip(stored["object_id"].to_pylist(), stored["label"].to_pylist(), strict=True))
    assert found == {"007": "CSS", "7": "CRS", "J1234+56.7": "EO"}
    assert read(out, "unlabeled-*")["object_id"].to_pylist() == ["J1234+56.9"]


def parquet_source(path: Path, ids: list[object], **columns: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [picture(seed) for seed in range(len(ids))]
    pq.write_table(pa.table({"objid": ids, "jpeg": images, **columns}), path, row_group_size=2)
    return str(path)


def test_parquet_with_other_names_and_splits(tmp_path: Path) -> None:
    ids = [SURVEY_ID + step for step in range(10)]
    for part in range(2):
        path = tmp_path / "tables" / f"{part}.parquet"
        mine = ids[5 * part : 5 * part + 5]
        parquet_source(path, mine, RA=[float(name % 100) for name in mine], redshift=[0.1] * 5, mag=[17] * 5)
    kinds = ("EO,train", "SPI,val")
    rows = [f'"{name}",{kinds[step % 2]},{step}' for step, name in enumerate(ids)]
    table = csv_of(tmp_path / "l.csv", "id,kind,split,specobjid", *rows[:-1])
    out = tmp_path / "out"
    summary = ingest(
        str(tmp_path / "tables"),
        str(out),
        IngestOptions(
            table,
            columns=Columns(id="objid", image="jpeg", ra="RA"),
            labels_class_column="kind",
            carry=["redshift", "specobjid"],
            shard_rows=4,
        ),
    )
    stored = read(out)
    assert stored.schema.names == [*SHARD_SCHEMA.names, "redshift", "specobjid"]
    assert stored.schema.field("specobjid").type == pa.int64()
    by_id = {row["object_id"]: row for row in stored.to_pylist()}
    assert sorted(by_id) == ids
    for step, name in enumerate(ids):
        assert by_id[name]["image"] == picture(step % 5)
        assert by_id[name]["ra"] == name % 100
        assert by_id[name]["specobjid"] == (step if step < 9 else None)
        assert by_id[name]["label"] == (("EO", "SPI")[step % 2] if step < 9 else None)
    assert read(out, "train-*")["object_id"].to_pylist() == ids[::2]
    assert summary.classes == {"train": {"EO": 5}, "val": {"SPI": 4}, "unlabeled": {"": 1}}


def test_parquet_labels_of_its_own_and_contiguous_shards(tmp_path: Path) -> None:
    source = parquet_source(tmp_path / "t.parquet", list("abcdefg"), label=["EO", None, *["CRS"] * 5])
    out = tmp_path / "out"
    summary = ingest(source, str(out), IngestOptions(columns=Columns(id="objid", image="jpeg"), shard_rows=3))
    assert [pq.read_table(out / name)["object_id"].to_pylist() for name in shard_names(out)] == [
        ["a", "b", "c"],
        ["d", "e", "f"],
        ["g"],
    ]
    assert summary.classes == {"cutouts": {"EO": 1, "CRS": 5, "": 1}}
    assert summary.unlabeled == 1


def test_hugging_face_image_structs(tmp_path: Path) -> None:
    images = [{"bytes": content, "path": "x.jpg"} for content in (picture(0), None, b"?")]
    images.insert(1, None)
    pq.write_table(pa.table({"object_id": [1, 2, 3, 4], "image": images}), tmp_path / "hf.parquet")
    out = tmp_path / "out"
    ingest(str(tmp_path / "hf.parquet"), str(out))
    assert read(out)["object_id"].to_pylist() == [1]
    assert rejects(out) == [("2", "null image"), ("3", "null image"), ("4", "not a JPEG, PNG or FITS image")]


def test_shards_are_cut_by_bytes_too(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", [f"{name}.jpg" for name in range(100, 106)])
    size = max(path.stat().st_size for path in images.iterdir())
    ingest(str(images), str(tmp_path / "out"), IngestOptions(shard_bytes=2 * size))
    assert len(shard_names(tmp_path / "out")) == 3


def test_resume_writes_only_what_is_missing(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", [f"{name}.jpg" for name in range(100, 108)])
    (images / "100.jpg").write_bytes(b"")
    (images / "106.jpg").write_bytes(b"")
    (images / "107.jpg").write_bytes(b"")
    out = tmp_path / "out"
    first = ingest(str(images), str(out), IngestOptions(shard_rows=2))
    # A shard of rejects alone is not written, and is not tried again.
    assert (first.rows, first.shards, first.resumed, len(shard_names(out))) == (5, 3, 0, 3)
    before = {name: (out / name).read_bytes() for name in shard_names(out)}
    times = {name: (out / name).stat().st_mtime_ns for name in before}
    lost = "cutouts-00001-of-00004.parquet"
    (out / lost).unlink()
    (out / "rejects.csv").unlink()
    second = ingest(str(images), str(out), IngestOptions(shard_rows=2))
    assert (second.rows, second.shards, second.resumed) == (5, 3, 2)
    assert {name: (out / name).read_bytes() for name in shard_names(out)} == before
    assert {name: (out / name).stat().st_mtime_ns for name in before if name != lost} == {
        name: time for name, time in times.items() if name != lost
    }
    assert [name for name, _ in rejects(out)] == ["100", "106", "107"]
    assert verify_shards(str(out)).passed
    assert ingest(str(images), str(out), IngestOptions(shard_rows=2)).resumed == 3


def test_another_plan_needs_another_folder(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["100.jpg", "101.jpg"])
    out = tmp_path / "out"
    ingest(str(images), str(out))
    with pytest.raises(UserError, match="another plan"):
        ingest(str(images), str(out), IngestOptions(shard_rows=1))
    folder_of(tmp_path / "images", ["100.jpg", "101.jpg", "102.jpg"])
    with pytest.raises(UserError, match="choose another folder"):
        ingest(str(images), str(out))
    assert json.loads((out / "_ingest" / "plan.json").read_text())["series"] == {"cutouts": [2]}


def test_no_image_can_be_read(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "1.jpg").write_text("text")
    with pytest.raises(UserError, match=r"not one of the 1 images"):
        ingest(str(images), str(tmp_path / "out"))
    assert rejects(tmp_path / "out") == [("1", "not a JPEG, PNG or FITS image")]


def test_a_fault_of_the_machine_keeps_the_other_shards(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["100.jpg", "101.jpg", "102.jpg"])
    out = tmp_path / "out"
    # A folder stands where the second shard belongs, so that its task cannot write.
    ingest(str(images), str(out), IngestOptions(shard_rows=1))
    for name in ("cutouts-00001-of-00003.parquet", "cutouts-00002-of-00003.parquet"):
        (out / name).unlink()
    (out / "cutouts-00001-of-00003.parquet").mkdir()
    with pytest.raises(IncompleteError, match=r"1 of 2 shards could not be written .*cutouts-00001"):
        ingest(str(images), str(out), IngestOptions(shard_rows=1))
    (out / "cutouts-00001-of-00003.parquet").rmdir()
    assert ingest(str(images), str(out), IngestOptions(shard_rows=1)).rows == 3


def test_a_file_that_vanished_is_a_reject(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ["a.jpg"])
    (images / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    ingest(str(images), str(tmp_path / "out"))
    assert rejects(tmp_path / "out") == [("gone", "no such file")]
