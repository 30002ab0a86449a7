"""Recipes: everything that decides how a cascade is trained, as validated TOML.

A recipe has a section for each stage; ``[stage2]`` inherits from ``[stage1]`` what it does not set, and where
a taxonomy has more groups, their stages inherit from ``[stage2]``. Overrides such as ``stage1.epochs=3`` are
applied after the inheritance, so they change what they name and nothing else; ``later.epochs=3`` is one for
each stage but the first.
With ``hierarchy = false`` there is one network for all classes: what is said of stage 2, in the file or by an
override, is checked and left out, so that one list of overrides serves to compare both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
from pydantic import BaseModel, ConfigDict, Field

from hiwl_core.class_distances import class_distances, stage_distances
from hiwl_core.errors import UserError
from hiwl_core.near_names import or_meant
from hiwl_core.recipe_text import available_recipes, recipe_data
from hiwl_core.taxonomy import FIRST_STAGE, GALAXY_ZOO, STAGE_NAME, Taxonomy

__all__ = [
    "Augmentation",
    "Optimizer",
    "Recipe",
    "RgbSettings",
    "SizePhase",
    "StageRecipe",
    "available_recipes",
    "load_recipe",
]

# Of all backbones here.
LARGEST_STRIDE = 32
# Where a recipe keeps the stages that Galaxy Zoo's does not have.
FURTHER = "further"


class Section(BaseModel):
    """A part of a recipe: unknown keys are mistakes, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class GroupSection(Section):
    """Classes that look alike, which a stage of their own tells apart."""

    name: str
    members: tuple[str, ...]


class TaxonomySection(Section):
    """A user's own classes; without it the recipe is for Galaxy Zoo's five."""

    name: str
    classes: tuple[str, ...]
    combined: tuple[str, ...] = Field(default=(), description="The members of an only group.")
    combined_name: str = ""
    groups: tuple[GroupSection, ...] = ()
    descriptions: tuple[str, ...] = ()


class Augmentation(Section):
    """The random part of the train transform, in the order in which it is applied."""

    center_crop: int = Field(gt=0, description="Pixels kept before anything is random.")
    rotation: float = Field(ge=0, le=180, description="Largest angle either way, degrees.")
    scale: tuple[float, float] = Field(description="Area of the random crop, as a share of the whole.")
    aspect_ratio: tuple[float, float] = Field(
        description="Width over height of the random crop. [1, 1] keeps the galaxy's axis ratio."
    )
    horizontal_flip: float = Field(ge=0, le=1, description="Probability.")
    vertical_flip: float = Field(ge=0, le=1, description="Probability.")
    rotation_interpolation: Literal["nearest", "bilinear"] = "bilinear"

    @pydantic.model_validator(mode="after")
    def _ranges_in_order(self) -> Augmentation:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be two numbers in (0, 1] in order, not {list(self.scale)}")
        if not 0 < self.aspect_ratio[0] <= self.aspect_ratio[1]:
            raise ValueError(
                f"aspect_ratio must be two positive numbers in order, not {list(self.aspect_ratio)}"
            )
        return self


class Optimizer(Section):
    """The optimizer and how its learning rate runs."""

    name: Literal["sgd", "adamw"]
    lr: float = Field(gt=0, description="Initial (cosine) or peak (one cycle) learning rate.")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="For sgd.")
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "one_cycle", "constant"]
    t_max: int | None = Field(default=None, gt=0, description="Epochs to the minimum of the cosine.")
    warmup: float = Field(default=0.3, gt=0, lt=1, description="Share of the steps before one cycle's peak.")


class RgbSettings(Section):
    """How the bands of a FITS cutout become colors, by the method of Lupton et al. (2004, PASP 116, 133)."""

    bands: tuple[str, str, str] = Field(
        default=("i", "r", "g"), description="Bands that become red, green and blue, from red to blue."
    )
    stretch: float = Field(default=5.0, gt=0, description="Linear stretch, in units of the images' fluxes.")
    q: float = Field(default=8.0, gt=0, description="Softening of the asinh stretch.")
    minimum: float = Field(default=0.0, description="Flux that becomes black.")

    @pydantic.model_validator(mode="after")
    def _numbers_are_finite(self) -> RgbSettings:
        if not all(map(math.isfinite, (self.stretch, self.q, self.minimum))):
            raise ValueError("stretch, q and minimum must be finite numbers")
        if not all(band.strip() for band in self.bands):
            raise ValueError(f"bands must be three names, not {list(self.bands)}")
        return self


class SizePhase(Section):
    """The first epochs of a stage, on smaller images than those that it ends with."""

    input_size: int = Field(ge=32, description="Pixels on a side that the network sees.")
    epochs: int = Field(gt=0)


class StageRecipe(Section):
    """How one stage is trained."""

    backbone: str
    init: str = Field(
        description='"imagenet", "random", "stage1" (later stages only), a weights file, the name of a model '
        'in the box, or "bundle:" and the folder of any model.'
    )
    input_size: int = Field(ge=32, description="Pixels on a side that the network sees.")
    center_crop: int = Field(gt=0, description="Pixels kept at prediction, scaled to the input size.")
    mean: tuple[float, float, float] | None = Field(default=None, description="Default: the backbone's.")
    std: tuple[float, float, float] | None = Field(default=None, description="Default: the backbone's.")
    epochs: int = Field(gt=0, description="Upper bound.")
    patience: int = Field(
        ge=0,
        description="Epochs without a lower validation loss and a higher accuracy before stopping; 0: never.",
    )
    progressive: tuple[SizePhase, ...] = Field(
        default=(), description="Smaller images for the first of the epochs; the others are at input_size."
    )
    batch_size: int = Field(gt=0, description="Images a step, over all workers.")
    sampling: Literal["plain", "weighted"]
    weighting: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Of weighted sampling: a class of n is drawn in proportion to n^(1 - weighting).",
    )
    label_smoothing: float = Field(ge=0, lt=1, description="Probability taken from the true class.")
    smoothing: Literal["uniform", "similarity", "online"] = Field(
        default="uniform", description="Who gets it: all others alike, those near by, those it is taken for."
    )
    similarity_beta: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="How fast likeness falls with distance; 0: not."
    )
    online_alpha: float = Field(default=0.5, ge=0, le=1, description="Weight of the hard label, if online.")
    ema_memory: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Memory of the averaged weights, as a share of all steps; 0: none.",
    )
    batch_norm_momentum: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Weight of the newest batch in the running statistics. Default: the backbone's, which "
        "may be made for hundreds of thousands of steps.",
    )
    augmentation: Augmentation
    optimizer: Optimizer

    @pydantic.model_validator(mode="after")
    def _cosine_has_a_length(self) -> StageRecipe:
        if self.optimizer.schedule == "cosine" and self.optimizer.t_max is None:
            raise ValueError("optimizer.t_max: the cosine schedule needs it")
        return self

    @pydantic.model_validator(mode="after")
    def _backbone_takes_the_input(self) -> StageRecipe:
        # Here, since it imports PyTorch, which the other parts of a recipe can do without.
        from hiwl_core.backbones import spec

        for size in self.train_sizes:
            spec(self.backbone).check_input(size)
        return self

    @pydantic.model_validator(mode="after")
    def _sizes_grow_to_the_input(self) -> StageRecipe:
        for size in self.train_sizes:
            # Networks whose padding is made for one size pad others alike if they differ by whole strides.
            if (self.input_size - size) % LARGEST_STRIDE:
                raise ValueError(
                    f"progressive: sizes must differ from input_size, {self.input_size}, by multiples of "
                    f"{LARGEST_STRIDE}, not be {size}"
                )
        if self.progressive and sum(phase.epochs for phase in self.progressive) >= self.epochs:
            raise ValueError(f"progressive: no epoch of the {self.epochs} is left for input_size")
        return self

    @property
    def train_sizes(self) -> tuple[int, ...]:
        """Pixels on a side of the training images, in the order in which they come."""
        return (*(phase.input_size for phase in self.progressive), self.input_size)

    def train_size(self, epoch: int) -> int:
        """Pixels on a side of the training images of an epoch, which counts from 0."""
        for phase in self.progressive:
            if epoch < phase.epochs:
                return phase.input_size
            epoch -= phase.epochs
        return self.input_size


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
