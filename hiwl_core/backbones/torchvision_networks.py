"""The networks that come from torchvision, with their heads taken off.

EfficientNet: Tan & Le 2019, arXiv:1905.11946. GoogLeNet: Szegedy et al. 2015, arXiv:1409.4842. ResNet: He et
al. 2016, arXiv:1512.03385. VGG: Simonyan & Zisserman 2015, arXiv:1409.1556. ViT: Dosovitskiy et al. 2021,
arXiv:2010.11929.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hiwl_core.backbones.backbone_spec import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneSpec,
    Weights,
    any_size,
    multiples_of,
    under_trunk,
)
from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.errors import UserError

__all__ = ["SPECS"]

# Of the patches of ViT-B/16.
PATCH = 16
POSITIONS = "trunk.encoder.pos_embedding"


@dataclass(frozen=True)
class Network:
    """What differs from one network to the next.

    Parameters
    ----------
    input_size : int
    feature_width : int
    head : tuple of str
        Modules of torchvision's network that are left out: its last layer and the dropout before that, which
        `ImageClassifier` has of its own.
    dropout : float
        Probability before the head.
    gradcam_layer : str
        In torchvision's network.
    options : dict
        For torchvision's constructor.
    """

    input_size: int
    feature_width: int
    head: tuple[str, ...]
    dropout: float
    gradcam_layer: str
    options: dict[str, Any] = field(default_factory=dict)


_EFFICIENTNET = partial(Network, head=("classifier",), gradcam_layer="features.8")
_RESNET = partial(Network, head=("fc",), dropout=0.0, gradcam_layer="layer4")

_NETWORKS = {
    "efficientnet_b0": _EFFICIENTNET(224, 1280, dropout=0.2),
    "efficientnet_b1": _EFFICIENTNET(240, 1280, dropout=0.2),
    "efficientnet_b2": _EFFICIENTNET(260, 1408, dropout=0.3),
    "efficientnet_b5": _EFFICIENTNET(456, 2048, dropout=0.4),
    # Its auxiliary heads would make forward return tuples, and are of no use to a network that normalizes.
    "googlenet": Network(
        224, 1024, ("dropout", "fc"), 0.2, "inception5b", {"aux_logits": False, "init_weights": True}
    ),
    "resnet34": _RESNET(224, 512),
    "resnet50": _RESNET(224, 2048),
    # The ReLU after the last convolution, since it overwrites what the convolution puts out.
    "vgg16": Network(224, 4096, ("classifier.5", "classifier.6"), 0.5, "features.29"),
    "vit_b_16": Network(224, 768, ("heads",), 0.0, "encoder.layers.encoder_layer_11.ln_1"),
}


class VisionTransformer(ImageClassifier):
    """ViT, whose position embedding is that of one input size."""

    def fitted(self, weights: Weights) -> Weights:
        """Interpolate the position embedding to this network's grid of patches."""
        from torchvision.models.vision_transformer import interpolate_embeddings

        if POSITIONS not in weights:
            return weights
        state = {"encoder.pos_embedding": weights[POSITIONS]}
        try:
            fitted = interpolate_embeddings(self.trunk.image_size, PATCH, state)
        # No square grid: the shape is then refused as that of any other tensor.
        except ValueError:
            return weights
        return {**weights, POSITIONS: fitted["encoder.pos_embedding"]}


def _build(name: str, num_classes: int, input_size: int) -> ImageClassifier:
    """The network with random weights."""
    # Here, since it takes two seconds, which those who need none of its networks should not wait for.
    from torchvision import models

    facts = _NETWORKS[name]
    is_vit = name == "vit_b_16"
    options = {"image_size": input_size} if is_vit else facts.options
    network = models.get_model(name, weights=None, **options)
    for module in facts.head:
        network.set_submodule(module, nn.Identity())
    make = VisionTransformer if is_vit else ImageClassifier
    return make(network, facts.feature_width, num_classes, facts.dropout)


def _imagenet_trunk(name: str) -> Weights:
    """torchvision's ImageNet weights, from the cache or the network."""
    from torchvision import models

    weights = models.get_model_weights(name).IMAGENET1K_V1
    try:
        return _rename(weights.get_state_dict(progress=False, check_hash=True))
    # A download that was cut short raises RuntimeError over its hash.
    except (OSError, RuntimeError) as error:
        cached = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(weights.url))
        raise UserError(
            f"no ImageNet weights for {name}: {weights.url} is out of reach ({error}); fetch it elsewhere "
            f"and put it at {cached}, or set stage1.init to the file's path, or train from scratch with "
            "stage1.init=random"
        ) from None


def _rename(weights: dict[str, Tensor]) -> Weights:
    """torchvision's tensor names to those of `_build`; in files of ViT the older ones of its MLP too."""
    newer = {"mlp.linear_1.": "mlp.0.", "mlp.linear_2.": "mlp.3."}
    renamed = {}
    for name, tensor in under_trunk(weights).items():
        for old, new in newer.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    return renamed


def _spec(name: str) -> BackboneSpec:
    facts = _NETWORKS[name]
    is_vit = name == "vit_b_16"
    # torchvision feeds its pretrained GoogLeNet (x - 0.5) / 0.5, made inside of the network from what it
    # normalized as for the others; here it is made at once.
    half = (0.5, 0.5, 0.5)
    mean, std = (half, half) if name == "googlenet" else (IMAGENET_MEAN, IMAGENET_STD)
    return BackboneSpec(
        name=name,
        input_size=facts.input_size,
        mean=mean,
        std=std,
        feature_width=facts.feature_width,
        gradcam_layer=f"trunk.{facts.gradcam_layer}",
        build=partial(_build, name),
        imagenet_trunk=partial(_imagenet_trunk, name),
        rename=_rename,
        check_input=multiples_of(name, PATCH) if is_vit else any_size,
        gradcam_layout="NLC" if is_vit else "NCHW",
        prefix_tokens=1 if is_vit else 0,
    )


SPECS = tuple(_spec(name) for name in _NETWORKS)
