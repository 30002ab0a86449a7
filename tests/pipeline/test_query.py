"""Questions to catalogs: the same rows from the folder of parts and from the published form, ids exact."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.coordinates import Latitude, Longitude, SkyCoord
from astropy.io import fits
from astropy.io.votable import parse_single_table
from astropy.table import Table
from cdshealpix.nested import lonlat_to_healpix
from click.testing import CliRunner

from hiwl_core.errors import UserError
from jobs.cli import main
from pipeline import storage
from pipeline.publication.publish import publish
from pipeline.querying.cone import Cone, parse_cone
from pipeline.querying.files import find_catalog
from pipeline.querying.output import encode, text_table
from pipeline.querying.query import open_catalog, query
from tests.catalogs import write_catalog
from tests.object_store import ObjectStore

FIRST_ID = 1237648720693755918
CONES = {
    "in the field": Cone(184.95, 30.5, 5),
    "across zero": Cone(0.5, -20, 3),
    "just below zero": Cone(359.9, 45, 2),
    "negative": Cone(-0.3, 0, 1.5),
    "north pole": Cone(77, 89.5, 2),
    "touching the north pole": Cone(77, 88, 2),
    "south pole": Cone(300, -90, 4),
    "small": Cone(50, 88.2, 0.4),
    "larger than half of the sky": Cone(33, 12, 120),
    "all of the sky": Cone(33, 12, 180),
}


def spread(rows: pa.Table, index: int) -> pa.Table:
    """Positions on the whole sky, denser at the poles and around right ascension 0."""
    random = np.random.default_rng(index)
    ra = np.where(
        random.random(len(rows)) < 0.5,
        random.uniform(0, 360, len(rows)),
        random.normal(0, 3, len(rows)) % 360,
    )
    dec = np.where(
        random.random(len(rows)) < 0.2,
        random.choice([-1, 1], len(rows)) * random.uniform(86, 90, len(rows)),
        np.degrees(np.arcsin(random.uniform(-1, 1, len(rows)))),
    )
    names = rows.column_names
    fields = [rows.schema.field(name) for name in ("ra", "dec")]
    for field, values in zip(fields, (ra, dec), strict=True):
        # A null and a NaN in each part: positions that no cone holds.
        column = pa.array([None, float("nan"), *values[2:]], pa.float64(), from_pandas=False)
        rows = rows.set_column(names.index(field.name), field, column)
    return rows


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A catalog of 6 parts on the whole sky, and its rows."""
    folder = tmp_path_factory.mktemp("sky") / "catalog"
    return folder, write_catalog(folder, 6, 1000, change=spread).to_pandas()


@pytest.fixture(scope="module")
def published(sky: tuple[Path, pd.DataFrame]) -> Path:
    """The same rows as a HATS collection, in tiles of several orders, with a margin beside them."""
    folder, _ = sky
    rows = pa.concat_tables(pq.read_table(part) for part in sorted(folder.glob("*.parquet")))
    rows = rows.filter(np.isfinite(rows["ra"].to_numpy()))
    out = folder.parent / "published"
    longitude, latitude = (rows[name].to_numpy() * units.deg for name in ("ra", "dec"))
    cells = lonlat_to_healpix(Longitude(longitude), Latitude(latitude), depth=29).astype(np.int64)
    rows = rows.append_column("_healpix_29", pa.array(cells)).take(np.argsort(cells))
    cells = np.sort(cells)
    # Half of the base tiles are split: tiles of two orders.
    orders = np.where((cells >> 58) % 2, 1, 2)
    for order in (1, 2):
        pixels = cells >> (2 * (29 - order))
        for pixel in np.unique(pixels[orders == order]):
            for name in ("hiwl", "hiwl_10arcs"):
                path = out / name / "dataset" / f"Norder={order}" / "Dir=0" / f"Npix={pixel}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(rows.filter(pa.array((orders == order) & (pixels == pixel))), path)
    (out / "collection.properties").write_text("obs_collection=hiwl\nhats_primary_table_url=hiwl\n")
    return out


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["query", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("form", ["parts", "published", "catalog in the collection"])
@pytest.mark.parametrize("name", CONES)
def test_a_cone_holds_the_galaxies_within_the_great_circle_distance(
    sky: tuple[Path, pd.DataFrame], published: Path, form: str, name: str
) -> None:
    folder, rows = sky
    place = {"parts": folder, "published": published, "catalog in the collection": published / "hiwl"}[form]
    placed = rows[np.isfinite(rows["ra"])]
    cone = CONES[name]
    center = SkyCoord(cone.ra, cone.dec, unit="deg")
    distance = center.separation(SkyCoord(placed["ra"], placed["dec"], unit="deg")).deg
    expected = placed["object_id"][distance <= cone.radius]
    assert len(expected) > 0
    found = query(str(place), "SELECT object_id FROM catalog", cone).table()["object_id"]
    assert sorted(found.to_pylist()) == sorted(expected)


def test_a_cone_in_a_published_catalog_reads_few_tiles(published: Path) -> None:
    files = find_catalog(str(published))
    assert files.tiles is not None
    few = files.within(CONES["small"])
    assert few.tiles is not None
    assert 1 <= len(few.tiles) <= 6 < len(files.tiles)


def test_positions_from_minus_180_degrees_are_found_too(tmp_path: Path) -> None:
    def turned(rows: pa.Table, index: int) -> pa.Table:
        ra = np.linspace(-179.9, 179.9, len(rows))
        return rows.set_column(1, rows.schema.field("ra"), pa.array(ra)).set_column(
            2, rows.schema.field("dec"), pa.array(np.zeros(len(rows)))
        )

    write_catalog(tmp_path / "catalog", 1, 1000, change=turned)
    for ra in (0, 180, -180, 350):
        assert query(str(tmp_path / "catalog"), cone=Cone(ra, 0, 5)).table().num_rows == pytest.approx(
            28, abs=1
        )


def test_counts_by_class_are_those_of_the_rows(sky: tuple[Path, pd.DataFrame], published: Path) -> None:
    folder, rows = sky
    sql = (
        "SELECT label, count(*) AS n, avg(confidence) AS mean FROM catalog WHERE status = 'ok' GROUP BY label"
    )
    answer = query(str(folder), sql).table().to_pandas().set_index("label").sort_index()
    groups = rows.groupby("label")["confidence"]
    assert answer["n"].to_dict() == groups.size().to_dict()
    np.testing.assert_allclose(answer["mean"], groups.mean().sort_index(), rtol=1e-6)
    columns = query(str(published), "SELECT * FROM catalog LIMIT 1").schema.names
    assert columns == [*rows.columns, "_healpix_29"], "no columns from folder names"
    count = open_catalog(str(published)).sql("SELECT count(*) FROM catalog").fetchall()
    assert count == [(np.isfinite(rows["ra"]).sum(),)]


def test_sql_sees_only_the_cone(sky: tuple[Path, pd.DataFrame]) -> None:
    folder, rows = sky
    code, stdout, _ = run(
        folder, "SELECT count(*) AS n, max(abs(dec)) AS top FROM catalog", "--cone", "0,0,3"
    )
    count, top = stdout.splitlines()[-1].split()
    assert code == 0
    assert 0 < int(count) < len(rows)
    assert float(top) <= 3


@pytest.mark.parametrize(
    ("words", "cone"),
    [
        ("184.95,-0.88,0.1", Cone(184.95, -0.88, 0.1)),
        (" 10, +5 , 30arcsec", Cone(10, 5, 30 / 3600)),
        ("-10,5,6 arcmin", Cone(-10, 5, 0.1)),
        ("1e1,0,2deg", Cone(10, 0, 2)),
    ],
)
def test_a_cone_is_read_from_words(words: str, cone: Cone) -> None:
    assert parse_cone(words) == cone


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("10,5", "give RA,DEC,RADIUS"),
        ("10,5,1,2", "give RA,DEC,RADIUS"),
        ("10,5,1parsec", "give RA,DEC,RADIUS"),
        ("10h,5,1", "give RA,DEC,RADIUS"),
        ("10,95,1", "declination 95"),
        ("1000,5,1", "right ascension 1000"),
        ("nan,5,1", "right ascension nan"),
        ("10,5,-1", "radius -1"),
        ("10,5,181", "radius 181"),
    ],
)
def test_other_words_are_refused(words: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        parse_cone(words)


def test_ids_units_and_meanings_survive_in_each_format(
    sky: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    folder, rows = sky
    sql = "SELECT object_id, ra, label, p_css, p_stage2_css FROM catalog ORDER BY object_id"
    for ending in ("csv", "parquet", "fits", "vot"):
        assert run(folder, sql, "--out", tmp_path / f"rows.{ending}") == (0, "", "")
    ids = list(range(FIRST_ID, FIRST_ID + len(rows)))
    assert int(float(FIRST_ID)) != FIRST_ID, "a float would lose the id's last digits"

    assert pa_csv.read_csv(tmp_path / "rows.csv")["object_id"].to_pylist() == ids
    parquet = pq.read_table(tmp_path / "rows.parquet")
    assert parquet["object_id"].to_pylist() == ids
    assert parquet.schema.field("ra").metadata[b"unit"] == b"deg"
    assert parquet.schema.field("ra").metadata[b"ucd"] == b"pos.eq.ra;meta.main"

    table = Table.read(tmp_path / "rows.fits")
    assert table["object_id"].dtype.newbyteorder("=") == np.int64
    assert table["object_id"].tolist() == ids
    assert table["ra"].unit == "deg"
    assert table["p_css"].dtype.itemsize == 4
    header = fits.getheader(tmp_path / "rows.fits", 1)
    assert header["TUCD2"] == "pos.eq.ra;meta.main"
    assert "cigar-shaped" in header["TCOMM4"]

    votable = parse_single_table(tmp_path / "rows.vot")
    assert votable.array["object_id"].tolist() == ids
    field = votable.get_field_by_id_or_name("ra")
    assert (field.unit, field.ucd) == ("deg", "pos.eq.ra;meta.main")
    assert "cigar-shaped" in votable.get_field_by_id_or_name("p_css").description
    labels = ["" if label is None or label != label else label for label in rows["label"]]
    for read in (table, votable.to_table()):
        assert ["" if np.ma.is_masked(v) else str(v) for v in read["label"]] == labels
        np.testing.assert_array_equal(np.ma.filled(read["p_css"], np.nan), rows["p_css"])

    code, stdout, _ = run(folder, sql, "--rows", "2")
    assert code == 0
    assert [line.split()[0] for line in stdout.splitlines()[2:4]] == [str(FIRST_ID), str(FIRST_ID + 1)]
    assert stdout.splitlines()[-1].startswith(f"... and {len(rows) - 2:,} more rows")


def test_nulls_and_odd_types_survive_where_a_format_has_them(sky: tuple[Path, pd.DataFrame]) -> None:
    sql = """SELECT * FROM (VALUES (999999, 1::tinyint, 1.5, 'a', true, NULL, date '2024-01-02', 3::hugeint),
        (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (-1, -100, 2.5, 'b''s', false, NULL, date '2024-01-03', 9223372036854775807))
        AS a(i, t, d, s, b, n, y, h)"""
    folder = str(sky[0])
    read = Table.read(io.BytesIO(encode(query(folder, sql), "fits")))
    assert [read["i"][0], read["i"][2]] == [999999, -1]
    assert [bool(np.ma.is_masked(value)) for value in read["i"]] == [False, True, False]
    assert [read["t"][2], read["h"][2], str(read["y"][0])] == [-100, 2**63 - 1, "2024-01-02"]
    votable = parse_single_table(io.BytesIO(encode(query(folder, sql), "votable"))).to_table()
    assert votable["h"].tolist() == [3, None, 2**63 - 1]
    assert votable["i"].tolist() == [999999, None, -1]
    text = encode(query(folder, sql), "csv").decode().splitlines()
    assert text[1] == '999999,1,1.5,"a",true,,2024-01-02,3'
    assert text[2] == ",,,,,,,"
    assert "3-element" not in text_table(query(folder, "SELECT [1, 2] AS pair"), 5)
    with pytest.raises(UserError, match="column 'pair' is list"):
        encode(query(folder, "SELECT [1, 2] AS pair"), "fits")


def test_ids_of_two_kinds_are_one_catalog(tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    write_catalog(folder, 2, 10)
    mixed = tmp_path / "mixed"
    write_catalog(mixed, 3, 10, string_ids=True)
    (mixed / "sky-00002-of-00003.parquet").unlink()
    for part in folder.iterdir():
        part.rename(mixed / f"other-{part.name}")
    ids = query(str(mixed), "SELECT object_id FROM catalog").table()["object_id"]
    assert ids.type == pa.string()
    assert sorted(ids.to_pylist()) == sorted(2 * [str(FIRST_ID + i) for i in range(20)])


def test_a_column_that_only_some_parts_have_is_null_in_the_others(tmp_path: Path) -> None:
    def carry(rows: pa.Table, index: int) -> pa.Table:
        return rows.append_column("redshift", pa.array([0.1] * len(rows))) if index else rows

    write_catalog(tmp_path / "catalog", 2, 5, change=carry)
    answer = query(str(tmp_path / "catalog"), "SELECT count(*), count(redshift) FROM catalog").table()
    assert list(answer.to_pylist()[0].values()) == [10, 5]


def test_parts_without_rows_and_manifests(tmp_path: Path) -> None:
    folder = tmp_path / "catalog"
    write_catalog(folder, 1, 0)
    pq.write_table(pa.table({"shard": ["s3://sky/a.parquet"]}), folder / "_plan.parquet")
    code, stdout, _ = run(folder, "--cone", "10,10,1")
    assert code == 0
    assert stdout.split()[:3] == ["object_id", "ra", "dec"]
    for ending in ("csv", "parquet", "fits", "vot"):
        assert run(folder, "--out", tmp_path / f"rows.{ending}")[0] == 0
    assert len(Table.read(tmp_path / "rows.fits")) == 0


@pytest.mark.parametrize(
    "sql",
    [
        "COPY catalog TO '{part}' (USE_TMP_FILE false)",
        "EXPLAIN ANALYZE COPY catalog TO '{part}' (USE_TMP_FILE false)",
        "COPY catalog TO '{new}'",
        "ATTACH '{new}'",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('{part}')",
        "SELECT 1; COPY catalog TO '{new}'",
        "SELECT * FROM query('COPY catalog TO ''{new}''')",
        "DELETE FROM catalog",
        "DROP VIEW catalog",
        "CREATE TABLE more AS SELECT 1",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "PRAGMA database_list",
        "",
    ],
)
def test_a_query_only_reads_and_only_the_catalog(tmp_path: Path, sql: str) -> None:
    write_catalog(tmp_path / "catalog", 1, 10)
    part = tmp_path / "catalog" / "sky-00000-of-00001.parquet"
    content = part.read_bytes()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "secret.parquet")
    code, stdout, stderr = run(
        tmp_path / "catalog", sql.format(part=part, new=tmp_path / "new", secret=tmp_path / "secret.parquet")
    )
    assert (code, stdout, len(stderr.splitlines())) == (2, "", 1), stderr
    assert part.read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog", "secret.parquet"]


def test_a_notebook_cannot_harm_the_catalog_either(tmp_path: Path) -> None:
    import duckdb

    write_catalog(tmp_path / "catalog", 1, 10)
    part = tmp_path / "catalog" / "sky-00000-of-00001.parquet"
    content = part.read_bytes()
    connection = open_catalog(str(tmp_path / "catalog"))
    for statement in (f"COPY catalog TO '{part}' (USE_TMP_FILE false)", "SET enable_external_access = true"):
        with pytest.raises(duckdb.Error):
            connection.execute(statement)
    assert part.read_bytes() == content
    connection.execute("CREATE TABLE mine AS SELECT object_id FROM catalog LIMIT 3")
    assert connection.sql("SELECT count(*) FROM mine").fetchall() == [(3,)]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 1, 10)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sky.parquet").write_bytes(b"PAR1 no")
    taken = tmp_path / "taken.csv"
    taken.write_text("mine")
    catalog = tmp_path / "catalog"
    cases = {
        'Binder Error: Referenced column "lable"': (catalog, "SELECT lable FROM catalog"),
        'Parser Error: syntax error at or near "SELEC"': (catalog, "SELEC 1"),
        "Conversion Error": (catalog, "SELECT label::int FROM catalog"),
        "no catalog at": (tmp_path / "nowhere",),
        f"no catalog at '{tmp_path}/empty'": (tmp_path / "empty",),
        "sky.parquet is not a Parquet file": (tmp_path / "broken",),
        "cannot read the cone": (catalog, "--cone", "somewhere"),
        "taken.csv is there already": (catalog, "--out", taken),
        "no format known for": (catalog, "--out", tmp_path / "rows.doc"),
    }
    for message, arguments in cases.items():
        code, stdout, stderr = run(*arguments)
        assert (code, stdout) == (2, ""), (message, stdout, stderr)
        assert stderr.startswith("Error: "), (message, stderr)
        assert message in stderr, (message, stderr)
        assert len(stderr.splitlines()) == 1, (message, stderr)
    assert taken.read_text() == "mine"


def test_a_narrow_terminal_gets_the_columns_that_fit(sky: tuple[Path, pd.DataFrame]) -> None:
    answer = query(str(sky[0]), "SELECT * FROM catalog LIMIT 3")
    text = text_table(answer, 40, width=60)
    assert max(map(len, text.splitlines()[:5])) <= 60
    assert text.splitlines()[-1].startswith("not shown for want of width: ")
    assert text.splitlines()[-1].endswith("model_id")


def test_a_published_catalog_answers_with_all_rows_of_its_parts(tmp_path: Path) -> None:
    rows = write_catalog(tmp_path / "catalog", 3, 800, without_position=9)
    summary = publish(str(tmp_path / "catalog"), str(tmp_path / "published"), max_rows=500, margin=3600)
    assert summary.without_position > 0 < summary.margin_rows
    for sql in (
        "SELECT object_id, label, p_css, status FROM catalog ORDER BY object_id",
        "SELECT status, count(*) AS n FROM catalog GROUP BY status ORDER BY status",
    ):
        tables = [query(str(tmp_path / name), sql).table() for name in ("catalog", "published")]
        assert tables[0].equals(tables[1])
    assert tables[0]["n"].to_pylist() == [
        number for _, number in sorted(Counter(rows["status"].to_pylist()).items())
    ]
    cones = [query(str(tmp_path / name), cone=Cone(184, 30, 9)).table() for name in ("catalog", "published")]
    assert sorted(cones[0]["object_id"].to_pylist()) == sorted(cones[1]["object_id"].to_pylist()) != []


def test_the_same_answers_from_object_storage(
    sky: tuple[Path, pd.DataFrame], published: Path, object_store: ObjectStore
) -> None:
    for form, place in (("parts", sky[0]), ("published", published)):
        url = f"{object_store.url}/query/{form}"
        for path in place.rglob("*"):
            if path.is_file():
                storage.write_bytes(f"{url}/{path.relative_to(place).as_posix()}", path.read_bytes())
        for sql, cone in (
            ("SELECT * FROM catalog ORDER BY object_id", Cone(0, 10, 20)),
            ("SELECT label, count(*) AS n FROM catalog GROUP BY label ORDER BY label", None),
        ):
            assert query(url, sql, cone).table().equals(query(str(place), sql, cone).table())
        glob = (
            query(f"{url}/sky-0000[12]*.parquet", "SELECT count(*) AS n FROM catalog")
            if form == "parts"
            else None
        )
        assert glob is None or glob.table()["n"].to_pylist() == [2000]
    out = f"{object_store.url}/query/rows.parquet"
    assert run(f"{object_store.url}/query/parts", "--cone", "0,0,3", "--out", out) == (0, "", "")
    assert pq.read_table(io.BytesIO(storage.read_bytes(out))).num_rows > 0
    code, _, stderr = run(f"{object_store.url}/query/parts", "--out", out)
    assert (code, "is there already" in stderr) == (2, True)


def test_a_query_does_not_wait_for_torch_or_ray(sky: tuple[Path, pd.DataFrame]) -> None:
    script = """
import sys
from jobs.cli import main
main(["query", sys.argv[1], "--cone", "0,0,1"], standalone_mode=False)
print(sorted({"torch", "ray", "astropy", "torchvision"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(sky[0])], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_a_spreadsheet_would_compute_is_written_as_it_is_and_said(
    sky: tuple[Path, pd.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    cells = ["=cmd|'/c calc'!A1", "@SUM(1)", "-1.5e3", "NGC 1", None]
    values = ", ".join("(NULL)" if cell is None else "('" + cell.replace("'", "''") + "')" for cell in cells)
    content = encode(query(str(sky[0]), f"SELECT * FROM (VALUES {values}) AS a(name)"), "csv")
    kept = pa_csv.read_csv(
        io.BytesIO(content),
        convert_options=pa_csv.ConvertOptions(column_types={"name": pa.string()}, strings_can_be_null=True),
    )
    assert kept["name"].to_pylist()[:4] == cells[:4]
    assert "2 values begin as a spreadsheet's formula does, such as \"=cmd|'/c" in capsys.readouterr().err
