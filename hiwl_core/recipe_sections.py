"""The sections of a recipe, each with its keys, their ranges and what they mean."""

from __future__ import annotations

import math
from typing import Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "Augmentation",
    "GroupSection",
    "Optimizer",
    "RgbSettings",
    "Section",
    "SizePhase",
    "StageRecipe",
    "TaxonomySection",
]

# Of all backbones here.
LARGEST_STRIDE = 32


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
