"""EfficientNet-B0, B1 and B2 by torchvision (Tan & Le 2019, arXiv:1905.11946)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.errors import UserError

__all__ = ["FEATURE_WIDTHS", "build", "imagenet_trunk", "rename"]

FEATURE_WIDTHS = {"efficientnet_b0": 1280, "efficientnet_b1": 1280, "efficientnet_b2": 1408}


def build(name: str, num_classes: int) -> ImageClassifier:
    """The network with random weights."""
    # Here, since it takes two seconds, which those who need none of its networks should not wait for.
    from torchvision import models

    network = models.get_model(name, weights=None)
    trunk = nn.Sequential(
        OrderedDict(features=network.features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1))
    )
    return ImageClassifier(trunk, FEATURE_WIDTHS[name], num_classes, dropout=network.classifier[0].p)


def imagenet_trunk(name: str) -> dict[str, torch.Tensor]:
    """torchvision's ImageNet weights, from the cache or the network.

    Raises
    ------
    UserError
        If they are neither cached nor to be fetched.
    """
    from torchvision import models

    weights = models.get_model_weights(name).IMAGENET1K_V1
    try:
        return rename(weights.get_state_dict(progress=False, check_hash=True))
    # A download that was cut short raises RuntimeError over its hash.
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"no ImageNet weights for {name}: {weights.url} is out of reach ({error}); fetch it elsewhere "
            "and set stage1.init to the file's path, or train from scratch with stage1.init=random"
        ) from None


def rename(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """torchvision's tensor names to those of `build`; its ImageNet head is left out."""
    return {f"trunk.{name}": tensor for name, tensor in weights.items() if name.startswith("features.")}
