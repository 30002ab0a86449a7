"""Recipes: everything that decides how a cascade is trained, as validated TOML.

A recipe has a section for each stage; ``[stage2]`` inherits from ``[stage1]`` what it does not set, and where
a taxonomy has more groups, their stages inherit from ``[stage2]``. Overrides such as ``stage1.epochs=3`` are
applied after the inheritance, so they change what they name and nothing else; ``later.epochs=3`` is one for
each stage but the first.
With ``hierarchy = false`` there is one network for all classes: what is said of stage 2, in the file or by an
override, is checked and left out, so that one list of overrides serves to compare both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import BaseModel, Field

from hiwl_core.class_distances import class_distances, stage_distances
from hiwl_core.errors import UserError
from hiwl_core.near_names import or_meant
from hiwl_core.recipe_sections import (
    Augmentation,
    GroupSection,
    Optimizer,
    RgbSettings,
    Section,
    SizePhase,
    StageRecipe,
    TaxonomySection,
)
from hiwl_core.recipe_text import recipe_data
from hiwl_core.taxonomy import FIRST_STAGE, GALAXY_ZOO, STAGE_NAME, Taxonomy

__all__ = ["Recipe", "load_recipe"]
# Where a recipe keeps the stages that Galaxy Zoo's does not have.
FURTHER = "further"


class Recipe(Section):
    """A whole training: its stages, the seed, and how the trained model looks at an image."""

    name: str
    description: str
    seed: int = Field(default=0, ge=0)
    views: Literal[1, 2, 4, 8, "adaptive"] = Field(
        default=1,
        description="Flips and quarter turns averaged at prediction: a galaxy has no up. adaptive: eight "
        "where one is not sure.",
    )
    compile: Literal["auto", "off"] = Field(default="auto", description="torch.compile where it pays.")
    precision: Literal["auto", "float32"] = Field(
        default="auto",
        description="Of training. auto: bfloat16 on GPUs that have it, and on CPUs where a trial is faster.",
    )
    select: Literal["accuracy", "likelihood"] = Field(
        default="accuracy",
        description="By what the best pair of checkpoints is chosen: accuracy of the routed label, as in the "
        "paper, or likelihood of the calibrated probabilities, cross-fitted.",
    )
    weights: Literal["float32", "float16"] = Field(
        default="float32", description="In which the bundle keeps them; all is fitted to what is kept."
    )
    finish: Literal["full", "calibration", "none"] = Field(
        default="full",
        description="What is fitted after training: all, with int8 graphs; calibration and all else in "
        "float32; nothing.",
    )
    train_galaxies: int | None = Field(
        default=None, gt=0, description="Of a stratified sample to train on, by the seed. Default: all."
    )
    val_galaxies: int | None = Field(
        default=None, gt=0, description="Of a stratified sample to select by, by the seed. Default: all."
    )
    window_mb: float = Field(
        default=1024,
        gt=0,
        description="Of shards that are in memory together; the draws of an epoch are mixed within a window. "
        "What fits into one is read once and kept.",
    )
    hierarchy: bool = Field(default=True, description="Two stages; else one network for all classes.")
    taxonomy_section: TaxonomySection | None = Field(default=None, alias="taxonomy")
    rgb: RgbSettings = Field(default=RgbSettings(), description="Colors of FITS cutouts.")
    distances: dict[str, dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]] = Field(
        default={}, description="Of pairs of classes, each once, for similarity smoothing."
    )
    stage1: StageRecipe
    stage2: StageRecipe | None = None
    further: dict[str, StageRecipe] = Field(default={}, description="Sections of stage 3 and on, by name.")

    @pydantic.model_validator(mode="before")
    @classmethod
    def _further_stages_together(cls, data: Any) -> Any:
        further = [key for key in data if STAGE_NAME.fullmatch(key) and key not in cls.model_fields]
        further.sort(key=lambda name: int(name.removeprefix("stage")))
        left = {key: value for key, value in data.items() if key not in further}
        return left | {FURTHER: {key: data[key] for key in further}}

    @pydantic.field_validator("stage2", FURTHER)
    @classmethod
    def _only_with_hierarchy(cls, given: Any, others: pydantic.ValidationInfo) -> Any:
        if others.data.get("hierarchy", True):
            return given
        return {} if others.field_name == FURTHER else None

    @pydantic.model_validator(mode="after")
    def _stage1_starts_on_its_own(self) -> Recipe:
        if self.stage1.init == FIRST_STAGE:
            raise ValueError('stage1.init: "stage1" is for later stages')
        if self.hierarchy and self.stage2 is None:
            raise ValueError("missing key 'stage2'")
        for name, stage in self.stages.items():
            if stage.init == FIRST_STAGE and stage.backbone != self.stage1.backbone:
                raise ValueError(
                    f'{name}.init: "stage1" needs the backbone of stage 1, {self.stage1.backbone!r}'
                )
        return self

    @property
    def taxonomy(self) -> Taxonomy:
        """The recipe's classes, flat without hierarchy."""
        section = self.taxonomy_section
        taxonomy = Taxonomy.from_dict(section.model_dump()) if section else GALAXY_ZOO
        if self.hierarchy and not taxonomy.groups:
            raise UserError(
                f"taxonomy {taxonomy.name!r} has no combined class: name its members in taxonomy.combined, "
                "or set hierarchy = false"
            )
        return taxonomy if self.hierarchy else taxonomy.flat()

    @property
    def most_views(self) -> int:
        """Views of a galaxy at most."""
        # Here, since it imports PyTorch.
        from hiwl_core.views import MOST_VIEWS

        return MOST_VIEWS if self.views == "adaptive" else self.views

    @property
    def stages(self) -> dict[str, StageRecipe]:
        """The sections of the stages that there are, by name."""
        later = {"stage2": self.stage2, **self.further} if self.stage2 else {}
        return {FIRST_STAGE: self.stage1, **later}

    def stage(self, name: str) -> StageRecipe:
        """The section of a stage, such as ``"stage1"``."""
        return self.stages[name]

    def stage_distances(self, name: str) -> np.ndarray | None:
        """Distances of a stage's classes, float64 of shape (K, K); None unless it is smoothed by them.

        Raises
        ------
        UserError
            See `hiwl_core.class_distances.stage_distances`.
        """
        if self.stage(name).smoothing != "similarity":
            return None
        return stage_distances(self.taxonomy, name, self.distances)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a bundle or run folder."""
        data = self.model_dump(mode="json", by_alias=True)
        # As it is written in a file, and as runs of before there were further stages have it.
        data |= data.pop(FURTHER)
        if data["taxonomy"] and not data["taxonomy"]["groups"]:
            del data["taxonomy"]["groups"]
        return data


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or from a file, with overrides applied, checked whole.

    Parameters
    ----------
    name : str
        One of `available_recipes`, or the path of a TOML file.
    overrides : sequence of str
        ``section.key=value`` with the value in TOML, such as ``stage1.epochs=3``; a bare word is a string.

    Raises
    ------
    UserError
        Naming the unknown key or bad value and where it stands.
    """
    data = recipe_data(name, overrides)
    try:
        recipe = Recipe.model_validate(data)
        # Their own checks belong to the recipe's.
        class_distances(recipe.taxonomy, recipe.distances)
        for stage in recipe.stages:
            recipe.stage_distances(stage)
    except pydantic.ValidationError as error:
        raise UserError(f"recipe {name!r}: {_explain(error)}") from None
    return recipe


def _explain(error: pydantic.ValidationError) -> str:
    """The first problem in the user's words: where, what, and the mend."""
    problem = error.errors(include_url=False)[0]
    problem["loc"] = tuple(part for part in problem["loc"] if part != FURTHER)
    place = ".".join(map(str, problem["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        beside = _keys_beside(problem["loc"])
        near = or_meant(str(problem["loc"][-1]), beside)
        return f"unknown key {place!r}{more}; keys there: {', '.join(beside)}{near}"
    if problem["type"] == "missing":
        return f"missing key {place!r}{more}"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    given = f", not {value!r}" if isinstance(value, str | int | float | list) else ""
    return f"{place}: {message}{given}{more}" if place else f"{message}{more}"


def _keys_beside(place: tuple[int | str, ...]) -> list[str]:
    sections: dict[str, type[BaseModel]] = {
        "augmentation": Augmentation,
        "optimizer": Optimizer,
        "progressive": SizePhase,
        "taxonomy": TaxonomySection,
        "groups": GroupSection,
        "rgb": RgbSettings,
    }
    around = [part for part in place[:-1] if isinstance(part, str)]
    model: type[BaseModel] = Recipe
    if around:
        model = StageRecipe if STAGE_NAME.fullmatch(around[-1]) else sections.get(around[-1], Recipe)
    return [field.alias or name for name, field in model.model_fields.items() if name != FURTHER]
