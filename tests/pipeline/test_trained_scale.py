"""A scale in training: what the networks see is what they will see, and the bundle keeps the scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.bundle import bundle_files, load_bundle
from hiwl_core.cutouts import EvalTransform, read_cutout
from hiwl_core.decoding import Cutout
from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline.catalog.manifest import read_plan
from pipeline.classification.classify import classify
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale, kept_scale
from pipeline.training.checks import stage_preprocessing
from pipeline.training.cutout_store import load_cutouts
from pipeline.training.feed import StageFeed
from pipeline.training.labeled_shards import check_labeled
from tests.drawings import CLASSES, write_labeled_shard

RELATIVE = WantedScale(column="petroR90_r", factor=0.02)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings of 160 pixels, with a scale and a radius of each; of one the radius is not known."""
    path = write_labeled_shard(
        tmp_path_factory.mktemp("scale") / "zoo.parquet", dict.fromkeys(CLASSES, 4), size=160
    )
    table = pq.read_table(path)
    radii = pa.array([*np.linspace(15, 25, table.num_rows - 1), None], pa.float64())
    index = table.schema.get_field_index("pixel_scale")
    table = table.set_column(index, "pixel_scale", pa.array([0.3] * table.num_rows, pa.float32()))
    pq.write_table(table.append_column("petroR90_r", radii), path)
    return path


@pytest.mark.parametrize(("window_bytes", "here"), [(2**30, False), (1, False), (2**30, True)])
def test_a_feed_has_the_pixels_that_prediction_will_have(
    ray_session: None, shard: Path, tiny_recipe: Recipe, window_bytes: int, here: bool
) -> None:
    labeled = check_labeled([str(shard)], Columns(), GALAXY_ZOO, RELATIVE)
    store = load_cutouts(labeled, GALAXY_ZOO, smallest=72, window_bytes=window_bytes, here=here)
    assert store.here == here
    table = pq.read_table(shard)
    assert store.left_out == {"no_scale": 1}
    assert len(store) == table.num_rows - 1
    section = tiny_recipe.stage("stage1")
    feed = StageFeed(store, GALAXY_ZOO, "stage1", section, stage_preprocessing(section), seed=0)
    (batch,) = feed.eval_batches(0, 1)
    transform = EvalTransform(stage_preprocessing(section))
    for row, pixels in zip(store.rows, batch.pixels.numpy(), strict=True):
        one = {name: table[name][int(row)].as_py() for name in ("image", "pixel_scale", "petroR90_r")}
        cutout = Cutout(one["image"], one["pixel_scale"], 0.02 * one["petroR90_r"])
        status, expected = read_cutout(cutout, [transform], 64)[:2]
        assert status == "ok"
        np.testing.assert_array_equal(pixels, expected[0])
    drawn = list(feed.train_batches(1, 0, 1))
    assert sum(len(batch.targets) for batch in drawn) == feed.size


def test_a_model_is_shown_galaxies_at_the_scale_that_it_knows(
    ray_session: None, shard: Path, random_model: str, tmp_path: Path
) -> None:
    bundle = replace(load_bundle(random_model), scale=RELATIVE.to_dict())
    (tmp_path / "trained").mkdir()
    for file, content in bundle_files(bundle).items():
        (tmp_path / "trained" / file).write_bytes(content)
    assert load_bundle(tmp_path / "trained").scale == RELATIVE.to_dict()
    catalog = str(tmp_path / "catalog")
    summary = classify(str(tmp_path / "trained"), str(shard), catalog)
    # As if it had been asked for.
    assert WantedScale(**read_plan(catalog).settings["scale"]) == RELATIVE
    assert set(summary.statuses) == {"ok", "no_scale"}


def test_what_cannot_be_brought_to_the_scale_is_refused_in_one_line(
    shard: Path, random_model: str, tmp_path: Path
) -> None:
    table = pq.read_table(shard).drop_columns("petroR90_r")
    pq.write_table(table, tmp_path / "without.parquet")
    with pytest.raises(UserError, match="no column 'petroR90_r' .* see --scale-column"):
        check_labeled([str(tmp_path / "without.parquet")], Columns(), GALAXY_ZOO, RELATIVE)
    assert kept_scale(RELATIVE.to_dict(), WantedScale(0.4)) == WantedScale(0.4)
    assert kept_scale(RELATIVE.to_dict(), AS_IT_IS) == RELATIVE
    assert kept_scale(None, AS_IT_IS) == AS_IT_IS
