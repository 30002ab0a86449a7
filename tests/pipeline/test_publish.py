"""Catalogs of made-up galaxies become HATS collections that hats, lsdb, astropy and DuckDB read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.io import votable
from astropy.table import Table
from click.testing import CliRunner

from hiwl_core.errors import UserError
from jobs.publish import main as publish_verb
from pipeline.publication.publish import PublishSummary, publish
from pipeline.storage.partials import partial_name
from tests.catalogs import write_catalog
from tests.conftest import kill_driver
from tests.object_store import ObjectStore

ROWS = ["object_id", "ra", "dec", "label", "confidence", "p_css", "p_stage2_css", "status", "model_id"]


def leaves(out: Path, name: str = "hiwl") -> list[Path]:
    return sorted((out / name / "dataset").rglob("*.parquet"))


def read(files: list[Path]) -> pd.DataFrame:
    return pd.concat([pq.ParquetFile(path).read().to_pandas() for path in files], ignore_index=True)


def by_id(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("object_id").reset_index(drop=True)[ROWS]


def contents(folder: Path) -> dict[str, bytes]:
    """Leaves and tables; properties have the date in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "properties" not in path.name
    }


def crowd(rows: pa.Table, part: int, degrees: float = 0.02) -> pa.Table:
    """A part with half of its galaxies around a place where base cells of HEALPix meet."""
    random = np.random.default_rng(part)
    ra, dec = rows["ra"].to_numpy().copy(), rows["dec"].to_numpy().copy()
    chosen = np.flatnonzero((ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90))[: rows.num_rows // 2]
    ra[chosen] = random.normal(180, degrees, len(chosen))
    dec[chosen] = random.normal(41.8103149, degrees, len(chosen))
    places = {"ra": pa.array(ra, from_pandas=True), "dec": pa.array(dec)}
    return pa.table({name: places.get(name, rows[name]) for name in rows.column_names}, schema=rows.schema)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, Path, PublishSummary]:
    """Six parts of 1,000 rows, four of each without a position, published with a margin."""
    folder = tmp_path_factory.mktemp("published")
    rows = write_catalog(folder / "catalog", 6, 1000, change=crowd, without_position=4)
    summary = publish(str(folder / "catalog"), str(folder / "out"), name="dr1", max_rows=700, margin=10)
    return rows, folder / "out", summary


def test_each_row_is_in_one_tile_or_beside_them(
    collection: tuple[pa.Table, Path, PublishSummary],
) -> None:
    rows, out, summary = collection
    tiles, beside = read(leaves(out, "dr1")), read(sorted((out / "no_position").iterdir()))
    assert (summary.rows, summary.without_position) == (len(tiles), len(beside)) == (5976, 24)
    pd.testing.assert_frame_equal(by_id(pd.concat([tiles, beside])), by_id(rows.to_pandas()))
    assert "_healpix_29" not in beside.columns
    assert not (out / "_spill").exists()


def test_tiles_are_sorted_small_and_where_hats_wants_them(
    collection: tuple[pa.Table, Path, PublishSummary],
) -> None:
    from hats.pixel_math import compute_spatial_index

    _, out, summary = collection
    files = leaves(out, "dr1")
    assert summary.tiles == len(files) > 12
    for path in files:
        table = pq.ParquetFile(path).read()
        assert table.column_names[0] == "_healpix_29"
        index = table["_healpix_29"].to_numpy()
        assert (np.diff(index) >= 0).all()
        assert (index == compute_spatial_index(table["ra"].to_numpy(), table["dec"].to_numpy())).all()
        order, pixel = int(path.parts[-3].removeprefix("Norder=")), int(path.stem.removeprefix("Npix="))
        assert (index >> (2 * (29 - order)) == pixel).all()
        assert path.parent.name == f"Dir={pixel // 10_000 * 10_000}"
        assert 1 <= table.num_rows <= 700
    columns = pq.ParquetFile(files[0]).metadata.row_group(0)
    by_name = {columns.column(i).path_in_schema: columns.column(i) for i in range(columns.num_columns)}
    assert "DELTA_BINARY_PACKED" in by_name["_healpix_29"].encodings
    assert "BYTE_STREAM_SPLIT" in by_name["p_css"].encodings
    assert {column.compression for column in by_name.values()} == {"ZSTD"}
    assert by_name["ra"].has_column_index


def test_hats_finds_it_valid_strictly(collection: tuple[pa.Table, Path, PublishSummary]) -> None:
    import hats
    from hats.io.skymap import read_skymap
    from hats.io.validation import is_valid_catalog

    _, out, summary = collection
    assert is_valid_catalog(out, strict=True)
    for folder in ("dr1", "dr1_10arcs"):
        assert is_valid_catalog(out / folder, strict=True)
    catalog = hats.read_hats(out / "dr1")
    properties = catalog.catalog_info
    assert properties.catalog_name == "dr1"
    assert properties.total_rows == summary.rows
    assert properties.hats_max_rows == 700
    assert properties.healpix_column == "_healpix_29"
    assert read_skymap(catalog, None).sum() == summary.rows
    assert len(catalog.get_healpix_pixels()) == summary.tiles
    coverage = catalog.partition_info.calculate_fractional_coverage()
    assert properties.moc_sky_fraction == pytest.approx(coverage, abs=1e-5)
    # One file with the footers of all leaves.
    metadata = pq.read_metadata(out / "dr1" / "dataset" / "_metadata")
    assert metadata.num_rows == summary.rows


def test_lsdb_opens_searches_and_cross_matches_it(
    collection: tuple[pa.Table, Path, PublishSummary],
) -> None:
    import dask
    import lsdb

    rows, out, summary = collection
    with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
        warnings.simplefilter("ignore")
        catalog = lsdb.open_catalog(out)
        assert len(catalog) == summary.rows
        assert catalog.margin is not None
        found = catalog.cone_search(ra=180.0, dec=41.81, radius_arcsec=60.0).compute()
        matches = catalog.crossmatch(
            catalog, n_neighbors=50, radius_arcsec=3, suffixes=("_a", "_b"), suffix_method="all_columns"
        ).compute()
    placed = rows.filter(pc.is_in(rows["object_id"], pa.array(read(leaves(out, "dr1"))["object_id"])))
    sky = SkyCoord(placed["ra"].to_numpy(), placed["dec"].to_numpy(), unit="deg")
    ids = placed["object_id"].to_numpy()
    near = sky.separation(SkyCoord(180.0, 41.81, unit="deg")) < 60 * units.arcsec
    assert sorted(found["object_id"]) == sorted(ids[near])
    assert len(found) > 100
    # All pairs within 3 arcsec, those across the edges of tiles too, which needs the margin.
    first, second, _, _ = sky.search_around_sky(sky, 3 * units.arcsec)
    pairs = set(zip(ids[first], ids[second], strict=True))
    assert set(zip(matches["object_id_a"], matches["object_id_b"], strict=True)) == pairs
    tile_of = {
        row: path
        for path in leaves(out, "dr1")
        for row in pq.read_table(path, partitioning=None)["object_id"].to_pylist()
    }
    assert sum(tile_of[a] != tile_of[b] for a, b in pairs) > 20


def test_the_margin_has_each_row_near_another_tile(
    collection: tuple[pa.Table, Path, PublishSummary],
) -> None:
    _, out, summary = collection
    tiles = {path.relative_to(out / "dr1"): read([path]) for path in leaves(out, "dr1")}
    margins = {path.relative_to(out / "dr1_10arcs"): read([path]) for path in leaves(out, "dr1_10arcs")}
    assert summary.margin_rows == sum(map(len, margins.values())) > 100
    owner = {row: tile for tile, frame in tiles.items() for row in frame["object_id"]}
    for tile, frame in margins.items():
        assert (np.diff(frame["_healpix_29"]) >= 0).all()
        assert frame["object_id"].is_unique
        assert not any(owner[row] == tile for row in frame["object_id"])
    frame = pd.concat(tiles.values())
    sky = SkyCoord(frame["ra"], frame["dec"], unit="deg")
    ids = frame["object_id"].to_numpy()
    first, second, _, _ = sky.search_around_sky(sky, 10 * units.arcsec)
    apart = [(a, b) for a, b in zip(ids[first], ids[second], strict=True) if owner[a] != owner[b]]
    assert len(apart) > 100
    members = {tile: set(margin["object_id"]) for tile, margin in margins.items()}
    assert all(b in members[owner[a]] for a, b in apart)
    # Around tiles there is empty sky, whose margin another catalog's galaxies there are matched with.
    assert set(margins) - set(tiles)


def test_astropy_reads_units_and_descriptions(collection: tuple[pa.Table, Path, PublishSummary]) -> None:
    _, out, _ = collection
    for path in (leaves(out, "dr1")[0], leaves(out, "dr1_10arcs")[0], out / "no_position" / "00000.parquet"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            table = Table.read(path, format="parquet.votable")
        assert table["ra"].unit == table["dec"].unit == units.deg
        assert "Calibrated probability of CSS" in table["p_css"].description
        assert len(table) == pq.read_metadata(path).num_rows
        assert table["object_id"].dtype == np.int64
    common = pq.read_metadata(out / "dr1" / "dataset" / "_common_metadata").metadata
    assert common[b"IVOA.VOTable-Parquet.version"] == b"1.0"
    (out / "common.xml").write_bytes(common[b"IVOA.VOTable-Parquet.content"])
    fields = votable.parse_single_table(out / "common.xml", verify="exception").fields
    (out / "common.xml").unlink()
    assert [field.name for field in fields][:4] == ["_healpix_29", "object_id", "ra", "dec"]
    assert {field.name: field.ucd for field in fields}["p_spi"] == "stat.probability"
    assert {field.name: field.arraysize for field in fields}["model_id"] == "16*"


def test_duckdb_reads_it_with_one_glob(collection: tuple[pa.Table, Path, PublishSummary]) -> None:
    _, out, summary = collection
    glob = f"{out}/dr1/dataset/**/*.parquet"
    query = f"SELECT count(*), count(DISTINCT object_id) FROM read_parquet('{glob}', hive_partitioning=false)"
    assert duckdb.sql(query).fetchall() == [(summary.rows, summary.rows)]


@pytest.mark.usefixtures("ray_session")
def test_ray_tasks_write_the_same_files_as_threads(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 5, 400, change=crowd, without_position=3)
    options: dict[str, Any] = {"max_rows": 300, "margin": 5.0}
    publish(str(tmp_path / "catalog"), str(tmp_path / "threads"), **options)
    publish(str(tmp_path / "catalog"), str(tmp_path / "ray"), **options, workers=2, group_bytes=1)
    threads, tasks = contents(tmp_path / "threads" / "hiwl"), contents(tmp_path / "ray" / "hiwl")
    assert len(threads) > 10
    assert threads == tasks
    assert contents(tmp_path / "threads" / "hiwl_5arcs") == contents(tmp_path / "ray" / "hiwl_5arcs")
    # One file a group of parts.
    assert len(list((tmp_path / "ray" / "no_position").iterdir())) == 5


def test_more_galaxies_than_a_tile_in_one_arcminute_are_cut_finer(tmp_path: Path) -> None:
    def cluster(rows: pa.Table, part: int) -> pa.Table:
        random = np.random.default_rng(part)
        ra = random.normal(200, 0.003, rows.num_rows)
        dec = np.where(np.arange(rows.num_rows) < 150, 10.0, random.normal(10, 0.003, rows.num_rows))
        ra[:150] = 200.0  # more at the very same place than a tile may have
        return rows.set_column(1, rows.schema.field("ra"), pa.array(ra)).set_column(
            2, rows.schema.field("dec"), pa.array(dec)
        )

    rows = write_catalog(tmp_path / "catalog", 2, 600, change=cluster)
    publish(str(tmp_path / "catalog"), str(tmp_path / "out"), max_rows=100)
    sizes = sorted(pq.read_metadata(path).num_rows for path in leaves(tmp_path / "out"))
    assert sum(sizes) == rows.num_rows
    assert len(sizes) > 10
    assert 300 <= sizes[-1] < 310
    assert sizes[-2] <= 100


def test_ids_that_are_integers_here_and_text_there_become_text(tmp_path: Path) -> None:
    rows = write_catalog(tmp_path / "catalog", 3, 50)
    part = tmp_path / "catalog" / "sky-00001-of-00003.parquet"
    some = pq.read_table(part)
    pq.write_table(some.cast(some.schema.set(0, some.schema.field(0).with_type(pa.string()))), part)
    publish(str(tmp_path / "catalog"), str(tmp_path / "out"))
    table = Table.read(leaves(tmp_path / "out")[0], format="parquet.votable")
    ids = set(map(str, rows["object_id"].to_pylist()))
    assert set(read(leaves(tmp_path / "out"))["object_id"]) == ids
    assert set(table["object_id"]) <= ids


def test_carried_columns_of_any_type_are_published(tmp_path: Path) -> None:
    def carry(rows: pa.Table, part: int) -> pa.Table:
        count = rows.num_rows
        return (
            rows.append_column("redshift", pa.array([0.5 if part else None] * count, pa.float64()))
            .append_column("survey", pa.array(["DR7 – Südhimmel", None] * (count // 2)))
            .append_column("visits", pa.array([[1, 2], None] * (count // 2)))
            .append_column("good", pa.array([True] * count))
            .append_column("seen", pa.array([1_600_000_000] * count, pa.timestamp("s")))
        )

    write_catalog(tmp_path / "catalog", 2, 40, change=carry)
    publish(str(tmp_path / "catalog"), str(tmp_path / "out"))
    frame = read(leaves(tmp_path / "out"))
    assert frame["redshift"].notna().sum() == 40
    assert frame["survey"].value_counts().to_dict() == {"DR7 – Südhimmel": 40}
    assert frame["good"].all()
    document = pq.read_metadata(leaves(tmp_path / "out")[0]).metadata[b"IVOA.VOTable-Parquet.content"]
    (tmp_path / "fields.xml").write_bytes(document)
    fields = {field.name: field for field in votable.parse_single_table(tmp_path / "fields.xml").fields}
    assert (fields["redshift"].datatype, fields["survey"].arraysize) == ("double", "15*")
    assert (fields["visits"].datatype, fields["visits"].arraysize) == ("long", "*")


def test_parts_with_columns_of_other_types_are_refused(tmp_path: Path) -> None:
    def clash(rows: pa.Table, part: int) -> pa.Table:
        return rows.append_column("z", pa.array(["a"] * rows.num_rows if part else [1.5] * rows.num_rows))

    write_catalog(tmp_path / "catalog", 1, 20, change=clash)
    rows = pq.read_table(tmp_path / "catalog" / "sky-00000-of-00001.parquet")
    pq.write_table(clash(rows.drop(["z"]), 1), tmp_path / "catalog" / "sky-00001-of-00001.parquet")
    with pytest.raises(UserError, match=r"sky-00001-of-00001\.parquet has a column of another type"):
        publish(str(tmp_path / "catalog"), str(tmp_path / "out"))


def test_a_catalog_without_any_position_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 2, 8, without_position=8)
    with pytest.raises(UserError, match="none of 16 rows has a position"):
        publish(str(tmp_path / "catalog"), str(tmp_path / "out"))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_finished_publication_is_left_as_it_is(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 2, 100, without_position=1)
    first = publish(str(tmp_path / "catalog"), str(tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = publish(str(tmp_path / "catalog"), str(tmp_path / "out"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert (again.rows, again.without_position, again.new) == (first.rows, first.without_position, False)


def test_an_unfinished_publication_keeps_its_whole_leaves_only(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 3, 300, without_position=2)
    out = tmp_path / "out"
    publish(str(tmp_path / "catalog"), str(out), max_rows=200)
    before = contents(out / "hiwl")
    # As a run leaves it that was killed while it wrote leaves, and lost its spill files too.
    said = json.loads((out / "_publish.json").read_text())
    (out / "_publish.json").write_text(json.dumps({**said, "summary": None}))
    (out / "collection.properties").unlink()
    missing, damaged, *whole = leaves(out)
    missing.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-100])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    half = partial_name().replace(f"-{os.getpid()}-", f"-{gone.pid}-")
    missing.with_name(half).write_bytes(b"PAR1")
    times = {path: path.stat().st_mtime_ns for path in whole}
    summary = publish(str(tmp_path / "catalog"), str(out), max_rows=200)
    assert summary.kept == len(whole) + len(list((out / "no_position").iterdir()))
    assert {path: path.stat().st_mtime_ns for path in whole} == times
    assert contents(out / "hiwl") == before
    assert (out / "collection.properties").exists()
    assert not list(out.rglob("*.partial"))


def test_a_folder_with_a_spill_of_the_users_is_refused_and_kept(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 1, 20)
    theirs = tmp_path / "out" / "_spill" / "notes.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"mine")
    with pytest.raises(UserError, match="holds files that publish did not make"):
        publish(str(tmp_path / "catalog"), str(tmp_path / "out"))
    assert theirs.read_bytes() == b"mine"


def change_a_part(catalog: Path) -> None:
    rows = pq.read_table(catalog / "sky-00001-of-00002.parquet")
    pq.write_table(rows.slice(1), catalog / "sky-00001-of-00002.parquet")


def remove_a_part(catalog: Path) -> None:
    (catalog / "sky-00001-of-00002.parquet").unlink()


@pytest.mark.parametrize("change", [change_a_part, remove_a_part])
def test_a_publication_of_other_parts_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_catalog(tmp_path / "catalog", 2, 100)
    publish(str(tmp_path / "catalog"), str(tmp_path / "out"))
    change(tmp_path / "catalog")
    with pytest.raises(UserError, match="is a publication of other parts"):
        publish(str(tmp_path / "catalog"), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["catalog", "out", "--max-rows", "0"], "--max-rows 0"),
        (["catalog", "out", "--margin", "-1"], "--margin -1"),
        (["catalog", "out", "--margin", "nan"], "--margin nan"),
        (["catalog", "out", "--name", "a b"], "--name 'a b'"),
        (["catalog", "out", "--workers", "0"], "--workers 0"),
        (["nothing", "out"], "no catalog at 'nothing'"),
        (["other", "out"], "no part of a catalog in 'other'"),
        (["table", "out"], "has no column 'object_id'"),
        (["catalog", "other"], "other holds files that publish did not make"),
        (["catalog", "catalog/out"], "lie in each other"),
        (["published", "out"], "published is a published catalog already"),
        (
            ["catalog", "published", "--max-rows", "7"],
            "published is a publication with --max-rows 1000000, not 7",
        ),
        (["catalog", "out", "--max-rows", "2", "--margin", "3600"], "--margin 3600 is too wide"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_catalog(tmp_path / "catalog", 2, 30)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "table").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "table" / "a.parquet")
    if "published" in arguments:
        publish("catalog", "published")
    result = CliRunner().invoke(publish_verb, arguments)
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert result.output.splitlines()[-1].startswith("Error: ")
    assert (tmp_path / "other" / "notes.txt").read_text() == "mine"


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 3, 30)
    damaged = tmp_path / "catalog" / "sky-00002-of-00003.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"sky-00002-of-00003\.parquet is not a whole part"):
        publish(str(tmp_path / "catalog"), str(tmp_path / "out"))


def test_the_verb_counts_what_it_published(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 2, 100, without_position=3)
    out = tmp_path / "out"
    result = CliRunner().invoke(publish_verb, [str(tmp_path / "catalog"), str(out), "--margin", "2"])
    assert result.exit_code == 0, result.output
    tiles = len(leaves(out))
    assert f"published: 194 rows in {tiles} tiles, 6 without a position ({out}/no_position)" in result.output
    assert json.loads((out / "_publish.json").read_text())["summary"]["rows"] == 194


@pytest.mark.slow
def test_it_reads_and_writes_an_object_store(object_store: ObjectStore, tmp_path: Path) -> None:
    from fsspec.core import url_to_fs

    rows = write_catalog(tmp_path / "catalog", 3, 300, without_position=2)
    s3, root = url_to_fs(f"{object_store.url}/publish")
    s3.put(str(tmp_path / "catalog"), f"{root}/catalog", recursive=True)
    summary = publish(
        f"{object_store.url}/publish/catalog", f"{object_store.url}/publish/out", max_rows=200, margin=10
    )
    assert (summary.rows, summary.without_position) == (894, 6)
    s3.get(f"{root}/out", str(tmp_path / "out"), recursive=True)
    publish(str(tmp_path / "catalog"), str(tmp_path / "local"), max_rows=200, margin=10)
    assert contents(tmp_path / "out" / "hiwl") == contents(tmp_path / "local" / "hiwl")
    assert rows.num_rows == 900
    again = publish(
        f"{object_store.url}/publish/catalog", f"{object_store.url}/publish/out", max_rows=200, margin=10
    )
    assert not again.new
    assert not s3.exists(f"{root}/out/_spill")


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A catalog of 48,000 rows in a small field, and its publication."""
    folder = tmp_path_factory.mktemp("crowded")
    write_catalog(folder / "catalog", 12, 4000, change=partial(crowd, degrees=0.2), without_position=2)
    publish(str(folder / "catalog"), str(folder / "whole"), max_rows=500, margin=5)
    return folder / "catalog", folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "workers"), [("_spill/*.json", None), ("hiwl/**/*.parquet", 2)])
def test_a_killed_publication_goes_on_to_the_same_files(
    crowded: tuple[Path, Path], tmp_path: Path, stage: str, workers: int | None
) -> None:
    catalog, broken, whole = str(crowded[0]), str(tmp_path / "broken"), crowded[1]
    options = f"max_rows=500, margin=5, group_bytes=1, workers={workers}"
    call = f"from pipeline.publication.publish import publish; publish({catalog!r}, {broken!r}, {options})"
    first = subprocess.Popen(
        [sys.executable, "-c", call],
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 180
    while len(list((tmp_path / "broken").glob(stage))) < 3:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    kill_driver(first)
    survivors = {
        path: path.stat().st_mtime_ns
        for pattern in ("_spill/*.json", "hiwl*/**/*.parquet")
        for path in (tmp_path / "broken").glob(pattern)
    }
    kept = [path for path in survivors if path.suffix == ".parquet"]
    assert len(survivors) >= 3
    assert not (tmp_path / "broken" / "collection.properties").exists()
    with pytest.raises(UserError, match="is a publication with --max-rows 500, not 800"):
        publish(catalog, broken, max_rows=800, margin=5)

    summary = publish(catalog, broken, max_rows=500, margin=5)
    assert summary.kept == len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: survivors[path] for path in kept}
    for folder in ("hiwl", "hiwl_5arcs"):
        assert contents(tmp_path / "broken" / folder) == contents(whole / folder)
    frame = read(leaves(tmp_path / "broken"))
    assert frame["object_id"].is_unique
    assert len(frame) + summary.without_position == 48_000
    assert not list((tmp_path / "broken").rglob(".*"))
