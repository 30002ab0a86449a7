"""What a bundle's description may say: its fields, their ranges, and which files it may name.

A bundle may come from anywhere. Every number in it is checked before it is computed with, and no file is read
but those that a bundle consists of.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from hiwl_core.errors import UserError
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.taxonomy import Taxonomy

__all__ = [
    "CALIBRATION_FILE",
    "DESCRIPTION",
    "GRAPH_FILES",
    "READABLE_VERSIONS",
    "SECOND_STAGE",
    "UNLIKENESS_FILE",
    "BundleDescription",
    "StageDescription",
    "read_description",
    "read_json",
    "weights_file",
]

# The first knew nothing that is fitted after training.
READABLE_VERSIONS = (1, 2)
DESCRIPTION = "bundle.json"
# Where there is no third, what is said of it stands for all.
SECOND_STAGE = "stage2"
CALIBRATION_FILE, UNLIKENESS_FILE = "calibration.json", "unlikeness.safetensors"
GRAPH_FILES = ("{stage}.int8.xml", "{stage}.int8.bin")
# No network here sees more, and no cutout that is decoded is larger.
MOST_PIXELS = 4096
MOST_CLASSES = 1000

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=200)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PreprocessingDescription(pydantic.BaseModel):
    """What a stage does to a cutout; see `hiwl_core.cutouts.Preprocessing`."""

    center_crop: int = Field(ge=1, le=MOST_PIXELS)
    input_size: int = Field(ge=1, le=MOST_PIXELS)
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]


class StageDescription(pydantic.BaseModel):
    """One stage; see `hiwl_core.bundle.StageModel`."""

    backbone: Name
    preprocessing: PreprocessingDescription
    label_smoothing: float = Field(ge=0, lt=1)
    weights: str
    sha256: Sha256


class GroupDescription(pydantic.BaseModel):
    """Classes that look alike; see `hiwl_core.taxonomy.Group`."""

    name: Name
    members: list[Name] = Field(max_length=MOST_CLASSES)


class TaxonomyDescription(pydantic.BaseModel):
    """The classes; see `hiwl_core.taxonomy.Taxonomy`, which checks how they fit together."""

    name: str
    classes: list[Name] = Field(max_length=MOST_CLASSES)
    combined: list[Name] = Field(default=[], max_length=MOST_CLASSES)
    combined_name: Name = ""
    groups: list[GroupDescription] = Field(default=[], max_length=MOST_CLASSES)
    descriptions: list[str] = []


class ScaleDescription(pydantic.BaseModel):
    """The scale at which a model learned galaxies: ``value``, or ``factor`` times ``column``."""

    value: Positive | None
    column: Name | None
    factor: Positive

    @pydantic.model_validator(mode="after")
    def _one_of_both(self) -> ScaleDescription:
        if (self.value is None) == (self.column is None):
            raise ValueError("a scale is either a value or a column")
        return self


class BundleDescription(pydantic.BaseModel):
    """All of ``bundle.json``; what a later version adds is of no use here."""

    stages: dict[str, StageDescription]
    taxonomy: TaxonomyDescription
    member_frequencies: list[Share] | dict[str, list[Share]]
    views: Literal[1, 2, 4, 8, "adaptive"]
    # Bundles made before FITS cutouts were read do not have it.
    rgb: RgbSettings = RgbSettings()
    # Only those have it that were trained at a scale.
    scale: ScaleDescription | None = None
    # Bundles made before anything was fitted do not have it.
    fitted: dict[str, Sha256] = {}
    metrics: dict[str, Any]
    provenance: dict[str, Any]

    @pydantic.model_validator(mode="after")
    def _fits_together(self) -> BundleDescription:
        taxonomy = Taxonomy.from_dict(self.taxonomy.model_dump())
        if set(self.stages) != set(taxonomy.stages):
            named = ", ".join(sorted(self.stages))
            raise ValueError(f"the stages are {named}, not the taxonomy's {', '.join(taxonomy.stages)}")
        for name, stage in self.stages.items():
            if stage.weights != weights_file(name):
                raise ValueError(f"the weights of {name} are in {weights_file(name)}, not {stage.weights!r}")
        fitted = {CALIBRATION_FILE, UNLIKENESS_FILE}
        fitted |= {name.format(stage=stage) for stage in self.stages for name in GRAPH_FILES}
        if strange := self.fitted.keys() - fitted:
            raise ValueError(f"{min(strange)!r} is no file of a bundle")
        if set(self.frequencies) != set(taxonomy.later_stages):
            raise ValueError(
                f"member_frequencies must be those of {', '.join(taxonomy.later_stages) or 'none'}"
            )
        for name, shares in self.frequencies.items():
            members = len(taxonomy.stage_classes(name))
            if len(shares) != members or abs(sum(shares) - 1) > 0.01:
                raise ValueError(f"member_frequencies must be {members} shares that sum to 1, not {shares}")
        return self

    @property
    def frequencies(self) -> dict[str, list[float]]:
        """The frequencies of members under the names of the later stages."""
        if isinstance(self.member_frequencies, dict):
            return self.member_frequencies
        return {SECOND_STAGE: self.member_frequencies} if self.member_frequencies else {}


def weights_file(stage: str) -> str:
    """The file of a stage's weights."""
    return f"{stage}.safetensors"


def read_json(content: bytes, name: str, place: str) -> Any:
    """What a JSON file of a bundle holds.

    Raises
    ------
    UserError
        If it is none, or is nested beyond all use.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"model bundle {place!r}: {name} is not JSON ({error})") from None


def read_description(content: bytes, place: str) -> BundleDescription:
    """A bundle's description, checked.

    Parameters
    ----------
    content : bytes
    place : str
        The bundle, for messages.

    Raises
    ------
    UserError
        If it is no JSON, of another format, or says what cannot be.
    """
    data = read_json(content, DESCRIPTION, place)
    found = data.get("format_version") if isinstance(data, dict) else None
    if found not in READABLE_VERSIONS:
        raise UserError(
            f"model bundle {place!r} has format {str(found)[:20]}, "
            f"this HIWL reads {' and '.join(map(str, READABLE_VERSIONS))}"
        )
    try:
        return BundleDescription.model_validate(data)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            raise UserError(f"model bundle {place!r}: {DESCRIPTION} lacks {where!r}") from None
        words = f"{where}: {problem['msg']}" if where else problem["msg"].removeprefix("Value error, ")
        raise UserError(f"model bundle {place!r}: {DESCRIPTION}: {words[:300]}") from None
