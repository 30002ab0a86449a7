"""All that an engine runs for one stage, as one graph: from pixels to class probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hiwl_core.cascade import seen_views
from hiwl_core.cutouts import Preprocessing, normalize

__all__ = ["GraphModule", "StageGraph"]


@dataclass(frozen=True)
class StageGraph:
    """What an engine is to compute: normalization, network, softmax and the mean over the views.

    Parameters
    ----------
    network : callable
        Makes the network, from images to logits; called only where no exported graph is found.
    preprocessing : Preprocessing
    views : int
        Flips and quarter turns to average; see `hiwl_core.cascade.seen_views`.
    """

    network: Callable[[], nn.Module]
    preprocessing: Preprocessing
    views: int

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """Of one image: (H, W, 3)."""
        size = self.preprocessing.input_size
        return (size, size, 3)

    def module(self) -> GraphModule:
        """The graph in PyTorch."""
        return GraphModule(self.network(), self.preprocessing, self.views)


class GraphModule(nn.Module):
    """A stage's graph in PyTorch: uint8 in, probabilities out.

    Normalization is part of it, so that pixels travel as one byte a channel and an engine may fold it into
    the first convolution.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, views: int) -> None:
        super().__init__()
        self.network = network.eval()
        self.preprocessing, self.views = preprocessing, views

    def forward(self, pixels: Tensor) -> Tensor:
        """Class probabilities.

        Parameters
        ----------
        pixels : Tensor of uint8, shape (N, H, W, 3)

        Returns
        -------
        Tensor of float32, shape (N, K)
        """
        # The views go through the network as one batch: the graph holds the network once.
        seen = torch.cat(seen_views(pixels, self.views))
        logits = self.network(normalize(seen, self.preprocessing.mean, self.preprocessing.std))
        probabilities = torch.softmax(logits.float(), dim=1)
        return probabilities.unflatten(0, (self.views, -1)).mean(dim=0)
