import re
from pathlib import Path

import pytest

from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe, load_recipe
from hiwl_core.recipe_text import available_recipes
from hiwl_core.taxonomy import GALAXY_ZOO


def test_the_paper_to_the_letter() -> None:
    recipe = load_recipe("paper")
    for stage in (recipe.stage1, recipe.stage2):
        assert (stage.backbone, stage.input_size, stage.center_crop) == ("efficientnet_b1", 240, 240)
        assert (stage.mean, stage.std) == ((0.046, 0.041, 0.030), (0.090, 0.075, 0.065))
        assert (stage.batch_size, stage.label_smoothing, stage.ema_memory) == (24, 0.05, 0)
        optimizer = stage.optimizer
        assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (
            "sgd",
            0.005,
            0.9,
            1e-4,
        )
        assert (optimizer.schedule, optimizer.t_max) == ("cosine", 150)
        assert (stage.augmentation.center_crop, stage.augmentation.rotation) == (256, 25)
        assert stage.augmentation.scale == (0.9, 1.0)
        assert (stage.augmentation.horizontal_flip, stage.augmentation.vertical_flip) == (0.5, 0.5)
    assert (recipe.stage1.epochs, recipe.stage2.epochs) == (123, 96)
    assert (recipe.stage1.sampling, recipe.stage2.sampling) == ("plain", "weighted")
    assert recipe.views == 1
    assert recipe.taxonomy == GALAXY_ZOO


@pytest.mark.parametrize("name", available_recipes())
def test_every_recipe_is_valid_and_names_itself(name: str) -> None:
    assert load_recipe(name).name == name


def test_stage2_inherits_what_it_does_not_set() -> None:
    recipe = load_recipe("cpu")
    assert recipe.stage2.backbone == recipe.stage1.backbone
    assert recipe.stage2.augmentation == recipe.stage1.augmentation
    assert recipe.stage2.optimizer.name == recipe.stage1.optimizer.name
    assert recipe.stage2.optimizer.lr != recipe.stage1.optimizer.lr


def test_overrides_change_what_they_name_and_nothing_else() -> None:
    recipe = load_recipe(
        "demo", ["stage1.epochs=9", "stage1.optimizer.lr=2e-3", "stage2.init=imagenet", "seed=4"]
    )
    plain = load_recipe("demo")
    assert (recipe.stage1.epochs, recipe.stage1.optimizer.lr) == (9, 2e-3)
    assert (recipe.stage2.init, recipe.seed) == ("imagenet", 4)
    assert recipe.stage2.epochs == plain.stage2.epochs
    assert recipe.stage2.optimizer == plain.stage2.optimizer


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stage1.epocs=3", "unknown key 'stage1.epocs'; keys there: backbone"),
        ("stage1.optimizer.rate=3", "unknown key 'stage1.optimizer.rate'; keys there: name, lr"),
        ("learning=3", "unknown key 'learning'; keys there: name"),
        ("stage1.epochs=0", "stage1.epochs: .*greater than 0, not 0"),
        ("stage1.epochs=many", "stage1.epochs: .*integer.*not 'many'"),
        ("stage1.sampling=heavy", "stage1.sampling: .*'plain' or 'weighted', not 'heavy'"),
        ("stage1.label_smoothing=1.0", "stage1.label_smoothing: .*less than 1"),
        ("stage2.smoothing=soft", "stage2.smoothing: .*'uniform', 'similarity' or 'online', not 'soft'"),
        ("stage1.similarity_beta=-1", "stage1.similarity_beta: .*greater than or equal to 0, not -1"),
        ("stage1.online_alpha=1.5", "stage1.online_alpha: .*less than or equal to 1, not 1.5"),
        ("distances.CRS.IBS=-1", "distances.CRS.IBS: .*greater than or equal to 0, not -1"),
        ("distances.CRS.BAR=1", "distances.CRS.BAR: 'BAR' is not a class, taxonomy 'galaxy-zoo' has CRS"),
        ("hierarchy=maybe", "hierarchy: .*boolean.*not 'maybe'"),
        ("stage1.init=stage1", "is for later stages"),
        ("stage2.backbone=efficientnet_b0", "needs the backbone of stage 1"),
        ("stage1.optimizer.schedule=cosine", "optimizer.t_max: the cosine schedule needs it"),
        ("stage1.augmentation.scale=[1.0, 0.5]", "scale must be two numbers"),
        ("views=3", "views: "),
        ("stage1.epochs", "write section.key=value"),
        ("stage1.epochs.more=1", "'epochs' is not a section"),
    ],
)
def test_a_bad_value_is_one_line_with_its_place(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_recipe("demo", [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(UserError, match="no recipe 'papr': there are cpu, demo, galaxyzoo, paper"):
        load_recipe("papr")


BARS = """
[taxonomy]
name = "bars"
classes = ["bar", "ring", "none"]
"""
STRUCTURE = """
combined = ["bar", "ring"]
combined_name = "structure"
"""


def write_recipe(folder: Path, sections: str) -> str:
    """The demo recipe with further sections, as a file."""
    path = folder / "bars.toml"
    path.write_text(Path("hiwl_core/recipes/demo.toml").read_text() + sections)
    return str(path)


def test_a_file_with_a_taxonomy_of_its_own(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, BARS + STRUCTURE))
    assert recipe.taxonomy.stage_classes("stage1") == ("none", "structure")


GROUPS = """
[[taxonomy.groups]]
name = "structure"
members = ["bar", "rings"]

[[taxonomy.groups]]
name = "rings"
members = ["ring", "double ring"]

[stage3.optimizer]
lr = 5e-5
"""


def test_stages_of_further_groups_inherit_from_stage_2_and_are_changed_alone_or_together(
    tmp_path: Path,
) -> None:
    path = write_recipe(tmp_path, BARS.replace('"ring"', '"ring", "double ring"') + GROUPS)
    recipe = load_recipe(path, ["stage2.epochs=7", "stage3.batch_size=9", "later.patience=3"])
    assert list(recipe.stages) == list(recipe.taxonomy.stages) == ["stage1", "stage2", "stage3"]
    second, third = recipe.stage("stage2"), recipe.stage("stage3")
    assert (second.patience, third.patience, recipe.stage1.patience) == (3, 3, 0)
    assert (second.epochs, third.epochs) == (7, load_recipe("demo").stage2.epochs)
    assert (third.batch_size, third.optimizer.lr, third.sampling) == (9, 5e-5, "weighted")
    assert third.optimizer.name == second.optimizer.name
    # Written as it is read.
    assert Recipe.model_validate(recipe.to_dict()) == recipe
    assert list(load_recipe(path, ["hierarchy=false"]).stages) == ["stage1"]
    with pytest.raises(UserError, match=r"unknown key 'stage3\.epocs'.* did you mean 'epochs'\?"):
        load_recipe(path, ["stage3.epocs=9"])
    with pytest.raises(UserError, match="stage4: the stages of its taxonomy are stage1, stage2, stage3"):
        load_recipe(path, ["stage4.epochs=9"])


def test_without_hierarchy_there_is_no_stage_2_whatever_is_said_of_it(tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["hierarchy=false", "stage2.epochs=9", "stage1.backbone=efficientnet_b0"])
    assert recipe.taxonomy == GALAXY_ZOO.flat()
    assert list(recipe.stages) == ["stage1"]
    assert recipe.to_dict()["stage2"] is None
    with pytest.raises(UserError, match=r"unknown key 'stage2\.epocs'"):
        load_recipe("demo", ["hierarchy=false", "stage2.epocs=9"])
    text = Path("hiwl_core/recipes/demo.toml").read_text()
    (tmp_path / "flat.toml").write_text("hierarchy = false\n" + text[: text.index("[stage2]")])
    assert load_recipe(str(tmp_path / "flat.toml")).stage1 == load_recipe("demo").stage1


def test_a_taxonomy_without_a_combined_class_is_for_recipes_without_hierarchy(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, BARS)
    with pytest.raises(UserError, match=r"'bars' has no combined class: .* set hierarchy = false"):
        load_recipe(path)
    assert load_recipe(path, ["hierarchy=false"]).taxonomy.stage_classes("stage1") == ("bar", "ring", "none")


def test_similarity_needs_the_distances_of_the_classes_it_tells_apart(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, BARS + STRUCTURE)
    with pytest.raises(
        UserError, match=r"no distance between bar and none, which .* stage1 needs: set distances\.bar\.none"
    ):
        load_recipe(path, ["stage1.smoothing=similarity"])
    recipe = load_recipe(
        path, ["stage1.smoothing=similarity", "distances.bar.none=1", "distances.none.ring=3"]
    )
    assert recipe.stage_distances("stage1").tolist() == [[0, 2], [2, 0]]
    assert recipe.stage_distances("stage2") is None


@pytest.mark.parametrize("overrides", [[], ["hierarchy=false"], ["distances.CSS.EO=0.2"]])
def test_a_recipe_comes_back_from_the_data_of_a_bundle(overrides: list[str]) -> None:
    recipe = load_recipe("demo", overrides)
    assert Recipe.model_validate(recipe.to_dict()) == recipe


def test_a_file_that_is_not_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("[stage1\n")
    with pytest.raises(UserError, match=r"broken\.toml' is not TOML"):
        load_recipe(str(tmp_path / "broken.toml"))


def test_the_colors_of_fits_cutouts() -> None:
    recipe = load_recipe("demo", ['rgb.bands=["z", "r", "g"]', "rgb.q=3"])
    assert recipe.rgb.bands == ("z", "r", "g")
    assert (recipe.rgb.q, recipe.rgb.stretch) == (3, 5)
    for override, words in [
        ("rgb.stretch=0", "rgb.stretch: Input should be greater than 0"),
        ("rgb.minimum=nan", "stretch, q and minimum must be finite"),
        ('rgb.bands=["g", "r"]', "rgb.bands.2"),
        ("rgb.asinh=1", "unknown key 'rgb.asinh'; keys there: bands, stretch, q, minimum"),
    ]:
        with pytest.raises(UserError, match=re.escape(words)):
            load_recipe("demo", [override])


def test_sizes_grow_to_the_input_size() -> None:
    recipe = load_recipe("galaxyzoo").stage1
    sizes = [recipe.train_size(epoch) for epoch in range(recipe.epochs)]
    assert sizes == [96] * 6 + [128] * 6
    assert load_recipe("cpu").stage1.train_size(0) == 96


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ("[{input_size = 100, epochs = 2}]", "differ from input_size, 128, by multiples of 32, not be 100"),
        ("[{input_size = 96, epochs = 12}]", "no epoch of the 12 is left for input_size"),
        ("[{input_size = 96, epochs = 2, lr = 1}]", "keys there: input_size, epochs"),
    ],
)
def test_sizes_that_do_not_fit(phases: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load_recipe("galaxyzoo", [f"stage1.progressive={phases}"])
