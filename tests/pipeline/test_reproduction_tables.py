"""The grid of trainings, and the tables from scores that are known: nothing is trained here."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from hiwl_core.backbones import spec
from hiwl_core.errors import UserError
from hiwl_core.methods import METHODS, method_name
from hiwl_core.published_results import TABLE_7, TABLE_8
from hiwl_core.recipe import load_recipe
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline.reproduction.experiments import EXPERIMENTS, Request, choose_experiments
from pipeline.reproduction.grid import backbone_overrides, grid_runs
from pipeline.reproduction.reproduce_options import AS_THE_RECIPE_SAYS, ReproduceOptions
from pipeline.reproduction.scores import RunScores, ScoredPart, same_galaxies
from pipeline.reproduction.tables import TABLES

TRUTH = np.repeat(np.arange(5), [40, 40, 10, 20, 40])


def scores(wrong: dict[int, int], ids: np.ndarray | None = None) -> RunScores:
    """A run that is right but at some places, where it says another class."""
    predicted = TRUTH.copy()
    for place, other in wrong.items():
        predicted[place] = other
    return RunScores(np.arange(len(TRUTH)).astype(str) if ids is None else ids, TRUTH, predicted, 5)


def test_table_7_is_ten_backbones_plain_and_in_hiwl() -> None:
    runs = grid_runs([EXPERIMENTS["table7"]], "paper", ReproduceOptions(seeds=[0, 1]))
    assert len(runs) == 2 * 10 * 2
    assert {run.backbone for run in runs} == set(TABLE_7)
    assert len({run.name for run in runs}) == len(runs)
    # A stopped grid has whole seeds.
    assert [run.seed for run in runs] == [0] * 20 + [1] * 20
    for run in runs:
        recipe = run.recipe
        assert (recipe.seed, recipe.hierarchy) == (run.seed, run.method == "hiwl")
        assert {stage.backbone for stage in recipe.stages.values()} == {run.backbone}
        # At the paper's scale each network sees the size of its weights.
        assert recipe.stage1.input_size == spec(run.backbone).input_size
        assert (recipe.stage1.init == "imagenet") == spec(run.backbone).on_imagenet


def test_runs_differ_in_nothing_but_what_they_are_named_after() -> None:
    runs = grid_runs([EXPERIMENTS["table7"]], "paper", ReproduceOptions(overrides=["stage1.epochs=5"]))
    first = runs[0].recipe.to_dict()["stage1"]
    for run in runs[1:]:
        other = run.recipe.to_dict()["stage1"]
        changed = {key for key in first if first[key] != other[key]}
        assert changed <= {"backbone", "input_size", "init", "label_smoothing"}


def test_a_recipe_that_shrinks_images_shrinks_them_for_all_backbones() -> None:
    base = load_recipe("trial")
    assert base.stage1.input_size / spec("efficientnet_lite0").input_size == 96 / 224
    sizes = {}
    for name in TABLE_7:
        recipe = load_recipe("trial", backbone_overrides(base, name))
        sizes[name] = recipe.stage1.input_size
        assert recipe.stage2 is not None
        assert recipe.stage2.input_size == recipe.stage1.input_size
    assert sizes == {
        "dieleman": 45,
        "resnet26": 64,
        "vgg16": 96,
        "googlenet": 96,
        "resnet34": 96,
        "resnet50": 96,
        "efficientnet_b0": 96,
        "efficientnet_b1": 96,
        "efficientnet_b2": 112,
        "vit_b_16": 96,
    }
    assert backbone_overrides(base, "efficientnet_lite0") == []


def test_what_experiments_share_is_trained_once() -> None:
    chosen = choose_experiments(["table4", "table3", "figure5", "figure7", "table4"])
    runs = grid_runs(chosen.values(), "small", ReproduceOptions(seeds=[0, 1]))
    # Figures show one seed.
    assert [(run.method, run.seed) for run in runs] == [("hiwl", 0), ("plain", 0), ("hiwl", 1)]
    assert {run.method for run in grid_runs([EXPERIMENTS["methods"]], "small")} == set(METHODS)
    everything = grid_runs(choose_experiments(["all"]).values(), "small")
    # Of the two networks of Tables 9 to 11 one is in Table 7.
    assert len(everything) == len(METHODS) + 2 * len(TABLE_7) + 1


def test_tables_9_to_11_are_of_the_validation_galaxies() -> None:
    val, test = (ScoredPart(name, (), frozenset(), on_test=name == "test") for name in ("val", "test"))
    request = Request(load_recipe("trial"), AS_THE_RECIPE_SAYS, (), val, test, "out")
    of = {name: request.scored(experiment).name for name, experiment in EXPERIMENTS.items()}
    assert {name for name, part in of.items() if part == "validation"} == {"table9", "table10", "table11"}
    assert replace(request, test=None).scored(EXPERIMENTS["table4"]) == val


def test_backbones_that_are_asked_for_stand_in_the_place_of_the_others() -> None:
    asked = ["vgg16", "timm:test_vit"]
    names = {
        name: {run.name for run in grid_runs([EXPERIMENTS[name]], "trial", ReproduceOptions(backbones=asked))}
        for name in EXPERIMENTS
    }
    both = {
        f"{backbone}-{method}-seed0"
        for backbone in ("vgg16", "timm_test_vit")
        for method in ("plain", "hiwl")
    }
    assert names["table7"] == names["figure7"] == both
    assert names["earlier_networks"] == {name for name in both if "hiwl" in name} | {
        "dieleman-plain-seed0",
        "resnet26-plain-seed0",
    }


@pytest.mark.parametrize("recipe", ["paper", "cpu", "demo", "small", "trial"])
def test_each_training_is_of_the_method_that_it_is_called(recipe: str) -> None:
    for run in grid_runs(
        [EXPERIMENTS["methods"]], recipe, ReproduceOptions(overrides=["stage1.label_smoothing=0.2"])
    ):
        assert method_name(run.recipe) == run.method


@pytest.mark.parametrize(
    ("change", "called", "would_be"),
    [
        ("hierarchy=false", "hiwl", "none of the methods"),
        ("stage2.sampling=plain", "hiwl", "'unweighted'"),
        ("stage2.smoothing=online", "hiwl", "none of the methods"),
    ],
)
def test_a_recipe_that_makes_a_method_another_one_is_refused(change: str, called: str, would_be: str) -> None:
    with pytest.raises(UserError, match=f"its training '{called}' would be {would_be}; leave"):
        grid_runs([EXPERIMENTS["table4"]], "trial", ReproduceOptions(overrides=[change]))


def test_wrong_requests_are_one_line() -> None:
    with pytest.raises(UserError, match=r"by the name 'table12': there are table3, .*, figure7, all"):
        choose_experiments(["table3", "table12"])
    with pytest.raises(UserError, match="no backbone 'vgg'"):
        grid_runs([EXPERIMENTS["table7"]], "small", ReproduceOptions(backbones=["vgg"]))
    with pytest.raises(UserError, match="--set seed=7: the trainings' seeds are those of --seeds"):
        grid_runs([EXPERIMENTS["table4"]], "small", ReproduceOptions(overrides=["seed=7"]))
    with pytest.raises(UserError, match="--seeds 1,1: give different numbers"):
        grid_runs([EXPERIMENTS["table4"]], "small", ReproduceOptions(seeds=[1, 1]))


def test_table_7_sets_ours_beside_the_papers() -> None:
    # Of 150 galaxies the plain network has 30 wrong, HIWL 6 of the same; for the other backbone none differs.
    plain, hiwl = (scores(dict.fromkeys(range(count), 1)) for count in (30, 6))
    of_runs = {
        ("vgg16", "plain"): [plain],
        ("vgg16", "hiwl"): [hiwl],
        ("timm:vit_tiny", "plain"): [plain],
        ("timm:vit_tiny", "hiwl"): [plain],
    }
    made = TABLES["backbones"](of_runs, GALAXY_ZOO)
    vgg, tiny = made.numbers.to_dict("records")
    assert (vgg["plain_value"], vgg["hiwl_value"]) == pytest.approx((120 / 150, 144 / 150))
    assert vgg["difference_value"] == pytest.approx(24 / 150)
    assert (vgg["only_first_right"], vgg["only_second_right"]) == ("24", "0")
    assert vgg["p_value"] == pytest.approx(2 * 0.5**24)
    assert vgg["p_value_holm"] == pytest.approx(4 * 0.5**24)
    assert (vgg["significant"], tiny["significant"]) == (True, False)
    assert (vgg["paper_plain"], vgg["paper_hiwl"]) == (0.9431, 0.9469)
    assert math.isnan(tiny["paper_plain"])
    assert made.shown["paper: hiwl"].tolist() == ["0.9469", ""]
    assert made.shown["hiwl − plain, points"].tolist() == ["+16.00", "+0.00"]
    assert any("vgg16: hiwl against plain: +16.00 points" in s and "significant" in s for s in made.sentences)


def test_an_ablation_compares_each_method_with_the_first_over_all_seeds() -> None:
    hiwl = [scores({}), scores({0: 1}), scores({1: 2})]
    # Worse in each seed, by much the same: 12, 13 and 14 of the 150.
    slwslm = [scores(dict.fromkeys(range(100, 112 + seed), 0)) for seed in range(3)]
    made = TABLES["ablation"]({("b1", "hiwl"): hiwl, ("b1", "slwslm"): slwslm}, GALAXY_ZOO)
    first, second = made.numbers.to_dict("records")
    assert first["accuracy_all"] == pytest.approx(1 - (0 + 1 + 1) / 3 / 150)
    assert second["difference_value"] == pytest.approx((2 - 12 - 13 - 14) / 3 / 150)
    assert second["difference_high"] < 0
    assert second["significant"]
    assert (first["paper_accuracy"], second["paper_accuracy"]) == (0.9632, 0.9590)
    assert len(second["mcnemar_p_of_seeds"].split()) == 3
    assert made.shown["accuracy to hiwl, points"][0] == ""
    assert "[" in made.shown["accuracy"][0]
    # Half of the edge-on ones are lost, and some of the spirals.
    assert second["mean_recall_difference_value"] < -0.05
    assert second["mean_recall_difference_high"] < 0
    assert made.sentences[0].startswith("slwslm against hiwl: −8.")
    assert "p 0.00024, significant; −11.17" in made.sentences[0]
    assert second["mean_recall_p_value"] < 0.001
    assert made.sentences[0].endswith(", significant.")


def test_seeds_alone_do_not_make_a_mean_recall_significant() -> None:
    # Each seed finds the same two of ten more: certain before other seeds, not before other galaxies.
    hiwl, other = [scores({82: 3})] * 3, [scores({80: 3, 81: 3, 82: 3})] * 3
    made = TABLES["ablation"]({("b1", "hiwl"): hiwl, ("b1", "hmws"): other}, GALAXY_ZOO)
    row = made.numbers.to_dict("records")[1]
    assert row["mean_recall_difference_high"] < 0
    assert row["mean_recall_p_value"] == pytest.approx(0.5)
    assert not row["mean_recall_significant"]


def test_each_backbone_stands_beside_its_own_figures_of_the_paper() -> None:
    for backbone, of, expected in (
        ("vgg16", "vgg16", [0.9469, 0.9431]),
        ("efficientnet_b1", "efficientnet_b1", [0.9632, 0.9542]),
        ("timm:vit_tiny", "efficientnet_b1", [0.9632, 0.9542]),
    ):
        runs = {(backbone, method): [scores({})] for method in ("hiwl", "plain")}
        made = TABLES["ablation"](runs, GALAXY_ZOO)
        assert made.numbers["paper_accuracy"].tolist() == expected
        assert f"paper ({of}): accuracy" in made.shown
    only = {("vgg16", "hiwl"): [scores({})]}
    paper = TABLES["classes"](only, GALAXY_ZOO).numbers.set_index(["class", "metric"])["paper"].dropna()
    assert paper.to_dict() == {("all", "accuracy"): 0.9469}


def test_intervals_end_where_shares_do_and_a_class_never_predicted_has_precision_0() -> None:
    # The first seed finds no cigar at all, the second all of them.
    none = scores(dict.fromkeys(range(80, 90), 3))
    figures = TABLES["classes"]({("b1", "hiwl"): [none, scores({})]}, GALAXY_ZOO).numbers
    of_cigars = figures.set_index(["class", "metric"]).loc["CSS"]
    assert of_cigars.loc["precision", ["value", "low", "high"]].tolist() == [0.5, 0.0, 1.0]
    assert of_cigars.loc["recall", ["value", "low", "high"]].tolist() == [0.5, 0.0, 1.0]


def test_tables_by_class() -> None:
    runs = {("b1", "hiwl"): [scores({80: 3, 90: 2}), scores({81: 3})]}
    matrix = TABLES["confusion"](runs, GALAXY_ZOO)
    assert matrix.numbers.set_index("true \\ predicted").loc["CSS"].tolist() == [
        0,
        0,
        9,
        1,
        0,
        0,
        6,
        41,
        11,
        0,
    ]
    figures = TABLES["classes"](runs, GALAXY_ZOO).numbers.set_index(["class", "metric"])
    assert figures.loc[("CSS", "recall"), "value"] == pytest.approx(0.9)
    assert figures.loc[("CSS", "recall"), "paper"] == 0.7069
    assert figures.loc[("EO", "recall"), "value"] == pytest.approx((19 / 20 + 1) / 2)
    # One seed has the interval of the galaxies, two that of the seeds.
    assert figures.loc[("EO", "recall"), "low"] == pytest.approx(0.975 - 12.706 * 0.025, abs=1e-4)
    assert figures.loc[("EO", "recall"), "high"] == 1
    alone = TABLES["classes"]({("b1", "hiwl"): runs["b1", "hiwl"][:1]}, GALAXY_ZOO).numbers
    low = alone.set_index(["class", "metric"]).loc[("EO", "recall"), "low"]
    assert low == pytest.approx(0.7639, abs=1e-4)  # Wilson, 19 of 20

    beside = runs | {("dieleman", "plain"): [scores({80: 3}), scores({80: 3})]}
    made = TABLES["recall"](beside, GALAXY_ZOO)
    assert made.numbers.set_index("backbone").loc["dieleman", "CSS"] == pytest.approx(0.9)
    assert "SC-Net is not built here" in made.sentences[1]
    all_three = TABLES["by_class"](beside, GALAXY_ZOO).numbers
    assert all_three["figure"].tolist() == ["recall", "precision", "f1"] * 2
    assert all_three["EO"][4] == pytest.approx(20 / 21)


def test_table_5_is_slwslm_by_class_beside_hiwl_and_the_papers() -> None:
    runs = {
        ("efficientnet_b1", "slwslm"): [scores({80: 3, 90: 2})],
        ("efficientnet_b1", "hiwl"): [scores({})],
    }
    made = TABLES["classes"](runs, GALAXY_ZOO)
    figures = made.numbers.set_index(["method", "class", "metric"])
    assert figures.loc[("slwslm", "CSS", "recall"), ["value", "paper"]].tolist() == pytest.approx(
        [0.9, 0.6207]
    )
    assert figures.loc[("hiwl", "CSS", "recall"), ["value", "paper"]].tolist() == [1, 0.7069]
    row = made.shown.set_index(["class", "figure"]).loc[("CSS", "recall")]
    assert row["slwslm, paper (efficientnet_b1)"] == "0.6207"
    assert row["hiwl, ours"].startswith("1.0000 [")
    assert made.sentences[0].startswith(
        "slwslm against hiwl: −1.33 points of accuracy, p 0.5, not significant"
    )


def test_table_8_sets_ours_below_the_literature() -> None:
    made = TABLES["literature"]({("vgg16", "hiwl"): [scores({80: 3})]}, GALAXY_ZOO)
    *papers, ours = made.numbers.to_dict("records")
    assert papers == [asdict(work) for work in TABLE_8]
    assert (ours["network"], ours["classes"], ours["sample"]) == ("vgg16, hiwl", 5, "150 galaxies")
    assert ours["accuracy"] == pytest.approx(149 / 150)


def test_runs_on_different_galaxies_are_not_compared() -> None:
    other = np.arange(1, len(TRUTH) + 1).astype(str)
    with pytest.raises(UserError, match="scored on different galaxies"):
        same_galaxies([scores({}), scores({}, other)])
    relabeled = replace(scores({}), truth=(TRUTH + 1) % 5)
    with pytest.raises(UserError, match="scored on different galaxies"):
        same_galaxies([scores({}), relabeled])
