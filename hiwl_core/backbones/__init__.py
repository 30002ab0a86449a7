"""The registry of backbones: networks by name, each with what the rest needs to know of it."""

from __future__ import annotations

from pathlib import Path

from hiwl_core.backbones import (
    dieleman,
    efficientnet_lite,
    neural_ode,
    resnet26,
    timm_networks,
    torchvision_networks,
)
from hiwl_core.backbones.backbone_spec import BackboneSpec
from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.backbones.pretrained_weights import load_weights, read_weights
from hiwl_core.errors import UserError

__all__ = [
    "BackboneSpec",
    "ImageClassifier",
    "available_backbones",
    "create_backbone",
    "load_weights",
    "spec",
]

_REGISTRY = {
    entry.name: entry
    for entry in (
        dieleman.SPEC,
        resnet26.SPEC,
        neural_ode.SPEC,
        *torchvision_networks.SPECS,
        *efficientnet_lite.SPECS,
    )
}


def available_backbones() -> list[str]:
    """Names that `create_backbone` knows, apart from timm's."""
    return sorted(_REGISTRY)


def spec(name: str) -> BackboneSpec:
    """What is known of a backbone.

    Raises
    ------
    UserError
        If there is no such backbone, or it is timm's and timm is not installed.
    """
    if name.startswith(timm_networks.PREFIX):
        return timm_networks.spec(name)
    try:
        return _REGISTRY[name]
    except KeyError:
        known = ", ".join([*available_backbones(), f"{timm_networks.PREFIX}<name>"])
        raise UserError(f"no backbone {name!r}: there are {known}") from None


def create_backbone(
    name: str, num_classes: int, pretrained: bool | str | Path = False, input_size: int | None = None
) -> ImageClassifier:
    """A network by name, ready to train or to load weights into.

    Parameters
    ----------
    name : str
        One of `available_backbones`, or ``timm:<name>``.
    num_classes : int
        Width of the head, which always starts random.
    pretrained : bool, str or Path
        True: ImageNet weights for all but the head. A path: a local ``.safetensors`` or ``.pth`` file, HIWL's
        own or that of the library which has the network. False: random weights.
    input_size : int, optional
        Pixels on a side of the inputs; default the backbone's own. Some backbones are made for it.

    Raises
    ------
    UserError
        If the name is unknown, the network does not take the input size, or the weights are out of reach or
        do not fit.
    """
    entry = spec(name)
    size = input_size or entry.input_size
    entry.check_input(size)
    model = entry.build(num_classes, size)
    if pretrained is True:
        load_weights(model, entry.imagenet_trunk(), source=f"ImageNet weights of {name}")
    elif pretrained:
        load_weights(model, read_weights(Path(pretrained), entry), source=str(pretrained))
    return model
