"""The grid of trainings: each backbone, method and seed, as recipes that differ in just that."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hiwl_core.backbones import BackboneSpec, spec
from hiwl_core.errors import UserError
from hiwl_core.methods import method_name, method_overrides
from hiwl_core.recipe import Recipe, load_recipe
from hiwl_core.recipe_text import LATER
from hiwl_core.taxonomy import FIRST_STAGE
from pipeline.reproduction.experiments import Experiment
from pipeline.reproduction.reproduce_options import AS_THE_RECIPE_SAYS, ReproduceOptions

__all__ = ["GridRun", "backbone_overrides", "folder_name", "grid_runs"]

# Sizes between those of the weights are multiples of it, which all networks of any size take.
SIZE_STEP = 16
SMALLEST_INPUT = 32


@dataclass(frozen=True)
class GridRun:
    """One training of the grid.

    Parameters
    ----------
    backbone, method : str
    seed : int
    recipe : Recipe
    """

    backbone: str
    method: str
    seed: int
    recipe: Recipe

    @property
    def name(self) -> str:
        """Of its folder: ``efficientnet_b1-hiwl-seed0``."""
        return f"{folder_name(self.backbone)}-{self.method}-seed{self.seed}"


def folder_name(backbone: str) -> str:
    """A backbone's name for files: ``timm_vit_tiny`` for ``timm:vit_tiny``."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", backbone)


def grid_runs(
    experiments: Iterable[Experiment],
    recipe_name: str,
    options: ReproduceOptions = AS_THE_RECIPE_SAYS,
) -> list[GridRun]:
    """All trainings that some experiments need, each once, first those of the first seed.

    Parameters
    ----------
    experiments : iterable of Experiment
    recipe_name : str
        The recipe that they all share; see `hiwl_core.recipe.load_recipe`.
    options : ReproduceOptions
        Seeds, backbones, and the user's own changes of the recipe.

    Returns
    -------
    list of GridRun

    Raises
    ------
    UserError
        For a recipe or an override that is wrong, or that makes a method another one; and for a backbone that
        there is not.
    """
    overrides, seeds = options.overrides, options.seeds
    _check_overrides(overrides)
    base = load_recipe(recipe_name, overrides)
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds {','.join(map(str, seeds))}: give different numbers, 0 or larger")
    chosen = list(experiments)
    runs: dict[tuple[str, str, int], GridRun] = {}
    for seed in seeds:
        for experiment in chosen:
            if experiment.one_seed and seed != seeds[0]:
                continue
            for backbone, method in experiment.resolved(base.stage1.backbone, options.backbones):
                key = (backbone, method, seed)
                if key not in runs:
                    changes = [*overrides, *backbone_overrides(base, backbone), *method_overrides(method)]
                    recipe = load_recipe(recipe_name, [*changes, f"seed={seed}"])
                    _check_method(recipe, method)
                    runs[key] = GridRun(backbone, method, seed, recipe)
    return list(runs.values())


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        if override.partition("=")[0].strip() == "seed":
            raise UserError(f"--set {override}: the trainings' seeds are those of --seeds")


def _check_method(recipe: Recipe, method: str) -> None:
    """A table that says HIWL is to be of HIWL, whatever the recipe and its changes say."""
    found = method_name(recipe)
    if found != method:
        raise UserError(
            f"recipe {recipe.name}: as it is given, its training {method!r} would be "
            f"{repr(found) if found else 'none of the methods'}; "
            "leave hierarchy, sampling and smoothing to them"
        )


def backbone_overrides(base: Recipe, name: str) -> list[str]:
    """What puts another backbone into a recipe, and changes nothing else that it can leave.

    Its input is as large, in proportion to that of its ImageNet weights, as the recipe's is for the recipe's
    own backbone: where the recipe shrinks images, it shrinks them for all. A network without ImageNet
    weights starts from random ones.

    Parameters
    ----------
    base : Recipe
    name : str

    Returns
    -------
    list of str
        For `hiwl_core.recipe.load_recipe`; empty for the recipe's own backbone.
    """
    if name == base.stage1.backbone:
        return []
    entry = spec(name)
    changes = []
    for stage, section in ((FIRST_STAGE, base.stage1), (LATER, base.stage2 or base.stage1)):
        scale = section.input_size / spec(section.backbone).input_size
        changes += [f"{stage}.backbone={name!r}", f"{stage}.input_size={_input_size(entry, scale)}"]
        if section.init == "imagenet" and not entry.on_imagenet:
            changes.append(f"{stage}.init=random")
    return changes


def _input_size(entry: BackboneSpec, scale: float) -> int:
    if scale == 1.0:
        return entry.input_size
    size = max(SMALLEST_INPUT, SIZE_STEP * round(entry.input_size * scale / SIZE_STEP))
    try:
        entry.check_input(size)
    except UserError:
        return entry.input_size
    return size
