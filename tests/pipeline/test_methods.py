"""Each method trains each of its stages; a flat one goes the whole way, from shards to questions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from hiwl_core.bundle import load_bundle
from hiwl_core.decoding import DEFAULT_RGB
from hiwl_core.device import ComputePlan
from hiwl_core.errors import UserError
from hiwl_core.methods import METHODS, method_overrides
from hiwl_core.recipe import Recipe, load_recipe
from hiwl_core.recipe_text import available_recipes
from hiwl_core.taxonomy import GALAXY_ZOO
from jobs.cli import main
from pipeline.classification.estimate import estimate
from pipeline.shards.cutout_shards import Columns
from pipeline.training.checks import stage_preprocessing
from pipeline.training.cutout_blocks import LabeledSource
from pipeline.training.cutout_store import CutoutStore
from pipeline.training.epoch_plan import epoch_plan
from pipeline.training.stage_epochs import StageJob, stage_learner
from tests.conftest import TINY, TinyData
from tests.drawings import CLASSES

COMPUTE = ComputePlan(torch.device("cpu"), None, can_compile=False)
# What each method's stages are trained by: sampling, label smoothing, and its kind.
EXPECTED = {
    "hiwl": {"stage1": ("plain", 0.05, "uniform"), "stage2": ("weighted", 0.05, "uniform")},
    "slwslm": {"stage1": ("weighted", 0.05, "uniform")},
    "unweighted": {"stage1": ("plain", 0.05, "uniform"), "stage2": ("plain", 0.05, "uniform")},
    "hmws": {"stage1": ("plain", 0, "uniform"), "stage2": ("weighted", 0, "uniform")},
    "plain": {"stage1": ("plain", 0, "uniform")},
    "similarity": {"stage1": ("plain", 0.05, "similarity"), "stage2": ("weighted", 0.05, "similarity")},
    "online": {"stage1": ("plain", 0.05, "online"), "stage2": ("weighted", 0.05, "online")},
}


def recipe_of(method: str, *overrides: str, base: str = "demo") -> Recipe:
    return load_recipe(base, [*method_overrides(method), *overrides])


@pytest.mark.parametrize("base", available_recipes())
def test_each_method_is_its_switches_and_nothing_else(base: str) -> None:
    assert set(EXPECTED) == set(METHODS)
    assert recipe_of("hiwl", base=base) == load_recipe(base)
    for method, stages in EXPECTED.items():
        recipe = recipe_of(method, base=base)
        switches = {
            name: (stage.sampling, stage.label_smoothing, stage.smoothing)
            for name, stage in recipe.stages.items()
        }
        assert switches == stages
        same = ("epochs", "augmentation", "optimizer", "backbone", "batch_size", "init")
        assert all(
            getattr(stage, key) == getattr(load_recipe(base).stage(name), key)
            for name, stage in recipe.stages.items()
            for key in same
        )


def test_the_users_own_overrides_come_last_and_an_unknown_method_is_refused() -> None:
    recipe = recipe_of("online", "stage1.online_alpha=0.8", "stage2.smoothing=uniform")
    assert (recipe.stage1.online_alpha, recipe.stage2.smoothing) == (0.8, "uniform")
    with pytest.raises(UserError, match="no method 'sota': there are hiwl, slwslm, unweighted, hmws, plain"):
        method_overrides("sota")


@pytest.mark.parametrize(
    ("method", "stage"), [(method, stage) for method, stages in EXPECTED.items() for stage in stages]
)
def test_each_method_draws_and_trains_in_each_of_its_stages(method: str, stage: str) -> None:
    recipe = recipe_of(method, *TINY, "stage1.init=random", "stage2.init=random")
    own, classes = recipe.stage(stage), recipe.taxonomy.stage_classes(stage)
    truth = np.repeat(np.arange(5), [30, 30, 6, 24, 30])
    targets = recipe.taxonomy.stage_targets(stage, truth)
    targets = targets[targets >= 0]
    draws = np.concatenate(
        [targets[epoch_plan(targets, len(classes), own, 0, epoch, 0, 1).rows] for epoch in range(40)]
    )
    shares = np.bincount(draws) / len(draws)
    own_shares = np.bincount(targets) / len(targets)
    expected = np.full(len(classes), 1 / len(classes)) if own.sampling == "weighted" else own_shares
    np.testing.assert_allclose(shares, expected, atol=0.05)

    source = LabeledSource((), Columns(), np.zeros(1, np.int64))
    nothing = CutoutStore(source, truth.astype(np.int8), {}, DEFAULT_RGB, 1)
    job = StageJob(stage, recipe, stage_preprocessing(own), nothing, nothing, None, "", 0.5, None)
    learner = stage_learner(job, 2, COMPUTE, world_size=1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(255, (8, 32, 32, 3), generator=generator, dtype=torch.uint8)
    for _ in range(2):
        loss = learner.train_step(pixels, torch.arange(8) % len(classes), 8)
        assert 0 < float(loss) < 8 * 10
        learner.end_epoch()
    assert learner.logits(pixels).shape == (8, len(classes))


def test_a_flat_run_has_one_stage_and_a_row_a_candidate(flat_run: Path) -> None:
    names = {path.name for path in flat_run.iterdir()}
    assert names == {
        "run.json",
        "sources.json",
        "stage1",
        "stage1.json",
        "stage1_epochs.csv",
        "pairs.csv",
        "bundle",
    }
    pairs = pd.read_csv(flat_run / "pairs.csv")
    assert len(pairs) == 3
    assert pairs["accuracy"].is_monotonic_decreasing
    assert "stage2_epoch" not in pairs.columns
    bundle = load_bundle(flat_run / "bundle")
    assert (bundle.taxonomy, list(bundle.stages)) == (GALAXY_ZOO.flat(), ["stage1"])
    assert bundle.provenance["recipe"]["hierarchy"] is False
    assert bundle.metrics["validation"]["stage1_epoch"] == pairs["stage1_epoch"].iloc[0]


def test_a_flat_model_is_scored_and_its_catalog_is_like_any_other(
    flat_run: Path, tiny_data: TinyData, tmp_path: Path
) -> None:
    bundle, catalog = str(flat_run / "bundle"), str(tmp_path / "scores" / "catalog")
    shown = hiwl("evaluate", bundle, tiny_data.val, "--out", str(tmp_path / "scores"))
    # An only stage is the model: its figures are not shown twice.
    assert shown.count("with 95 % intervals") == 1
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    best = pd.read_csv(flat_run / "pairs.csv").iloc[0]
    assert scores["metrics"][-1]["value"] == pytest.approx(best["accuracy"], abs=1e-4)
    assert {row.pop("stage") for row in scores["stages"]} == {"stage1"}
    assert scores["stages"] == scores["metrics"]
    hiwl("verify", catalog)
    rows = pd.concat(map(pd.read_parquet, Path(catalog).glob("*.parquet")))
    columns = [f"p_{name.lower()}" for name in CLASSES]
    assert np.abs(rows[columns].astype("float64").sum(axis=1) - 1).max() < 1e-5
    assert (rows[columns].to_numpy().argmax(1) == [CLASSES.index(label) for label in rows["label"]]).all()
    assert rows["p_stage1_combined"].isna().all()
    assert not [name for name in rows.columns if name.startswith("p_stage2")]

    hiwl("publish", catalog, str(tmp_path / "published"))
    for place in (catalog, str(tmp_path / "published")):
        sql = "SELECT label, count(*) AS n, count(p_stage1_combined) AS c FROM catalog GROUP BY label"
        out = str(tmp_path / f"{Path(place).name}.csv")
        hiwl("query", place, sql, "--out", out)
        counts = pd.read_csv(out).set_index("label")
        assert counts["n"].to_dict() == rows["label"].value_counts().to_dict()
        assert (counts["c"] == 0).all()
    table = pq.read_table(next((tmp_path / "published").rglob("Npix=*.parquet")))
    assert table["p_stage1_combined"].null_count == len(table)
    assert estimate(bundle, tiny_data.val, sample=1, seconds=1).rows == len(rows)


def hiwl(*arguments: str) -> str:
    """What a verb prints."""
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return done.output
