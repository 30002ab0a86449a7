"""A model with a tree of three stages, from its bundle to what is asked of its catalog."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save

from hiwl_core.backbones import create_backbone
from hiwl_core.bundle import load_bundle
from hiwl_core.inference import CascadeClassifier
from hiwl_core.recipe import load_recipe
from hiwl_core.taxonomy import Group, Taxonomy
from hiwl_core.taxonomy_file import taxonomy_overrides
from hiwl_core.training_recipe import training_recipe
from jobs.cli import main
from pipeline.catalog.verify import verify
from pipeline.reporting.facts import stage_settings
from pipeline.storage import write_bytes
from pipeline.training import pairs
from pipeline.training.checks import plan_training
from pipeline.training.pairs import StageCandidates
from pipeline.training.run_folder import Candidate
from pipeline.training.train import run_training
from tests.bundles import calibrated_bundle, random_bundle
from tests.conftest import TINY, TinyData
from tests.drawings import CLASSES, draw_galaxy, write_labeled_shard

TREE = Taxonomy("tree", CLASSES, (Group("elongated", ("IBS", "thin")), Group("thin", ("CSS", "EO"))))
FILE = """
name = "tree"
classes = ["CRS", "IBS", "CSS", "EO", "SPI"]

[[groups]]
name = "elongated"
members = ["IBS", "thin"]

[[groups]]
name = "thin"
members = ["CSS", "EO"]
"""
IMAGES = [draw_galaxy(label, seed) for label in CLASSES for seed in range(24)]


def run(*arguments: object) -> Result:
    answer = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert answer.exit_code == 0, answer.output
    return answer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tree")
    return calibrated_bundle(folder / "fitted", random_bundle(folder / "random", taxonomy=TREE))


def test_stages_see_what_is_sent_down_to_them(model: str) -> None:
    bundle = load_bundle(model)
    assert bundle.taxonomy == TREE
    assert list(bundle.member_frequencies) == ["stage2", "stage3"]
    assert list(bundle.fitted.margins) == list(TREE.stages)
    _, routed = CascadeClassifier(bundle, views=1).classify(IMAGES)
    _, always = CascadeClassifier(bundle, views=1, always_stage2=True).classify(IMAGES)
    labels = np.array(CLASSES)[routed.class_indices]
    seen = {stage: np.isfinite(said).all(axis=1) for stage, said in routed.stages.items()}
    assert seen["stage1"].all()
    np.testing.assert_array_equal(seen["stage2"], np.isin(labels, ["IBS", "CSS", "EO"]))
    np.testing.assert_array_equal(seen["stage3"], np.isin(labels, ["CSS", "EO"]))
    assert 0 < seen["stage3"].sum() < seen["stage2"].sum() < len(IMAGES)
    np.testing.assert_array_equal(always.class_indices, routed.class_indices)
    for stage, rows in seen.items():
        assert np.isfinite(always.stages[stage]).all()
        np.testing.assert_allclose(routed.stages[stage][rows], always.stages[stage][rows], atol=1e-6)


@pytest.mark.slow
def test_all_combinations_of_the_stages_checkpoints_are_scored(
    ray_session: None, tiny_data: TinyData, tmp_path: Path
) -> None:
    """From the marks of stages that are trained, as a run has them that was killed after the last."""
    own = tmp_path / "tree.toml"
    own.write_text(FILE)
    recipe = training_recipe("demo", str(own), overrides=TINY)
    assert recipe.taxonomy == TREE
    plan = plan_training(tiny_data.train, tiny_data.val, recipe, str(tmp_path / "run"))
    plan.folder.claim(plan.description, plan.sources)
    for stage, count in zip(TREE.stages, (2, 1, 2), strict=True):
        candidates = [
            Candidate(epoch, 0.5, f"{plan.folder.path}/{stage}/epoch_{epoch}") for epoch in range(count)
        ]
        for one in candidates:
            torch.manual_seed(one.epoch)
            network = create_backbone(recipe.stage(stage).backbone, len(TREE.stage_classes(stage)))
            write_bytes(f"{one.path}/weights.safetensors", save(network.state_dict()))
        plan.folder.finish_stage(stage, candidates)
    table = run_training(plan).pairs
    assert table is not None
    chosen = table[[f"{stage}_epoch" for stage in TREE.stages]]
    assert sorted(map(tuple, chosen.to_numpy().tolist())) == sorted(product(range(2), range(1), range(2)))
    assert table["accuracy"].is_monotonic_decreasing
    bundle = load_bundle(plan.folder.bundle)
    assert bundle.taxonomy == TREE
    # Of 36 CRS, 36 IBS, 12 CSS, 24 EO and 32 SPI.
    assert bundle.member_frequencies["stage2"] == pytest.approx([1 / 2, 1 / 2])
    assert bundle.member_frequencies["stage3"] == pytest.approx([1 / 3, 2 / 3])


def test_of_very_many_combinations_each_stage_is_chosen_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("demo", taxonomy_overrides(TREE))
    truth = np.arange(200) % len(CLASSES)
    rng = np.random.default_rng(1)
    found = {}
    for stage in TREE.stages:
        said = rng.dirichlet(np.ones(len(TREE.stage_classes(stage))), (200, 3))
        # The last candidate of each stage is right.
        targets = TREE.stage_targets(stage, truth)
        said[targets >= 0, 2] = 0.01 + np.eye(said.shape[2])[targets[targets >= 0]]
        found[stage] = said / said.sum(axis=2, keepdims=True)
    candidates = StageCandidates("", None, [Candidate(epoch, 0.5, "") for epoch in range(3)])  # type: ignore[arg-type]
    stages = dict.fromkeys(TREE.stages, candidates)
    counts = dict.fromkeys(CLASSES, 40)
    given = (recipe, stages, truth, found, TREE.member_frequencies(counts), counts)
    whole = pairs._table(*given)
    monkeypatch.setattr(pairs, "MOST_COMBINATIONS", 10)
    in_turn = pairs._table(*given)
    assert (len(whole), len(in_turn)) == (27, 7)
    pd.testing.assert_series_equal(in_turn.iloc[0], whole.iloc[0])
    assert in_turn.iloc[0]["accuracy"] == 1
    assert in_turn[[f"{stage}_epoch" for stage in TREE.stages]].iloc[0].tolist() == [2, 2, 2]


def test_what_differs_between_any_two_stages_is_said_of_each() -> None:
    settings = stage_settings(load_recipe("demo", taxonomy_overrides(TREE)))
    assert settings["Sampling"] == ["plain", "weighted", "weighted"]
    assert settings["Backbone"] == ["efficientnet_lite0"]


def test_from_a_catalog_to_its_scores_and_fractions(model: str, tmp_path: Path) -> None:
    sky, catalog = tmp_path / "sky", tmp_path / "catalog"
    write_labeled_shard(sky / "one.parquet", dict.fromkeys(CLASSES, 40))
    run("classify", model, sky, catalog)
    assert verify(str(catalog)).passed
    rows = pd.read_parquet(catalog / "one.parquet")
    own = [name for name in rows if name.startswith("p_stage")]
    # Of the groups of stage 1; of the others all classes but the last.
    assert own == ["p_stage1_elongated", "p_stage2_ibs", "p_stage3_css"]
    assert (rows["p_stage2_ibs"].notna() == rows["label"].isin(["IBS", "CSS", "EO"])).all()
    assert (rows["p_stage3_css"].notna() == rows["label"].isin(["CSS", "EO"])).all()
    assert rows[[f"p_{name.lower()}" for name in CLASSES]].sum(axis=1).to_numpy() == pytest.approx(1)

    scores = tmp_path / "scores"
    said = run("evaluate", model, sky, "--out", scores).stdout
    assert "Stage 2 alone, on the galaxies that were routed right" in said
    stages = pd.read_csv(scores / "stages.csv")
    assert set(stages.loc[stages["stage"] == "stage1", "class"]) >= {"CRS", "SPI", "elongated"}
    assert set(stages.loc[stages["stage"] == "stage2", "class"]) >= {"IBS", "thin"}
    page = (scores / "evaluation.html").read_text()
    assert "stage 3 did not run" in page
    shares = run("fractions", catalog).stdout
    assert all(name in shares for name in CLASSES)
    best = run("query", catalog, "SELECT label, count(p_stage3_css) AS n FROM catalog GROUP BY label").stdout
    assert "EO" in best
