"""Survey tiles and positions to cutout shards: each position once, at its place, whatever dies."""

from __future__ import annotations

import csv
import io
import itertools
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner
from PIL import Image

from hiwl_core.errors import UserError
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.stamps import StampSettings
from jobs.cutouts import main
from jobs.verify import main as verify_main
from pipeline import storage
from pipeline.cutouts.cutout_plan import CutoutOptions
from pipeline.cutouts.cutouts import cutouts
from pipeline.cutouts.position_images import cut_rows
from pipeline.cutouts.position_shards import plan_positions
from pipeline.cutouts.positions import PositionColumns
from pipeline.cutouts.tile_headers import MASK_PLANES
from pipeline.ingestion.verify import verify_shards
from pipeline.shards.cutout_shards import Columns, list_shards
from pipeline.shards.shard_groups import ShardToRead
from pipeline.shards.wanted_scale import WantedScale
from pipeline.task_pool import TaskPool, thread_pool
from tests.object_store import ObjectStore
from tests.sky_tiles import sky_wcs, source_image, write_rubin_tile, write_tile

SHAPE = (200, 200)
SIDE = 40
FIRST_ID = 9007199254740993  # one more than a float can count to
# Four rows of places over two tiles that abut, and a third one that is turned and lies over the second.
SOURCES = [
    (150 + float(along) / 3600, 2 + float(up) / 3600)
    for along in np.arange(-36, 40, 8)
    for up in (-15, -5, 5, 15)
]
RGB = RgbSettings(bands=("i", "r", "g"), stretch=5.0)


@pytest.fixture
def pool() -> Iterator[TaskPool]:
    with thread_pool(1, "cutting") as threads:
        yield threads


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of three bands with the source of each position, and the table of positions."""
    folder = tmp_path_factory.mktemp("survey")
    grids = [sky_wcs(150, 2, SHAPE, shift=-100), sky_wcs(150, 2, SHAPE, shift=100)]
    grids.append(sky_wcs(150 - 22 / 3600, 2, SHAPE, turn=5))
    random = np.random.default_rng(0)
    for number, wcs in enumerate(grids):
        for band, ending in zip("gri", (".fits", ".fits.gz", ".fits.fz"), strict=True):
            image = source_image(wcs, SHAPE, SOURCES) + random.normal(0, 0.01, SHAPE).astype(np.float32)
            path = folder / "tiles" / f"patch{number}_{band}{ending}"
            write_tile(path, wcs, image, compressed=ending == ".fits.fz")
    (folder / "positions.csv").write_text(table_of(SOURCES) + "1,10.0,-70.0\n2,,\n")
    return folder


def table_of(places: Sequence[tuple[float, float]]) -> str:
    lines = [f"{FIRST_ID + number},{ra!r},{dec!r}" for number, (ra, dec) in enumerate(places)]
    return "\n".join(["objectId,coord_ra,coord_dec", *lines, ""])


def read(out: Path) -> dict[int, dict[str, Any]]:
    shards = [pq.read_table(path) for path in sorted(out.glob("*.parquet"))]
    rows = pa.concat_tables(shards).to_pylist()
    by_id = {row["object_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def rejects(out: Path) -> dict[str, str]:
    with (out / "rejects.csv").open() as file:
        return {row["object_id"]: row["reason"] for row in csv.DictReader(file)}


def check_places(rows: dict[int, dict[str, Any]]) -> None:
    """Each source lies where its row and the cutout's own header say."""
    for row in rows.values():
        image = fits.open(io.BytesIO(row["image"]))[0]
        assert image.header["BANDS"] == "g,r,i"
        wcs = WCS(image.header).celestial
        assert abs(wcs.proj_plane_pixel_scales()[0].to_value("arcsec") - row["pixel_scale"]) < 1e-4
        ((x, y),) = wcs.all_world2pix([[row["ra"], row["dec"]]], 0)
        middle = (image.shape[-1] - 1) / 2
        assert abs(x - middle) <= 0.51
        assert abs(y - middle) <= 0.51
        for plane in image.data.astype(float):
            rows_, columns = np.mgrid[: image.shape[-2], : image.shape[-1]]
            light = np.where(np.hypot(columns - x, rows_ - y) < 8, plane - 1, 0).clip(0)
            assert abs((light * columns).sum() / light.sum() - x) < 0.15
            assert abs((light * rows_).sum() / light.sum() - y) < 0.15
            assert 9.5 < plane[plane > -100].max() < 10.5


def test_each_position_is_cut_once_and_where_it_is(survey: Path, tmp_path: Path, pool: TaskPool) -> None:
    out = tmp_path / "out"
    summary = cutouts(str(survey / "tiles"), str(survey / "positions.csv"), str(out), size=SIDE, pool=pool)
    rows = read(out)
    assert sorted(rows) == [FIRST_ID + number for number in range(len(SOURCES))]
    assert (summary.rows, summary.rejects, summary.positions) == (len(SOURCES), 2, len(SOURCES) + 2)
    assert {key: reason.split(":")[0] for key, reason in rejects(out).items()} == {
        "1": "off_footprint",
        "2": "no_position",
    }
    # Within the three tiles; those at the survey's edge lack what no tile has.
    inner = {key: row for key, row in rows.items() if row["observed_share"] > 0.99}
    check_places(inner)
    assert 0 < summary.stitched < len(SOURCES)
    assert len(inner) > len(SOURCES) / 2
    assert {row["tile"] for row in rows.values()} == {"patch0_g", "patch1_g", "patch2_g"}
    again = cutouts(str(survey / "tiles"), str(survey / "positions.csv"), str(out), size=SIDE, pool=pool)
    assert (again.rows, again.resumed) == (summary.rows, summary.shards)


def test_a_folder_of_cutouts_is_proved_whole(survey: Path, tmp_path: Path, pool: TaskPool) -> None:
    out = tmp_path / "out"
    cutouts(str(survey / "tiles"), str(survey / "positions.csv"), str(out), size=SIDE, pool=pool)
    whole = CliRunner().invoke(verify_main, [str(out)])
    assert whole.exit_code == 0, whole.output
    assert f"{len(SOURCES)} rows in 2 shards" in whole.output
    first, second = sorted(out.glob("*.parquet"))

    def wrong(folder: Path) -> set[str]:
        assert CliRunner().invoke(verify_main, [str(folder)]).exit_code == 1
        return set(verify_shards(str(folder)).counts)

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(out, tmp_path / name))

    lost = damaged("lost")
    (lost / first.name).unlink()
    assert wrong(lost) == {"shards"}
    changed = damaged("changed")
    rows = pq.ParquetFile(first).read()
    pq.write_table(rows.take(pa.array([0, *range(rows.num_rows - 1)])), changed / first.name)
    assert wrong(changed) == {"checksums", "ids", "doubles"}
    foreign = damaged("foreign")
    shutil.copy(second, foreign / "more.parquet")
    assert wrong(foreign) == {"shards"}
    silent = damaged("silent")
    (silent / "rejects.csv").write_text("object_id,file,reason\n")
    assert wrong(silent) == {"rejects"}


def test_a_cutout_across_a_border_is_that_of_one_tile(tmp_path: Path, pool: TaskPool) -> None:
    """Two tiles that a larger one was cut into give what the larger one gives, pixel for pixel."""
    shape = (120, 240)
    wcs = sky_wcs(30, -40, shape)
    image = np.random.default_rng(3).normal(1, 1, shape).astype(np.float32)
    write_tile(tmp_path / "whole" / "a-r.fits", wcs, image)
    for number in range(2):
        half = wcs[:, 120 * number : 120 * (number + 1)]
        write_tile(
            tmp_path / "halves" / f"a{number}-r.fits", half, image[:, 120 * number : 120 * (number + 1)]
        )
    (tmp_path / "positions.csv").write_text(
        table_of([(30 + along / 3600, -40) for along in (-9, -2.5, 0, 1, 9)])
    )
    for scale in (WantedScale(), WantedScale(0.31)):
        found = {}
        for tiles in ("whole", "halves"):
            out = tmp_path / f"{tiles}{scale.value}"
            summary = cutouts(
                str(tmp_path / tiles),
                str(tmp_path / "positions.csv"),
                str(out),
                size=SIDE,
                scale=scale,
                bands=["r"],
                pool=pool,
            )
            found[tiles] = {key: fits.getdata(io.BytesIO(row["image"])) for key, row in read(out).items()}
        assert summary.stitched >= 3
        for key, whole in found["whole"].items():
            np.testing.assert_allclose(found["halves"][key], whole, atol=1e-5)


def test_a_scale_of_each_galaxy_and_colors(survey: Path, tmp_path: Path, pool: TaskPool) -> None:
    lines = table_of(SOURCES).splitlines()
    (tmp_path / "positions.csv").write_text(
        "\n".join(
            [lines[0] + ",petroR90_r,z", *(f"{line},{10 + n % 3},0.1" for n, line in enumerate(lines[1:]))]
        )
        + "\n7,150.0,2.0,,0.1\n8,150.0,2.0,9e9,0.1\n"
    )
    scale = WantedScale(column="petroR90_r", factor=0.02)
    place = (str(survey / "tiles"), str(tmp_path / "positions.csv"))
    cutouts(*place, str(tmp_path / "fits"), size=SIDE, scale=scale, carry=["z"], pool=pool)
    rows = read(tmp_path / "fits")
    assert {round(row["pixel_scale"], 3) for row in rows.values()} == {0.2, 0.22, 0.24}
    assert {row["z"] for row in rows.values()} == {0.1}
    check_places({key: row for key, row in rows.items() if row["observed_share"] > 0.99})
    assert {key: reason.split(":")[0] for key, reason in rejects(tmp_path / "fits").items()} == {
        "7": "no_scale",
        "8": "too_large",
    }

    summary = cutouts(*place, str(tmp_path / "jpeg"), size=SIDE, scale=scale, rgb=RGB, pool=pool)
    colors = read(tmp_path / "jpeg")
    assert summary.rows + summary.rejects == len(SOURCES) + 2
    lost = {key for key in rows if key not in colors}
    assert lost
    assert all(rows[key]["observed_share"] <= 0.9 for key in lost)
    image = np.asarray(Image.open(io.BytesIO(next(iter(colors.values()))["image"])))
    assert image.shape == (SIDE, SIDE, 3)
    assert image[SIDE // 2, SIDE // 2].min() > 100
    assert image[0].max() < 60


def test_masks_and_variances_of_rubin(tmp_path: Path, pool: TaskPool) -> None:
    shape = (60, 60)
    wcs = sky_wcs(10, 0, shape)
    mask, variance = np.zeros(shape, int), np.ones(shape, np.float32)
    mask[:10] = 1 << 2  # SAT
    mask[20:30] = 1 << 5  # DETECTED, which is no fault
    variance[50:] = np.nan
    planes = {"BAD": 0, "SAT": 2, "DETECTED": 5, "DETECTED_NEGATIVE": 6}
    image = np.random.default_rng(0).normal(1, 1, shape).astype(np.float32)
    write_rubin_tile(tmp_path / "deepCoadd_9813_4,5_i_HSC.fits", wcs, image, mask, variance, planes)
    (tmp_path / "positions.csv").write_text(table_of([(10, 0)]))
    place = (str(tmp_path / "deepCoadd*.fits"), str(tmp_path / "positions.csv"))
    cutouts(*place, str(tmp_path / "out"), size=60, bands=["i"], pool=pool)
    (row,) = read(tmp_path / "out").values()
    assert row["observed_share"] == pytest.approx(50 / 60)
    assert row["masked_share"] == pytest.approx(10 / 60)
    pixels = fits.getdata(io.BytesIO(row["image"]))[0]
    np.testing.assert_array_equal(pixels[50:], -9999)
    np.testing.assert_array_equal(pixels[:50], image[:50])


def test_a_broken_tile_costs_its_own_positions(survey: Path, tmp_path: Path, pool: TaskPool) -> None:
    for path in (survey / "tiles").iterdir():
        content = path.read_bytes()
        (tmp_path / "tiles").mkdir(exist_ok=True)
        # The header is whole, so that it is planned with.
        (tmp_path / "tiles" / path.name).write_bytes(
            content[:6000] if path.name == "patch0_g.fits" else content
        )
    (tmp_path / "tiles" / "patch9_g.fits").write_bytes(b"SIMPLE  = nothing else")
    out = tmp_path / "out"
    place = (str(tmp_path / "tiles"), str(survey / "positions.csv"))
    summary = cutouts(*place, str(out), size=SIDE, pool=pool)
    assert summary.broken_files == 1
    assert summary.rows + summary.rejects == summary.positions == len(SOURCES) + 2
    reasons = rejects(out)
    assert summary.rejects == sum(bool(key) for key in reasons) > 2
    assert any("patch0_g.fits" in reason for reason in reasons.values())


def cut_and_die(place: tuple[str, str], out: str, after: int) -> None:
    """Cut, in a process of its own that is killed at its next file when so many are there."""
    write = storage.write_bytes
    written = itertools.count()

    def mortal(path: str, content: bytes) -> None:
        if next(written) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    storage.write_bytes = mortal
    with thread_pool(1, "cutting") as pool:
        cutouts(*place, out, size=SIDE, pool=pool)


def test_a_killed_run_is_gone_on_with(survey: Path, tmp_path: Path, pool: TaskPool) -> None:
    place = (str(survey / "tiles"), str(survey / "positions.csv"))
    cutouts(*place, str(tmp_path / "whole"), size=SIDE, pool=pool)
    whole = read(tmp_path / "whole")
    out = tmp_path / "out"
    # `benchmarks/night.py` kills a longer run, with all its Ray, twice.
    process = multiprocessing.get_context("spawn").Process(target=cut_and_die, args=(place, str(out), 8))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (out / "_ingest" / "plan.json").exists()
    assert list((out / "_ingest" / "pieces").glob("*/*"))
    summary = cutouts(*place, str(out), size=SIDE, pool=pool)
    assert summary.rows + summary.rejects == summary.positions
    assert read(out) == whole
    assert not list((out / "_ingest" / "pieces").glob("*/*"))
    with pytest.raises(UserError, match="--size is not the same"):
        cutouts(*place, str(out), size=SIDE + 2, pool=pool)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("objectId,coord_ra,coord_dec\n1,150,2\n1,150,2\n", "more than once"),
        ("objectId,coord_ra,coord_dec\n1.5e18,150,2\n", "is a float"),
        ("objectId,x,y\n1,150,2\n", "--ra-column"),
        ("objectId,coord_ra,coord_dec\n", "no row in"),
        ("objectId,coord_ra,coord_dec\n5,10,80\n", "not one of 1 positions"),
    ],
)
def test_mistakes_are_one_line(survey: Path, tmp_path: Path, pool: TaskPool, table: str, words: str) -> None:
    (tmp_path / "positions.csv").write_text(table)
    with pytest.raises(UserError, match=words) as mistake:
        cutouts(str(survey / "tiles"), str(tmp_path / "positions.csv"), str(tmp_path / "out"), pool=pool)
    assert "\n" not in str(mistake.value)


def test_tiles_that_cannot_be_meant(survey: Path, tmp_path: Path, pool: TaskPool) -> None:
    positions = str(survey / "positions.csv")
    with pytest.raises(UserError, match="no image of band 'z'"):
        cutouts(str(survey / "tiles"), positions, str(tmp_path / "out"), bands=["g", "z"], pool=pool)
    wcs, image = sky_wcs(150, 2, SHAPE), np.ones(SHAPE, np.float32)
    for name in ("a-g.fits", "b-g.fits"):
        write_tile(tmp_path / "twice" / name, wcs, image)
    with pytest.raises(UserError, match="are both band 'g' of one part of the sky"):
        cutouts(str(tmp_path / "twice"), positions, str(tmp_path / "out"), bands=["g"], pool=pool)


def test_tiles_and_cutouts_in_object_storage(
    object_store: ObjectStore, survey: Path, tmp_path: Path, pool: TaskPool
) -> None:
    url = f"{object_store.url}/survey_cutouts"
    for path in (*(survey / "tiles").iterdir(), survey / "positions.csv"):
        storage.write_bytes(f"{url}/{path.relative_to(survey)}", path.read_bytes())
    cutouts(f"{url}/tiles", f"{url}/positions.csv", f"{url}/out", size=SIDE, pool=pool)
    again = cutouts(f"{url}/tiles", f"{url}/positions.csv", f"{url}/out", size=SIDE, pool=pool)
    assert again.resumed == again.shards
    assert verify_shards(f"{url}/out").passed
    # And without the shards, as a catalog is made.
    settings = StampSettings(("g", "r", "i"), SIDE)
    options = CutoutOptions(f"{url}/positions.csv", PositionColumns(), settings, WantedScale(), MASK_PLANES)
    place, cutting = plan_positions(f"{url}/catalog", f"{url}/tiles", options, lambda _: pool, lambda: None)
    cut = [
        row
        for shard in list_shards(place)
        for _, some in cut_rows(ShardToRead(shard, 0), Columns(), ["object_id", "ra", "dec"], [], cutting)
        for row in some.to_pylist()
    ]
    assert len(cut) == len(SOURCES) + 2
    assert sum(row["image"] is not None for row in cut) == len(SOURCES)
    cutouts(str(survey / "tiles"), str(survey / "positions.csv"), str(tmp_path / "out"), size=SIDE, pool=pool)
    for path in sorted((tmp_path / "out").glob("*.parquet")):
        with storage.open_input(f"{url}/out/{path.name}") as file:
            assert pq.read_table(file).equals(pq.read_table(path))


def test_the_verb_in_ray_with_a_table_as_hats_has_it(ray_session: None, survey: Path, tmp_path: Path) -> None:
    ra, dec = np.array(SOURCES).T
    (tmp_path / "objects" / "Norder=0" / "Dir=0").mkdir(parents=True)
    pq.write_table(
        pa.table({"objectId": np.arange(len(ra)), "coord_ra": ra, "coord_dec": dec, "z": ra}),
        tmp_path / "objects" / "Norder=0" / "Dir=0" / "Npix=4.parquet",
    )
    command = [str(survey / "tiles"), str(tmp_path / "objects"), str(tmp_path / "out"), "--size", str(SIDE)]
    result = CliRunner().invoke(main, [*command, "--carry", "z"])
    assert result.exit_code == 0, result.output
    assert f"{len(SOURCES)} cutouts of 3 tiles in 2 shards" in result.output
    assert f"{len(SOURCES)} positions: 0 rejects" in result.output
    rows = read(tmp_path / "out")
    assert len(rows) == len(SOURCES)
    for key, row in rows.items():
        assert row["ra"] == pytest.approx(ra[key])
        assert row["z"] == ra[key]
