"""Galaxies that were given twice are told before a training, whatever they are called the second time."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.errors import UserError
from hiwl_core.recipe import load_recipe
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline.shards.cutout_shards import Columns, list_shards
from pipeline.training.labeled_shards import LabeledShards, check_labeled
from pipeline.training.leaks import check_apart, shared_galaxies
from pipeline.training.train import train
from tests.conftest import TINY
from tests.drawings import CLASSES, draw_galaxy, write_labeled_shard

IMAGES = [draw_galaxy("SPI", seed) for seed in range(8)]
RA = [10.0 + row for row in range(8)]


def shard(path: Path, ids: list[int], ra: list[float | None], images: list[bytes | None]) -> LabeledShards:
    rows = {
        "object_id": ids,
        "ra": ra,
        "dec": [-40.0] * len(ids),
        "image": images,
        "label": ["SPI"] * len(ids),
    }
    pq.write_table(pa.table(rows), path)
    return check_labeled(list_shards(str(path)), Columns(), GALAXY_ZOO)


def test_shared_ids_positions_and_images_are_counted(tmp_path: Path) -> None:
    first = shard(tmp_path / "a.parquet", list(range(6)), RA[:6], IMAGES[:6])
    # By id the first; by position the first two, a third of an arcsecond away; by image the last.
    near = [RA[0], RA[1] + 0.33 / 3600, RA[2] + 5 / 3600, None]
    second = shard(tmp_path / "b.parquet", [0, 101, 102, 103], near, [IMAGES[6], IMAGES[7], None, IMAGES[5]])
    assert shared_galaxies(first, second) == {"object id": 1, "position (1 arcsec)": 2, "image": 1}
    third = shard(tmp_path / "c.parquet", [200, 201], [50.0, 60.0], IMAGES[6:])
    assert shared_galaxies(first, third) == {}


def test_they_are_told_and_a_shard_that_was_given_twice_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = shard(tmp_path / "a.parquet", [1, 2], RA[:2], IMAGES[:2])
    second = shard(tmp_path / "b.parquet", [2, 3], RA[2:4], IMAGES[2:4])
    check_apart({"--data": first}, "--val", second)
    line = "warning: some of the 2 galaxies of --val are among those of --data too, 1 by object id: the model"
    assert line in capfd.readouterr().err
    check_apart({"--data": first}, "--val", shard(tmp_path / "c.parquet", [4], [70.0], IMAGES[4:5]))
    assert capfd.readouterr().err == ""

    copy = str(write_labeled_shard(tmp_path / "data" / "train.parquet", dict.fromkeys(CLASSES, 3)))
    again = tmp_path / "val.parquet"
    again.write_bytes(Path(copy).read_bytes())
    with pytest.raises(
        UserError, match=r"--val: .*val\.parquet is a shard of --data too \(.*train\.parquet\)"
    ):
        train(copy, str(again), load_recipe("demo", TINY), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
