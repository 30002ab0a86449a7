"""What holds of every file that a reader may get: hypothesis looks for one of which it does not.

`tests.fuzz` has damaged files by the thousand; these are whole ones, and of each it is known what is in it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hiwl_core.cutouts import read_cutout
from hiwl_core.decoding import decode_pixels
from hiwl_core.fits_headers import card, sky_of
from hiwl_core.plain_fits import plain_images
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.statuses import STATUSES
from pipeline.cutouts.positions import PositionColumns, read_positions
from pipeline.shards.cutout_shards import Columns, iter_rows
from tests.broken_inputs import fits_file

# The same examples each time, and few: what a run finds must not depend on the day.
settings.register_profile("readers", max_examples=20, deadline=None, derandomize=True, database=None)
FEW = settings(settings.get_profile("readers"))
IDS = st.integers(-(2**63), 2**63 - 1)
PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
DEGREES = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True, width=64))
MAGICS = st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"SIMPLE  =", b"\x1f\x8b", b"BZh9"])


@FEW
@given(MAGICS, st.binary(max_size=300))
def test_bytes_of_any_kind_have_a_status(magic: bytes, content: bytes) -> None:
    status, pixels = read_cutout(magic + content, (), 8)[:2]
    assert status in STATUSES
    assert (pixels is None) == (status != "ok")


@FEW
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["RGB", "L"]), st.integers(0, 2**32 - 1))
def test_the_pixels_of_a_png_are_those_that_were_written(
    width: int, height: int, mode: str, seed: int
) -> None:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    expected = pixels if mode == "RGB" else np.repeat(pixels[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_pixels(buffer.getvalue()).pixels, expected)


@FEW
@given(
    st.sampled_from([">f4", "<f4", ">f8", "i2", "i4", "u1"]),
    st.lists(st.integers(1, 9), min_size=2, max_size=3),
    st.dictionaries(
        st.sampled_from(
            ["BANDS", "FILTER", "OBJECT", "EXPTIME", "CRVAL1", "CRVAL2", "CRPIX1", "CDELT1", "CD1_1"]
        ),
        st.one_of(PRINTABLE, st.integers(-(10**9), 10**9), st.floats(-1e9, 1e9), st.booleans()),
        max_size=5,
    ),
    st.booleans(),
)
def test_a_plain_fits_file_is_what_astropy_reads(
    kind: str, shape: list[int], cards: dict[str, Any], on_sky: bool
) -> None:
    image = np.arange(int(np.prod(shape))).reshape(shape).astype(kind)
    sky = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"} if on_sky else {}
    content = fits_file(image, **sky, **cards)
    plain = plain_images(content)
    if plain is None:
        return
    with fits.open(io.BytesIO(content)) as units:
        (unit,), (mine,) = units, plain
        np.testing.assert_array_equal(mine.data, unit.data)
        for keyword in ("BITPIX", "NAXIS", "BANDS", "FILTER", *(sky if on_sky else {})):
            assert card(mine.header, keyword) == card(unit.header, keyword)
        (scale, place), (scale_there, place_there) = (
            sky_of(one.header, mine.shape[-2:]) for one in (mine, unit)
        )
        assert (scale is None, place is None) == (scale_there is None, place_there is None)
        if scale is not None and scale_there is not None:
            assert np.isclose(scale, scale_there, rtol=1e-9)
        if place is not None and place_there is not None:
            np.testing.assert_allclose(place, place_there, rtol=1e-9, atol=1e-9)


@FEW
@given(
    st.lists(st.tuples(IDS, DEGREES, DEGREES), min_size=1, max_size=40, unique_by=lambda row: row[0]),
    st.booleans(),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_the_rows_of_a_parquet_shard_come_once_in_order(
    rows: list[tuple[int, float | None, float | None]], as_text: bool, group: int, batch: int
) -> None:
    ids = [str(row[0]) if as_text else row[0] for row in rows]
    table = pa.table(
        {
            "object_id": ids,
            "ra": pa.array([row[1] for row in rows], pa.float64()),
            "dec": pa.array([row[2] for row in rows], pa.float64()),
            "image": pa.array([b"x"] * len(rows), pa.binary()),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.parquet"
        pq.write_table(table, path, row_group_size=group)
        wanted = ["object_id", "ra", "dec", "image"]
        read = pa.concat_tables(iter_rows(path, Columns(), wanted, batch_rows=batch))
    assert read["object_id"].to_pylist() == ids
    for row, ra, dec in zip(rows, read["ra"].to_pylist(), read["dec"].to_pylist(), strict=True):
        there = row[1] is not None and row[2] is not None and -180 <= row[1] <= 360 and abs(row[2]) <= 90
        assert (ra is not None and dec is not None) == there
        if there:
            assert 0 <= ra < 360
            assert dec == row[2]
            assert np.isclose((ra - (row[1] or 0.0) + 180) % 360, 180)


@FEW
@given(
    st.lists(IDS, min_size=1, max_size=30, unique=True),
    st.sampled_from([",", "\t"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_the_ids_of_a_table_of_text_lose_no_digit(
    ids: list[int], separator: str, packed: bool, newline: str
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=newline)
    writer.writerows([("object_id", "ra", "dec"), *((one, 10.5, -3.25) for one in ids)])
    content = text.getvalue().encode()
    with tempfile.TemporaryDirectory() as folder:
        name = ("a.csv" if separator == "," else "a.tsv") + (".gz" if packed else "")
        path = Path(folder) / name
        path.write_bytes(gzip.compress(content) if packed else content)
        read = read_positions(str(path), PositionColumns())
    assert read["object_id"].to_pylist() == ids
    assert set(read["ra"].to_pylist()) == {10.5}


@FEW
@given(
    st.lists(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9+.-]{0,20}[A-Za-z0-9]", fullmatch=True),
        min_size=1,
        max_size=5,
        # Names that differ by an ending are files of one sample.
        unique_by=lambda key: key.lower(),
    ),
    st.integers(1, 5),
)
def test_each_sample_of_a_tar_is_a_row(keys: list[str], batch: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.tar"
        with tarfile.open(path, "w") as tar:
            for number, key in enumerate(keys):
                for ending, content in (
                    ("jpg", b"\xff\xd8\xff"),
                    ("json", json.dumps({"ra": number}).encode()),
                ):
                    info = tarfile.TarInfo(f"{key}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        tables = list(iter_rows(path, Columns(), ["object_id", "image"], ["ra"], batch_rows=batch))
    read = pa.concat_tables(tables, promote_options="permissive")
    assert read.num_rows == len(keys)
    assert read["ra"].to_pylist() == list(range(len(keys)))
    assert set(read["image"].to_pylist()) == {b"\xff\xd8\xff"}


def test_colors_need_no_more_than_one_pixel() -> None:
    for shape in ((3, 1, 1), (3, 1, 7), (3, 7, 1)):
        content = fits_file(np.ones(shape, np.float32))
        assert decode_pixels(content, RgbSettings()).pixels.shape == (*shape[1:], 3)
