"""FITS files to cutout shards: as they are, as RGB by a recipe, and one image of several bands' files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hiwl_core.errors import UserError
from hiwl_core.fits_cutouts import rgb_from_bands, rgb_from_fits
from hiwl_core.recipe_sections import RgbSettings
from pipeline.ingestion.images import pack_image
from pipeline.ingestion.ingest import ingest
from pipeline.ingestion.ingest_options import IngestOptions
from tests.broken_inputs import INPUTS, BrokenInput, fits_file
from tests.drawings import draw_galaxy

RGB = RgbSettings(stretch=0.7, q=4)
SKY = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CRPIX1": 12.5,
    "CRPIX2": 12.5,
    "CDELT1": -0.2 / 3600,
    "CDELT2": 0.2 / 3600,
}


JPEG = draw_galaxy("EO", 0, size=16)


def band(seed: int, side: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).gamma(1.0, 1.0, (side, side)).astype(np.float32)


def read(out: Path) -> dict[object, dict[str, object]]:
    table = pa.concat_tables(pq.read_table(path) for path in sorted(out.glob("*.parquet")))
    return {row["object_id"]: row for row in table.to_pylist()}


def rejects(out: Path) -> dict[str, str]:
    with (out / "rejects.csv").open() as file:
        return {row["object_id"]: row["reason"] for row in csv.DictReader(file)}


def pixels(content: object) -> np.ndarray:
    assert isinstance(content, bytes)
    assert content.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A cube with a sky position, three extensions, a cube of other bands, and two that cannot be used."""
    folder = tmp_path / "fits"
    folder.mkdir()
    (folder / "11.fits").write_bytes(fits_file(np.stack([band(1), band(2), band(3)]), BANDS="gri", **SKY))
    (folder / "12.fits.fz").write_bytes(fits_file(None, band(1), band(2), band(3), names=("R", "G", "I")))
    (folder / "13.FIT").write_bytes(fits_file(np.stack([band(1), band(2)]), BANDS="yz", **SKY))
    (folder / "14.fits").write_bytes(fits_file(np.full((3, 24, 24), np.nan, np.float32)))
    (folder / "15.fits").write_bytes(b"SIMPLE  = nothing else")
    (folder / "16.jpg").write_bytes(JPEG)
    return folder


def test_single_files_stay_as_they_are(source: Path, tmp_path: Path) -> None:
    ingest(str(source), str(tmp_path / "out"))
    rows = read(tmp_path / "out")
    assert {key: row["image"] for key, row in rows.items()} == {
        11: (source / "11.fits").read_bytes(),
        12: (source / "12.fits.fz").read_bytes(),
        # Its bands are not those of the default colors, but may be those of a model.
        13: (source / "13.FIT").read_bytes(),
        16: JPEG,
    }
    assert rows[11]["ra"] == pytest.approx(150.0, abs=1e-6)
    assert rows[11]["dec"] == pytest.approx(2.0, abs=1e-6)
    assert rows[11]["pixel_scale"] == pytest.approx(0.2)
    assert rows[13]["ra"] == pytest.approx(150.0, abs=1e-6)
    assert rows[12]["ra"] is None
    reasons = rejects(tmp_path / "out")
    assert reasons["14"].startswith("bad_pixels: ")
    assert reasons["15"].startswith("undecodable: ")


def test_a_recipe_makes_them_rgb(source: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("id,class,ra\n11,EO,33\n12,EO,\n16,EO,\n")
    ingest(str(source), str(tmp_path / "out"), IngestOptions(str(table), rgb=RGB))
    rows = read(tmp_path / "out")
    for name in ("11.fits", "12.fits.fz"):
        expected = rgb_from_fits((source / name).read_bytes(), RGB).image
        assert np.array_equal(pixels(rows[int(name[:2])]["image"]), np.asarray(expected))
    assert rows[16]["image"] == JPEG
    # The labels table knows better, where it knows something.
    assert rows[11]["ra"] == 33
    assert rows[11]["dec"] == pytest.approx(2.0, abs=1e-6)
    assert rejects(tmp_path / "out")["13"].startswith("missing_band: ")
    with pytest.raises(UserError, match="--recipe is not the same"):
        ingest(str(source), str(tmp_path / "out"), IngestOptions(str(table)))


def test_sets_of_one_file_a_band(tmp_path: Path) -> None:
    folder, out = tmp_path / "fits", tmp_path / "out"
    folder.mkdir()
    images = {name: band(seed) for seed, name in enumerate("griz")}
    for spelled in ("J1.5-{}.fits", "J2_{}.fits", "J3.{}.fits.fz", "late/J4-{}.fits", "J5-{}.fits"):
        for name, image in images.items():
            path = folder / spelled.format(name.upper() if "J2" in spelled else name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(fits_file(image, **(SKY if name == "i" else {})))
    (folder / "late" / "J4-r.fits").unlink()
    (folder / "J5-g.fits").write_bytes(fits_file(np.full((24, 24), np.nan, np.float32)))
    (folder / "J6-i.fits").write_bytes(b"")
    (folder / "whole.fits").write_bytes(fits_file(images["g"]))
    (folder / "picture-g.jpg").write_bytes(JPEG)
    summary = ingest(str(folder), str(out), IngestOptions(bands=["g", "r", "i", "z"], rgb=RGB, shard_rows=2))
    rows = read(out)
    encoded = {name: fits_file(image) for name, image in images.items()}
    expected = np.asarray(rgb_from_bands(encoded, RGB).image)
    assert list(rows) == ["J1.5", "J2", "J3"]
    for row in rows.values():
        assert np.array_equal(pixels(row["image"]), expected)
        assert row["ra"] == pytest.approx(150.0, abs=1e-6)
        assert row["pixel_scale"] == pytest.approx(0.2)
    assert summary.other_files == 2
    reasons = rejects(out)
    assert reasons["J4"].startswith("missing_band: no file of band 'r'")
    assert reasons["J5"].startswith("bad_pixels: ")
    assert reasons["J6"].startswith("undecodable: ")

    (folder / "late" / "J1.5_g.fits").write_bytes(encoded["g"])
    with pytest.raises(UserError, match=r"object id 'J1.5' has two files of band g, .*J1.5-g.* and .*J1.5_g"):
        ingest(str(folder), str(tmp_path / "other"), IngestOptions(bands=["g", "r", "i"], rgb=RGB))


@pytest.mark.parametrize("broken", INPUTS[::4], ids=lambda broken: broken.kind)
def test_what_is_packed_is_what_can_be_classified(broken: BrokenInput) -> None:
    # A size or a band that a model does not like is for its catalog to say.
    usable = broken.expected_status in ("ok", "too_small", "missing_band")
    assert (pack_image(broken.image).problem is None) == usable
    if broken.expected_status in ("too_large", "bad_pixels"):
        assert str(pack_image(broken.image).problem).startswith(f"{broken.expected_status}: ")
