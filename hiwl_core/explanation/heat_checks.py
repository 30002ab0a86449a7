"""Whether heat maps say anything of the network: two checks of them."""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from hiwl_core.backbones import ImageClassifier
from hiwl_core.cutouts import Preprocessing, normalize

__all__ = ["HeatChecks", "deletion_curves", "likeness", "rim_color", "shuffled_network"]

SHARES = tuple(np.linspace(0, 0.9, 10).round(1).tolist())
"""Of an image's pixels, that are taken away for a deletion curve."""

RIM = 0.08
BATCH = 64


class HeatChecks(NamedTuple):
    """What the checks say of the heat maps of some galaxies.

    Parameters
    ----------
    hottest_first, coldest_first : numpy.ndarray of float, shape (N,)
        Area under the deletion curve, from 0 to 1, when a map's hottest pixels go first, and when its
        coldest do. Heat on what decides makes the first small and the second large.
    random_likeness : numpy.ndarray of float, shape (N,)
        Rank correlation with the map of the same network with its weights in another order.
    """

    hottest_first: np.ndarray
    coldest_first: np.ndarray
    random_likeness: np.ndarray


def deletion_curves(
    model: ImageClassifier,
    preprocessing: Preprocessing,
    pixels: np.ndarray,
    order: np.ndarray,
    targets: np.ndarray,
) -> np.ndarray:
    """How much of a class is left while pixels are taken away (Petsiuk et al. 2018, arXiv:1806.07421).

    In the place of a pixel comes the sky: the median of the image's rim, which leaves no edge that the image
    did not have, as black or gray would.

    Parameters
    ----------
    model : ImageClassifier
        In eval mode.
    preprocessing : Preprocessing
        Its normalization is applied here.
    pixels : numpy.ndarray of uint8, shape (N, H, H, 3)
    order : numpy.ndarray of float, shape (N, H, H)
        The largest go first.
    targets : numpy.ndarray of int, shape (N,)
        The class of each image, as a position among the logits.

    Returns
    -------
    numpy.ndarray of float, shape (N, len(SHARES))
        Probabilities of the class.
    """
    count, side = pixels.shape[:2]
    ranks = np.argsort(np.argsort(-order.reshape(count, -1), axis=1, kind="stable"), axis=1)
    sky = rim_color(pixels)[:, None, None]
    curves = np.empty((count, len(SHARES)))
    for column, share in enumerate(SHARES):
        gone = (ranks < share * side * side).reshape(count, side, side, 1)
        left = np.where(gone, sky, pixels).astype(np.uint8)
        curves[:, column] = _probabilities(model, preprocessing, left)[np.arange(count), targets]
    return curves


def rim_color(pixels: np.ndarray) -> np.ndarray:
    """The median color of each image's rim, uint8 of shape (N, 3)."""
    side = pixels.shape[1]
    width = max(1, round(RIM * side))
    rim = np.ones((side, side), bool)
    rim[width:-width, width:-width] = False
    return np.median(pixels[:, rim], axis=1).astype(np.uint8)


def likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rank correlation of maps (Adebayo et al. 2018, arXiv:1810.03292): of each pair, NaN if one is flat.

    Parameters
    ----------
    first, second : numpy.ndarray of float, shape (N, H, H)

    Returns
    -------
    numpy.ndarray of float, shape (N,)
    """
    return np.array(
        [
            np.nan
            if np.ptp(one) == 0 or np.ptp(other) == 0
            else spearmanr(one.ravel(), other.ravel()).statistic
            for one, other in zip(first, second, strict=True)
        ]
    )


def shuffled_network(model: ImageClassifier, seed: int) -> ImageClassifier:
    """A copy that knows nothing: the weights of each layer are its own in another order.

    So its signals are as large as before, which those of newly drawn weights are not, behind normalization
    layers whose statistics are of others.
    """
    random = torch.Generator().manual_seed(seed)
    shuffled = deepcopy(model)
    with torch.no_grad():
        for weights in shuffled.parameters():
            if weights.ndim > 1:
                order = torch.randperm(weights.numel(), generator=random).to(weights.device)
                weights.copy_(weights.flatten()[order].view_as(weights))
    return shuffled.eval()


def _probabilities(model: ImageClassifier, preprocessing: Preprocessing, pixels: np.ndarray) -> np.ndarray:
    device = model.head.weight.device
    parts: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(pixels), BATCH):
            batch = torch.from_numpy(pixels[start : start + BATCH]).to(device)
            parts.append(model(normalize(batch, preprocessing.mean, preprocessing.std)).softmax(1).cpu())
    return np.asarray(torch.cat(parts).numpy())
