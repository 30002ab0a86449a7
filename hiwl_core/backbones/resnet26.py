"""ResNet-26, made for the five classes of Galaxy Zoo (Zhu et al. 2019, Ap&SS 364, 55).

Its bottlenecks normalize and activate before each convolution (He et al. 2016, arXiv:1603.05027) and are
twice as wide as usual (k = 2; Zagoruyko & Komodakis 2016, arXiv:1605.07146): m k channels inside, 4 m k in
the end. A stage halves the maps at its end, in the last convolution of its second bottleneck; the shortcut
around that takes every other pixel.

The network that Ma et al. (2023, MNRAS 519, 4765) compare with has, in their code, the same convolutions.
It takes every other pixel after the first convolution and maxima in the shortcuts, here it is the other way
round; its normalizations of one width in a stage are one, and no ReLU follows the last; dropout is 0.33 or
0.35.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from hiwl_core.backbones.backbone_spec import galaxy_spec
from hiwl_core.backbones.classifier import ImageClassifier

__all__ = ["SPEC"]

NAME = "resnet26"
INPUT_SIZE = 64
STEM_WIDTH = 64
STAGE_WIDTHS = (64, 128, 256, 512)
WIDENING = 2
EXPANSION = 4
DROPOUT = 0.2
FEATURE_WIDTH = EXPANSION * STAGE_WIDTHS[-1] * WIDENING


class Bottleneck(nn.Module):
    """A pre-activation bottleneck: 1x1, 3x3, dropout, 1x1, and the shortcut around them.

    Parameters
    ----------
    width_in : int
        Channels of the input.
    width : int
        Channels inside; the output has four times as many.
    stride : int
        Of the last convolution.
    """

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        width_out = EXPANSION * width
        self.norm1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(DROPOUT)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width_out, 1, stride, bias=False)
        self.relu = nn.ReLU()
        # The shortcut has weights only where the number of channels changes; maps are thinned out without.
        self.project = nn.Conv2d(width_in, width_out, 1, bias=False) if width_in != width_out else None
        self.thin = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, width_in, H, W) to (N, 4 width, H / stride, W / stride)."""
        active = self.relu(self.norm1(maps))
        shortcut = maps if self.project is None else self.project(active)
        inner = self.conv1(active)
        inner = self.dropout(self.conv2(self.relu(self.norm2(inner))))
        return self.conv3(self.relu(self.norm3(inner))) + self.thin(shortcut)


def _build(num_classes: int, _input_size: int) -> ImageClassifier:
    """The network with random weights, after He et al. (2015, arXiv:1502.01852)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        # 64 x 64 pixels stay 64 x 64.
        pad=nn.ZeroPad2d((2, 3, 2, 3)),
        stem=nn.Conv2d(3, STEM_WIDTH, 6, bias=False),
        pool=nn.MaxPool2d(2),
    )
    width_in = STEM_WIDTH
    for number, m in enumerate(STAGE_WIDTHS, 1):
        width = m * WIDENING
        width_out = EXPANSION * width
        stride = 2 if number < len(STAGE_WIDTHS) else 1
        layers[f"stage{number}"] = nn.Sequential(
            Bottleneck(width_in, width, 1), Bottleneck(width_out, width, stride)
        )
        width_in = width_out
    layers.update(norm=nn.BatchNorm2d(FEATURE_WIDTH), relu=nn.ReLU())
    layers.update(average=nn.AvgPool2d(4), flatten=nn.Flatten(1))
    trunk = nn.Sequential(layers)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return ImageClassifier(trunk, FEATURE_WIDTH, num_classes, dropout=0.0)


SPEC = galaxy_spec(NAME, INPUT_SIZE, FEATURE_WIDTH, "trunk.stage4", _build)
