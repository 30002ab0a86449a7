"""All that an engine runs for one stage, as one graph: from pixels to class probabilities and features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.cutouts import Preprocessing, normalize

__all__ = ["GraphModule", "QuantizedGraph", "StageGraph"]


@dataclass(frozen=True)
class QuantizedGraph:
    """A stage's graph in int8, as OpenVINO keeps it; see `hiwl_core.engines.quantization`.

    Parameters
    ----------
    model, weights : bytes
        The two files of OpenVINO's intermediate representation: XML, and the constants.
    """

    model: bytes
    weights: bytes


@dataclass(frozen=True)
class StageGraph:
    """What an engine is to compute: normalization, network, softmax, of images as they are.

    Further views of an image go through the same graph (`Engine.submit`), so that there is one of it, one in
    the cache, and one set of weights in memory.

    Parameters
    ----------
    network : callable
        Makes the network, from images to logits; called only where no exported graph is found.
    preprocessing : Preprocessing
    quantized : QuantizedGraph, optional
        The same in int8, for engines that compute so.
    """

    network: Callable[[], ImageClassifier]
    preprocessing: Preprocessing
    quantized: QuantizedGraph | None = None

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Of one image: (H, W, 3)."""
        size = self.preprocessing.input_size
        return (size, size, 3)

    def module(self) -> GraphModule:
        """The graph in PyTorch."""
        return GraphModule(self.network(), self.preprocessing)


class GraphModule(nn.Module):
    """A stage's graph in PyTorch: uint8 in, probabilities and features out.

    Normalization is part of it, so that pixels travel as one byte a channel and an engine may fold it into
    the first convolution.
    """

    def __init__(self, network: ImageClassifier, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network.eval()
        self.preprocessing = preprocessing

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Class probabilities and penultimate features.

        Parameters
        ----------
        pixels : Tensor of uint8, shape (N, H, W, 3)

        Returns
        -------
        probabilities : Tensor of float32, shape (N, K)
        features : Tensor of float32, shape (N, F)
        """
        features = self.network.features(normalize(pixels, self.preprocessing.mean, self.preprocessing.std))
        logits = self.network.head(features)
        return torch.softmax(logits.float(), dim=1), features.float()
