"""The model bundle: a folder that alone is enough to classify. JSON and safetensors, no pickle anywhere."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from hiwl_core.backbones import ImageClassifier, create_backbone
from hiwl_core.cutouts import Preprocessing
from hiwl_core.errors import UserError
from hiwl_core.recipe import RgbSettings
from hiwl_core.taxonomy import Taxonomy

__all__ = ["FORMAT_VERSION", "ModelBundle", "StageModel", "bundle_files", "bundle_from_files", "load_bundle"]

FORMAT_VERSION = 1
DESCRIPTION = "bundle.json"
WEIGHT_FILES = {"stage1": "stage1.safetensors", "stage2": "stage2.safetensors"}


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
            raise UserError(f"the weights are not those of a {self.backbone}: {error}") from None
        return model.eval()


@dataclass(frozen=True)
class ModelBundle:
    """A trained cascade, or a single trained network, and where it comes from.

    Parameters
    ----------
    taxonomy : Taxonomy
    stages : dict of StageModel
        Under each of ``taxonomy.stages``.
    member_frequencies : numpy.ndarray of float64, shape (M,)
        Shares of stage 2's classes among the training galaxies.
    views : int
        Flips and quarter turns averaged at prediction.
    rgb : RgbSettings
        Colors of FITS cutouts.
    metrics : dict
        What validation said of it.
    provenance : dict
        Recipe, fingerprints of the data, versions of the libraries.
    model_id : str
        Hash of the description, which holds the hashes of the weights; empty before it is saved.
    """

    taxonomy: Taxonomy
    stages: dict[str, StageModel]
    member_frequencies: np.ndarray
    views: int
    rgb: RgbSettings = field(default_factory=RgbSettings)
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    model_id: str = ""

    @property
    def smallest_cutout(self) -> int:
        """Pixels that a cutout's shorter side must have."""
        return max(stage.preprocessing.center_crop for stage in self.stages.values())

    def check_stage2(self, always: bool) -> None:
        """Check that there is a stage 2 if it is to run on every galaxy.

        Raises
        ------
        UserError
            If there is none.
        """
        if always and not self.taxonomy.combined:
            raise UserError(
                "--stage2 always: this model has no stage 2, its one network tells all classes apart and the "
                "probabilities are exact without it; leave the option out"
            )


def bundle_files(bundle: ModelBundle) -> dict[str, bytes]:
    """The files of a bundle's folder by name; writing them is the caller's, local or remote.

    The description comes last: a folder without it is not a bundle.
    """
    files = {WEIGHT_FILES[name]: save(stage.weights) for name, stage in bundle.stages.items()}
    description = {
        "format_version": FORMAT_VERSION,
        "taxonomy": bundle.taxonomy.to_dict(),
        "stages": {
            name: {
                "backbone": stage.backbone,
                "preprocessing": stage.preprocessing.to_dict(),
                "label_smoothing": stage.label_smoothing,
                "weights": WEIGHT_FILES[name],
                "sha256": hashlib.sha256(files[WEIGHT_FILES[name]]).hexdigest(),
            }
            for name, stage in bundle.stages.items()
        },
        "member_frequencies": [float(share) for share in bundle.member_frequencies],
        "views": bundle.views,
        "rgb": bundle.rgb.model_dump(mode="json"),
        "calibration": None,
        "metrics": bundle.metrics,
        "provenance": {**bundle.provenance, "versions": library_versions()},
    }
    files[DESCRIPTION] = (json.dumps(description, indent=2, ensure_ascii=False) + "\n").encode()
    return files


def load_bundle(folder: str | Path) -> ModelBundle:
    """A bundle from a local folder, every weight file checked against its hash.

    Raises
    ------
    UserError
        If a file is missing or changed, or the format is not known.
    """

    def read(name: str) -> bytes:
        path = Path(folder) / name
        if not path.is_file():
            raise UserError(f"no model bundle at {str(folder)!r}: {name} is missing")
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
    try:
        data = json.loads(content)
        if data["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"model bundle {place!r} has format {data['format_version']}, "
                f"this HIWL reads {FORMAT_VERSION}"
            )
        stages = {name: _read_stage(read, stage, place) for name, stage in data["stages"].items()}
        return ModelBundle(
            taxonomy=Taxonomy.from_dict(data["taxonomy"]),
            stages=stages,
            member_frequencies=np.array(data["member_frequencies"], dtype=np.float64),
            views=int(data["views"]),
            # Bundles made before FITS cutouts were read do not have it.
            rgb=RgbSettings.model_validate(data.get("rgb", {})),
            metrics=data["metrics"],
            provenance=data["provenance"],
            model_id=hashlib.sha256(content).hexdigest()[:16],
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"model bundle {place!r}: {DESCRIPTION} is not JSON ({error})") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, ("rgb", *problem["loc"])))
        raise UserError(f"model bundle {place!r}: {DESCRIPTION}: {where}: {problem['msg']}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"model bundle {place!r}: {DESCRIPTION} lacks {error}") from None


def library_versions() -> dict[str, str]:
    """Versions that a model's numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
    }


def _read_stage(read: Any, data: dict[str, Any], place: str) -> StageModel:
    content = read(data["weights"])
    digest = hashlib.sha256(content).hexdigest()
    if digest != data["sha256"]:
        raise UserError(
            f"model bundle {place!r}: {data['weights']} has sha256 {digest[:12]}..., "
            f"not {data['sha256'][:12]}... as when it was made; copy the bundle again from its source"
        )
    try:
        weights = load(content)
    except SafetensorError as error:
        raise UserError(f"model bundle {place!r}: {data['weights']} is not safetensors ({error})") from None
    return StageModel(
        backbone=data["backbone"],
        preprocessing=Preprocessing.from_dict(data["preprocessing"]),
        label_smoothing=float(data["label_smoothing"]),
        weights=weights,
    )
