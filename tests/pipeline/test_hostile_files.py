"""Files that were made to eat a machine are read in bounded memory, or refused by name.

How much memory and time a worker takes for each of them: `benchmarks/hostile_inputs.py`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits

from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout
from hiwl_core.fits_bounds import check_bounds
from pipeline.ingestion.source_parquet import ParquetColumns, gather_rows
from pipeline.shards import bounded_batches
from pipeline.shards.cutout_shards import Columns, iter_rows
from tests.drawings import draw_galaxy
from tests.hostile_files import write_hostile

MEGABYTE = 2**20
TRANSFORM = EvalTransform(Preprocessing(64, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


@pytest.mark.parametrize(
    ("kind", "carry"),
    [
        ("dictionary of 8 MB in 256 rows", []),
        ("dictionary in a struct", []),
        ("text of 8 MB in 256 rows", ["note"]),
    ],
)
def test_one_large_value_in_many_rows_comes_a_few_rows_at_a_time(
    kind: str, carry: list[str], tmp_path: Path
) -> None:
    path = write_hostile(kind, tmp_path)
    ids: list[int] = []
    for table in iter_rows(str(path), Columns(), ["object_id", "image"], carry):
        assert table.nbytes < 80 * MEGABYTE
        ids += table["object_id"].to_pylist()
        assert table["image"].type == pa.binary()
    assert ids == list(range(256))
    assert read_cutout(table["image"][-1].as_py(), [TRANSFORM], 64)[0] == "ok"


def test_an_ordinary_dictionary_changes_no_row(tmp_path: Path) -> None:
    images = [draw_galaxy("CRS", number) for number in range(6)]
    images = [images[number % 6] + bytes(2**16) for number in range(5000)]
    rows = pa.table({"object_id": range(5000), "image": pa.array([*images[:-1], None], pa.binary())})
    path = tmp_path / "a.parquet"
    pq.write_table(rows, path, row_group_size=5000)
    metadata = pq.read_metadata(path)
    assert bounded_batches.growing_columns(metadata, ["object_id", "image"]) == ["image"]
    read = pa.concat_tables(iter_rows(str(path), Columns(), ["object_id", "image"]))
    assert read.equals(rows)


def test_rows_that_would_not_fit_are_no_shard_of_an_ingest(tmp_path: Path) -> None:
    path = write_hostile("dictionary of 8 MB in 256 rows", tmp_path)
    for count in (4, 256):
        objects = pa.table({"file": [str(path)] * count, "row": range(count)})
        if count == 4:
            assert gather_rows(objects, ParquetColumns("image")).num_rows == 4
            continue
        with pytest.raises(ValueError, match=r"256 rows take more than 537 MB.*one image in many rows"):
            gather_rows(objects, ParquetColumns("image"))


def test_what_is_packed_as_no_images_are_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "zeros.parquet"
    image = pa.array([bytes(MEGABYTE)] * 8, pa.binary())
    pq.write_table(
        pa.table({"object_id": range(8), "image": image}), path, compression="zstd", use_dictionary=False
    )
    assert len(pa.concat_tables(iter_rows(str(path), Columns(), ["object_id", "image"]))) == 8
    monkeypatch.setattr(bounded_batches, "GROWN_BYTES", 4 * MEGABYTE)
    with pytest.raises(pa.ArrowInvalid, match="'image' of row group 0 would unpack from 0.0 to 8 MB"):
        next(iter_rows(str(path), Columns(), ["object_id", "image"]))


@pytest.mark.parametrize("kind", ["tar with a name of 3 GB", "tar with a pax header of 3 GB"])
def test_a_tar_breaks_off_where_a_header_is_endless(kind: str, tmp_path: Path) -> None:
    path = write_hostile(kind, tmp_path)
    rows = pa.concat_tables(iter_rows(str(path), Columns(), ["object_id", "image"])).to_pylist()
    assert [row["object_id"] for row in rows] == ["0", f"{path.name}@{rows[1]['object_id'].split('@')[1]}"]
    assert [row["_status"] for row in rows] == [None, "broken_shard"]


@pytest.mark.parametrize("kind", ["FITS with 10,000 extensions", "FITS with 48 MB of cards", "bombs"])
def test_an_endless_fits_file_is_too_large_and_its_neighbor_is_read(kind: str, tmp_path: Path) -> None:
    path = write_hostile(kind, tmp_path)
    (table,) = iter_rows(str(path), Columns(), ["object_id", "image"])
    statuses = [read_cutout(image.as_py(), [TRANSFORM], 64)[0] for image in table["image"]]
    assert statuses == ["too_large"] * (len(table) - 1) + ["ok"]


def test_what_surveys_write_is_within_the_bounds() -> None:
    units = [
        fits.PrimaryHDU(),
        *(fits.ImageHDU(np.zeros((4, 4), np.float32), name=f"B{n}") for n in range(60)),
    ]
    for unit in units:
        for number in range(1000):
            unit.header["HISTORY"] = f"step {number}"
    buffer = io.BytesIO()
    fits.HDUList(units).writeto(buffer)
    check_bounds(buffer.getvalue())
    # Cut off, without an END, filled up with zeros: whatever is short is left to who reads it.
    content = buffer.getvalue()
    for damaged in (content[:2000], content[:100_000], content.replace(b"END     ", b"END\0\0\0\0\0")):
        check_bounds(damaged)
