"""From tiles and positions to a catalog, without a cutout on the way: a row for each position."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hiwl_core.errors import UserError
from hiwl_core.stamps import StampSettings
from jobs.cli import main
from pipeline.catalog.verify import verify
from pipeline.classification.classify import classify
from pipeline.cutouts.cutout_plan import CutoutOptions
from pipeline.cutouts.cutouts import cutouts
from pipeline.cutouts.position_images import cut_rows
from pipeline.cutouts.position_shards import plan_positions
from pipeline.cutouts.positions import PositionColumns
from pipeline.cutouts.tile_headers import MASK_PLANES
from pipeline.ingestion.source import check_source
from pipeline.querying.sample import sample
from pipeline.shards.cutout_shards import Columns, list_shards
from pipeline.shards.shard_groups import ShardToRead
from pipeline.shards.wanted_scale import WantedScale
from pipeline.task_pool import thread_pool
from tests.sky_tiles import sky_wcs, source_image, write_tile

SHAPE, SIZE = (300, 300), 64
FIRST_ID = 9007199254740993
PLACES = [
    (150 + x / 3600, 2 + y / 3600) for x in (-54.5, -21.0, -1.0, 3.0, 24.0, 57.0) for y in (-20.0, 0.0, 20.0)
]
SCALES = (WantedScale(), WantedScale(0.25))


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiles that abut, one of them compressed, and positions, some of which nobody can cut."""
    folder = tmp_path_factory.mktemp("survey")
    random = np.random.default_rng(0)
    for number, shift in enumerate((-150, 150)):
        wcs = sky_wcs(150, 2, SHAPE, shift=shift)
        light = source_image(wcs, SHAPE, PLACES)
        for band, ending in zip("gri", ("fits", "fits.fz", "fits.gz"), strict=True):
            image = light + random.normal(0, 0.05, SHAPE).astype(np.float32)
            write_tile(folder / "tiles" / f"patch{number}_{band}.{ending}", wcs, image, ending == "fits.fz")
    lines = [f"{FIRST_ID + n},{ra!r},{dec!r},{n % 3}" for n, (ra, dec) in enumerate(PLACES)]
    lines += ["1,10.0,-70.0,5", "2,,,6"]
    (folder / "positions.csv").write_text("\n".join(["objectId,coord_ra,coord_dec,field", *lines, ""]))
    return folder


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    return rows


def rows_of(catalog: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(catalog.glob("*.parquet")) for row in read(path)]


@pytest.mark.parametrize("scale", SCALES, ids=["own", "resampled"])
def test_what_is_classified_is_what_cutouts_are(survey: Path, tmp_path: Path, scale: WantedScale) -> None:
    tiles, table = str(survey / "tiles"), str(survey / "positions.csv")
    settings = StampSettings(("i", "r", "g"), SIZE)
    columns = PositionColumns(scale=scale.column, carry=("field",))
    options = CutoutOptions(table, columns, settings, scale, MASK_PLANES)
    with thread_pool(1, "cutting") as pool:
        place = check_source(tiles, str(tmp_path / "catalog"))
        folder, cutting = plan_positions(
            str(tmp_path / "catalog"), place, options, lambda _: pool, lambda: None
        )
        cutouts(tiles, table, str(tmp_path / "out"), size=SIZE, scale=scale, bands=settings.bands, pool=pool)
    cut = []
    for shard in list_shards(folder):
        names = ["object_id", "ra", "dec"], ["field", "tile", "observed_share", "masked_share"]
        for rows, table_ in cut_rows(ShardToRead(shard, 0), Columns(), *names, cutting):
            assert rows.column_names == [*names[0], *names[1]]
            cut += table_.to_pylist()
    assert len(cut) == len(PLACES) + 2
    stored = {row["object_id"]: row for path in (tmp_path / "out").glob("*.parquet") for row in read(path)}
    assert {row["object_id"]: row["_status"] for row in cut if row["image"] is None} == {
        1: "off_footprint",
        2: "no_position",
    }
    for row in cut:
        if row["image"] is not None:
            same = ("image", "ra", "dec", "tile", "observed_share", "masked_share")
            assert [row[name] for name in same] == [stored[row["object_id"]][name] for name in same]
            assert row["field"] == (row["object_id"] - FIRST_ID) % 3
    assert len({row["tile"] for row in stored.values()}) == 2
    assert any(row["observed_share"] < 1 for row in stored.values())


@pytest.mark.slow
def test_a_row_for_each_position_and_no_cutout_on_the_way(
    ray_session: None, random_model: str, survey: Path, tmp_path: Path
) -> None:
    catalog = tmp_path / "catalog"
    command = ["classify", random_model, str(survey / "tiles"), str(catalog)]
    command += ["--positions", str(survey / "positions.csv"), "--scale", "0.25", "--carry", "field"]
    command += ["--workers", "1"]
    first = CliRunner().invoke(main, command)
    assert first.exit_code == 0, first.output
    assert "not classified, off_footprint: 1" in first.output
    before = pd.DataFrame(rows_of(catalog)).set_index("object_id").sort_index()
    assert before.index.tolist() == [1, 2, *(FIRST_ID + number for number in range(len(PLACES)))]
    assert before.loc[[1, 2], "status"].tolist() == ["off_footprint", "no_position"]
    assert before.loc[[1, 2], "field"].tolist() == [5, 6]
    # At the ends of the tiles a sixth of what is seen at this scale was not observed.
    assert before["status"].value_counts().to_dict() == {"ok": 12, "bad_pixels": 6} | dict.fromkeys(
        ("off_footprint", "no_position"), 1
    )
    kept = list((catalog / "_positions").glob("*.parquet"))
    assert not any("image" in pq.read_schema(path).names for path in kept)
    assert verify(str(catalog)).passed

    # Nothing is looked at, cut or classified again; `benchmarks/night.py` kills such runs.
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 0, again.output
    assert "3 parts were there already" in again.output
    shown = sample(str(catalog), str(tmp_path / "page.html"), count=50)
    assert (shown.shown, shown.without_image, shown.unread) == (len(PLACES) + 2, 2, [])
    # What is cut knows its scale.
    assert (tmp_path / "page.html").read_text().count('class="bar"') == len(PLACES)

    for more, words in (
        (["--scale", "0.3"], "--scale is not the same"),
        (["--update"], "leave the option out"),
    ):
        refused = CliRunner().invoke(main, [*command, *more])
        assert refused.exit_code == 2
        assert words in refused.output
    (lost,) = catalog.glob("stitched-*.parquet")
    lost.unlink()
    assert set(verify(str(catalog)).counts) == {"parts"}
    with pytest.raises(UserError, match="no .*parquet"):
        classify(random_model, *command[2:4])
    (survey / "positions.csv").write_text((survey / "positions.csv").read_text() + "3,150,2,1\n")
    changed = CliRunner().invoke(main, command)
    assert changed.exit_code == 2
    assert "have changed" in changed.output
