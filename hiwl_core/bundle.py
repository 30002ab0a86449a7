"""The model bundle: a folder that alone is enough to classify. JSON and safetensors, no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from hiwl_core.backbones import ImageClassifier, create_backbone
from hiwl_core.box import box_models, box_place, in_the_box
from hiwl_core.bundle_description import (
    DESCRIPTION,
    SECOND_STAGE,
    StageDescription,
    read_description,
    weights_file,
)
from hiwl_core.cutouts import Preprocessing
from hiwl_core.errors import UserError, words_of
from hiwl_core.fitted import ADAPTIVE, Fitted, Setting, ValidatedSetting, Views, checked
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.taxonomy import Taxonomy

__all__ = ["FORMAT_VERSION", "ModelBundle", "StageModel", "bundle_files", "bundle_from_files", "load_bundle"]

FORMAT_VERSION = 2
MOST_WORDS = 300


@dataclass(frozen=True)
class StageModel:
    """One trained stage.

    Parameters
    ----------
    backbone : str
        Name in the registry of backbones.
    preprocessing : Preprocessing
    label_smoothing : float
    weights : dict of Tensor
    """

    backbone: str
    preprocessing: Preprocessing
    label_smoothing: float
    weights: dict[str, torch.Tensor]

    def network(self, num_classes: int) -> ImageClassifier:
        """The network with its trained weights, in eval mode.

        Raises
        ------
        UserError
            If the backbone's package is missing or the weights do not fit.
        """
        model = create_backbone(self.backbone, num_classes, input_size=self.preprocessing.input_size)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            # PyTorch gives each tensor a line.
            words = words_of(error, MOST_WORDS)
            raise UserError(f"the weights are not those of a {self.backbone}: {words}") from None
        return model.eval()


@dataclass(frozen=True)
class ModelBundle:
    """A trained cascade, or a single trained network, and where it comes from.

    Parameters
    ----------
    taxonomy : Taxonomy
    stages : dict of StageModel
        Under each of ``taxonomy.stages``.
    member_frequencies : dict of numpy.ndarray of float64, shape (M,)
        Shares of each later stage's classes among the training galaxies of its group.
    views : {1, 2, 4, 8, "adaptive"}
        Flips and quarter turns averaged at prediction; see `hiwl_core.fitted.Views`.
    rgb : RgbSettings
        Colors of FITS cutouts.
    scale : dict or None
        The pixel scale at which it learned galaxies: ``value`` in arcsec/pixel, or ``factor`` times
        ``column``; None if the images were taken as they were.
    metrics : dict
        What validation said of it.
    provenance : dict
        Recipe, fingerprints of the data, versions of the libraries.
    fitted : Fitted
        Calibration and all else that comes after training; empty in bundles of before there was any.
    model_id : str
        Hash of the description, which holds the hashes of all other files; empty before it is saved.
    """

    taxonomy: Taxonomy
    stages: dict[str, StageModel]
    member_frequencies: dict[str, np.ndarray]
    views: Views
    rgb: RgbSettings = field(default_factory=RgbSettings)
    scale: dict[str, Any] | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    fitted: Fitted = field(default_factory=Fitted)
    model_id: str = ""

    @property
    def smallest_cutout(self) -> int:
        """Pixels that a cutout's shorter side must have."""
        return max(stage.preprocessing.center_crop for stage in self.stages.values())

    def in_half(self) -> ModelBundle:
        """The model with its weights rounded to float16; what is no floating-point number stays as it is.

        It is another model, if hardly so: what is to be fitted to it has to be fitted anew.
        """
        stages = {
            name: replace(
                stage,
                weights={
                    key: tensor.half() if tensor.is_floating_point() else tensor
                    for key, tensor in stage.weights.items()
                },
            )
            for name, stage in self.stages.items()
        }
        return replace(self, stages=stages, model_id="")

    def check(self, always_stage2: bool = False, views: Views | None = None, prior: bool = False) -> None:
        """Check that the model can do what it is asked for, whatever the precision.

        Raises
        ------
        UserError
            If stage 2 is to run on every galaxy and there is none; for adaptive views without their margins;
            for another prior without calibrated probabilities to move.
        """
        if always_stage2 and not self.taxonomy.groups:
            raise UserError(
                "--stage2 always: this model has no stage 2, its one network tells all classes apart and the "
                "probabilities are exact without it; leave the option out"
            )
        if views == ADAPTIVE and not self.fitted.margins:
            raise UserError(
                "--views adaptive: this model does not hold the margin below which more views are needed; "
                "`hiwl optimize BUNDLE` fits it, or take 1 or 8"
            )
        if prior and not self.fitted.settings:
            raise UserError(
                "--prior: this model's probabilities are not calibrated, so there is nothing to move; "
                "`hiwl optimize BUNDLE` calibrates it"
            )

    def validated(self, setting: Setting) -> ValidatedSetting | None:
        """What validation says of the model in a setting, or in the nearest that it was validated in.

        The same views come first, and precision float32 where there is no other: what differs between
        precisions is less than what differs between one view and eight.
        """
        own = self.fitted.settings
        for precision in (setting.precision, "float32"):
            found = own.get(str(Setting(setting.views, precision)))
            if found is not None:
                return found
        return own.get(str(Setting(self.views, "float32")))


def bundle_files(bundle: ModelBundle) -> dict[str, bytes]:
    """The files of a bundle's folder by name; writing them is the caller's, local or remote.

    The description comes last: a folder without it is not a bundle.
    """
    files = {weights_file(name): save(stage.weights) for name, stage in bundle.stages.items()}
    fitted = bundle.fitted.files()
    description = {
        "format_version": FORMAT_VERSION,
        "taxonomy": bundle.taxonomy.to_dict(),
        "stages": {
            name: {
                "backbone": stage.backbone,
                "preprocessing": stage.preprocessing.to_dict(),
                "label_smoothing": stage.label_smoothing,
                "weights": weights_file(name),
                "sha256": hashlib.sha256(files[weights_file(name)]).hexdigest(),
            }
            for name, stage in bundle.stages.items()
        },
        "member_frequencies": _written_frequencies(bundle),
        "views": bundle.views,
        "rgb": bundle.rgb.model_dump(mode="json"),
        **({} if bundle.scale is None else {"scale": bundle.scale}),
        "fitted": {name: hashlib.sha256(content).hexdigest() for name, content in fitted.items()},
        "metrics": bundle.metrics,
        "provenance": {**bundle.provenance, "versions": library_versions()},
    }
    files |= fitted
    files[DESCRIPTION] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
    return files


def _written_frequencies(bundle: ModelBundle) -> list[float] | dict[str, list[float]]:
    """Those of an only later stage as older versions read them."""
    shares = {stage: [float(share) for share in of] for stage, of in bundle.member_frequencies.items()}
    return shares if len(shares) > 1 else shares.get(SECOND_STAGE, [])


def load_bundle(folder: str | Path) -> ModelBundle:
    """A bundle from a local folder, or by its name in the box; every file checked against its hash.

    Parameters
    ----------
    folder : str or Path
        Such as ``run/bundle``, or ``galaxyzoo``, which comes with HIWL; a folder of that name is
        ``./galaxyzoo``.

    Raises
    ------
    UserError
        If a file is missing or changed, or the format is not known.
    """
    place = box_place(str(folder)) if str(folder) in box_models() else Path(folder)

    def read(name: str) -> bytes:
        path = place / name
        if not path.is_file():
            raise UserError(f"no model bundle at {str(folder)!r}: {name} is missing{in_the_box()}")
        return path.read_bytes()

    return bundle_from_files(read, str(folder))


def bundle_from_files(read: Any, place: str) -> ModelBundle:
    """A bundle from wherever `read` finds its files.

    Parameters
    ----------
    read : callable
        From a file name in the bundle's folder to its bytes; raises UserError if there is none.
    place : str
        The folder, for messages.

    Raises
    ------
    UserError
        If a file is missing or changed, or the format is not known.
    """
    content = read(DESCRIPTION)
    data = read_description(content, place)
    taxonomy = Taxonomy.from_dict(data.taxonomy.model_dump())
    fitted = Fitted.from_files(read, data.fitted, place)
    fitted.check(taxonomy, place)
    return ModelBundle(
        taxonomy=taxonomy,
        stages={name: _read_stage(read, stage, place) for name, stage in data.stages.items()},
        member_frequencies={
            stage: np.array(shares, dtype=np.float64) for stage, shares in data.frequencies.items()
        },
        views=data.views,
        rgb=data.rgb,
        scale=None if data.scale is None else data.scale.model_dump(),
        metrics=data.metrics,
        provenance=data.provenance,
        fitted=fitted,
        model_id=hashlib.sha256(content).hexdigest()[:16],
    )


def library_versions() -> dict[str, str]:
    """Versions that a model's numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
    }


def _read_stage(read: Any, data: StageDescription, place: str) -> StageModel:
    content = checked(read, data.weights, data.sha256, place)
    try:
        weights = load(content)
    # What the header says of the tensors may be anything.
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"model bundle {place!r}: {data.weights} is not safetensors ({error})") from None
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise UserError(
                f"model bundle {place!r}: {data.weights}: {name[:MOST_WORDS]} has what is no finite number: "
                "its training broke down, or the file was made by something else"
            )
    return StageModel(
        backbone=data.backbone,
        preprocessing=Preprocessing.from_dict(data.preprocessing.model_dump()),
        label_smoothing=data.label_smoothing,
        weights=weights,
    )
