"""Weights that a network starts from: read from a file, checked and loaded into the trunk."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hiwl_core.backbones.backbone_spec import BackboneSpec, Weights
from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.errors import UserError

__all__ = ["load_weights", "read_weights"]


def load_weights(model: ImageClassifier, weights: Weights, source: str) -> None:
    """Load the trunk's weights; the head stays as it is, since its classes may be others.

    Tensors that the trunk does not have are left out: heads of other classes, auxiliary classifiers.

    Raises
    ------
    UserError
        If a tensor of the trunk is missing or has another shape.
    """
    weights = model.fitted(weights)
    taken: Weights = {}
    for name, tensor in model.state_dict().items():
        if name.startswith("head."):
            continue
        if name not in weights:
            # Older files do not have this count, which only matters where momentum is None.
            if name.endswith(".num_batches_tracked"):
                continue
            raise UserError(f"{source}: no tensor {name!r}; are these weights of another backbone?")
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{source}: {name!r} has shape {tuple(weights[name].shape)}, not {tuple(tensor.shape)}"
            )
        taken[name] = weights[name]
    model.load_state_dict(taken, strict=False)


def read_weights(path: Path, entry: BackboneSpec) -> Weights:
    """A ``.safetensors`` or ``.pth`` file under the names of HIWL's networks.

    Raises
    ------
    UserError
        If there is no such file, or it is none of tensors.
    """
    if not path.is_file():
        raise UserError(f"no weights file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is no weights file: {str(error).splitlines()[0]}") from None
    tensors = isinstance(weights, dict) and all(isinstance(one, torch.Tensor) for one in weights.values())
    if not tensors:
        raise UserError(f"{path} is no weights file: it holds more than tensors; save a state dict alone")
    if any(name.startswith("trunk.") for name in weights):
        return weights
    return entry.rename(weights)
