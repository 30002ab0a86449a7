"""Shards as people's programs write them: each row is read, or refused with words; none is lost."""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.cutouts import read_cutout
from pipeline.ingestion.images import pack_bands, pack_image
from pipeline.ingestion.source import Listing, stem
from pipeline.publication.part_rows import positions, read_rows
from pipeline.shards.cutout_shards import Columns, iter_rows, list_shards, read_columns
from tests.broken_inputs import fits_file

POSITIONED = ["object_id", "ra", "dec", "image"]
CUBE = np.random.default_rng(3).gamma(1.0, 4.0, (3, 24, 24)).astype(np.float32)
SKY = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": -10.0, "CRVAL2": 5.0}
SKY |= {"CRPIX1": 12.5, "CRPIX2": 12.5, "CDELT1": -1e-4, "CDELT2": 1e-4}


def write(path: Path, **columns: object) -> str:
    rows = len(next(iter(columns.values())))  # type: ignore[arg-type]
    columns = {"object_id": list(range(rows)), "image": [b"x"] * rows, **columns}
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_right_ascensions_of_both_conventions_are_one(tmp_path: Path) -> None:
    ra = [10.0, -10.0, -180.0, 360.0, -1e-20, 359.9, -180.1, 360.1, np.nan, 1.0, 1.0, None]
    dec = [5.0, 5.0, -90.0, 90.0, 0.0, 0.0, 0.0, 0.0, 0.0, 90.1, np.nan, 3.0]
    path = write(tmp_path / "a.parquet", ra=ra, dec=dec)
    table = read_columns(path, Columns(), POSITIONED)
    assert table.num_rows == len(ra)
    assert table["ra"].to_pylist() == [10.0, 350.0, 180.0, 0.0, 0.0, 359.9] + [None] * 6
    assert table["dec"].to_pylist() == [5.0, 5.0, -90.0, 90.0, 0.0, 0.0] + [None] * 5 + [3.0]


def test_a_part_of_an_earlier_version_is_published_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ra=[-10.0, 20.0, None], dec=[5.0, 5.0, 5.0])
    part = read_rows(path)
    ra, _, placed = positions(part)
    assert part["ra"].to_pylist() == [350.0, 20.0, None]
    assert ra[placed].tolist() == [350.0, 20.0]
    assert placed.tolist() == [True, True, False]


def test_packed_fits_files_in_parquet_are_read_with_their_positions(tmp_path: Path) -> None:
    packed = gzip.compress(fits_file(CUBE, **SKY))
    path = write(tmp_path / "a.parquet", image=[packed, packed[:900], gzip.compress(b"no FITS"), None])
    table = read_columns(path, Columns(), POSITIONED)
    assert table["ra"].to_pylist() == [pytest.approx(350.0), None, None, None]
    found = [read_cutout(image, (), 24)[0] for image in table["image"].to_pylist()]
    assert found == ["ok", "undecodable", "undecodable", "missing"]


def test_packed_fits_files_in_a_tar_have_the_ids_of_their_objects(tmp_path: Path) -> None:
    plain = fits_file(CUBE, **SKY)
    members = {
        "J1+2.5.fits.gz": gzip.compress(plain),
        "b.image.fits.fz": plain,
        "c.FIT.GZ": gzip.compress(plain),
        "d.fits": plain,
        "notes.txt.gz": gzip.compress(b"no image"),
    }
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    table = pa.concat_tables(iter_rows(str(tmp_path / "w.tar"), Columns(), POSITIONED))
    assert table["object_id"].to_pylist()[:4] == ["J1+2.5", "b", "c", "d"]
    assert table["ra"].to_pylist()[:4] == [pytest.approx(350.0)] * 4
    assert [read_cutout(image, (), 24)[0] for image in table["image"].to_pylist()[:4]] == ["ok"] * 4


def test_packed_fits_files_of_a_folder_are_images(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    names = ["1.fits.gz", "2.fits.fz", "3.FITS.GZ", "4.fit.bz2", "5.fits", "table.csv.gz", "6.gz"]
    for name in names:
        (source / name).write_bytes(b"x")
    listing = Listing(str(source), str(tmp_path / "out"))
    images = sorted(entry.path.rsplit("/", 1)[-1] for entry in listing.iter_images())
    assert [stem(name) for name in images] == ["1", "2", "3", "4", "5"]
    assert len(images) + listing.other_files == len(names)
    plain = fits_file(CUBE, **SKY)
    packed = pack_image(gzip.compress(plain))
    assert (packed.problem, packed.ra) == (None, pytest.approx(350.0))
    assert pack_image(gzip.compress(plain)[:-50]).problem == "undecodable: a packed file that is cut off"


def test_what_was_not_observed_does_not_become_a_png() -> None:
    from hiwl_core.decoding import DEFAULT_RGB

    half = CUBE.copy()
    half[1, :12] = 0
    assert pack_image(fits_file(half)).problem is None
    for packed in (
        pack_image(fits_file(half), DEFAULT_RGB),
        pack_bands({name: fits_file(plane) for name, plane in zip("gri", half, strict=True)}, DEFAULT_RGB),
    ):
        assert packed.problem == "bad_pixels: 50.0% of the pixels were not observed"


def hats_collection(root: Path, suffix: str) -> int:
    """A HATS collection as hats-import lays it out, with all that is beside its rows; gives their number."""
    tiles = {(0, 4): [1, 2], (1, 4): [3, 4, 5], (1, 7): [6]}
    for name, kind in (("cat", "object"), ("cat_10arcs", "margin"), ("cat_index", "index")):
        folder = root / name
        for (order, pixel), ids in tiles.items():
            place = folder / "dataset" / f"Norder={order}" / "Dir=0" / f"Npix={pixel}{suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            write(place, object_id=ids, image=[b"x"] * len(ids))
        write(folder / "dataset" / "data_thumbnail.parquet", object_id=[1, 3], image=[b"x"] * 2)
        write(folder / "dataset" / "_metadata", object_id=[1], image=[b"x"])
        (folder / "dataset" / "Norder=0" / "Dir=0" / ".Npix=4.parquet.crc").write_bytes(b"crc")
        (folder / "partition_info.csv").write_text("Norder,Npix\n0,4\n")
        (folder / "skymap.fits").write_bytes(fits_file(CUBE))
        (folder / "hats.properties").write_text(
            f"#HATS catalog\nobs_collection={name}\ndataproduct_type={kind}\n"
        )
    (root / "collection.properties").write_text("hats_primary_table_url=cat\nall_margins=cat_10arcs\n")
    (root / "no_position").mkdir()
    write(root / "no_position" / "00000.parquet", object_id=[7, 8], image=[b"x"] * 2)
    return sum(map(len, tiles.values()))


@pytest.mark.parametrize("suffix", [".parquet", "/part0.parquet"])
def test_a_hats_catalog_gives_each_row_once(tmp_path: Path, suffix: str) -> None:
    from pipeline.catalog.manifest import part_names
    from pipeline.classification.catalog_plan import shard_entries

    rows = hats_collection(tmp_path, suffix)
    globbed = f"{tmp_path}/cat*/dataset/**/*.parquet"
    for place, more in (
        (tmp_path, 2),
        (tmp_path / "cat", 0),
        (tmp_path / "cat" / "dataset", 0),
        (globbed, 0),
    ):
        shards = list_shards(str(place))
        assert [entry.path for entry in shard_entries(str(place))] == shards
        assert len(part_names(shards)) == len(shards)
        ids = pa.concat_tables(read_columns(shard, Columns(), ["object_id"]) for shard in shards)
        assert sorted(ids["object_id"].to_pylist()) == list(range(1, rows + more + 1))
    listing = Listing(str(tmp_path), str(tmp_path / "out"))
    assert list(listing.iter_images()) == []
    assert listing.tables == list_shards(str(tmp_path))


def test_a_thumbnail_elsewhere_is_a_shard(tmp_path: Path) -> None:
    write(tmp_path / "data_thumbnail.parquet", object_id=[1])
    assert len(list_shards(str(tmp_path))) == 1


def test_folders_of_a_partition_are_of_the_name_of_a_part() -> None:
    from pipeline.catalog.parts import part_name

    assert part_name("s3://b/c=3/x/field=2/part-0.tar.gz") == "field=2-part-0.parquet"
    assert part_name("/a=b/x/field3.parquet") == "field3.parquet"
    assert part_name("Norder=1/Dir=0/Npix=4.parquet") == "Norder=1-Dir=0-Npix=4.parquet"


def test_classes_beside_the_images_of_a_tar_are_labels(tmp_path: Path) -> None:
    members = [
        ("a.jpg", b"x"),
        ("a.cls", b"EO\n"),
        ("b.cls", b"SPI"),
        ("b.jpg", b"x"),
        ("c.jpg", b"x"),
        ("c.cls", b""),
        ("d.jpg", b"x"),
        ("d.json", b'{"label": "CRS"}'),
        ("d.cls", b"EO"),
    ]
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    table = read_columns(str(tmp_path / "w.tar"), Columns(), ["object_id", "image", "label"])
    assert table["object_id"].to_pylist() == ["a", "b", "c", "d"]
    assert table["label"].to_pylist() == ["EO", "SPI", None, "CRS"]
