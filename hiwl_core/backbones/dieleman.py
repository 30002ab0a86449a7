"""The network that won the Galaxy Zoo challenge (Dieleman, Willett & Dambre 2015, MNRAS 450, 1441).

As Ma et al. (2023, MNRAS 519, 4765) compare with it: one view of 45 x 45 pixels and dense layers with ReLU.
The original sees 16 parts of each galaxy through the same convolutions and has maxout layers.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from hiwl_core.backbones.backbone_spec import galaxy_spec
from hiwl_core.backbones.classifier import ImageClassifier

__all__ = ["SPEC"]

NAME = "dieleman"
INPUT_SIZE = 45
DENSE_WIDTH = 2048
DROPOUT = 0.5


def _build(num_classes: int, _input_size: int) -> ImageClassifier:
    """The network with random weights, after He et al. (2015, arXiv:1502.01852)."""
    trunk = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 32, 6),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 64, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(64, 128, 3),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(128, 128, 3),
            relu4=nn.ReLU(),
            pool4=nn.MaxPool2d(2),
            flatten=nn.Flatten(1),
            # 128 channels of 2 x 2 pixels are left of 45 x 45.
            dense1=nn.Linear(128 * 2 * 2, DENSE_WIDTH),
            relu5=nn.ReLU(),
            dropout1=nn.Dropout(DROPOUT),
            dense2=nn.Linear(DENSE_WIDTH, DENSE_WIDTH),
            relu6=nn.ReLU(),
        )
    )
    for layer in trunk:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return ImageClassifier(trunk, DENSE_WIDTH, num_classes, DROPOUT)


SPEC = galaxy_spec(NAME, INPUT_SIZE, DENSE_WIDTH, "trunk.conv4", _build)
