"""What a network knows of a galaxy before it decides: the features that its head reads."""

from __future__ import annotations

import numpy as np
import torch

from hiwl_core.backbones import ImageClassifier
from hiwl_core.cutouts import Preprocessing, normalize
from hiwl_core.device import ComputePlan, choose_compute

__all__ = ["penultimate_features"]


@torch.inference_mode()
def penultimate_features(
    model: ImageClassifier,
    preprocessing: Preprocessing,
    pixels: np.ndarray,
    compute: ComputePlan | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """Features of the layer before the head.

    Parameters
    ----------
    model : ImageClassifier
        Is moved to the device and left in eval mode.
    preprocessing : Preprocessing
        Its normalization is applied here.
    pixels : numpy.ndarray of uint8, shape (N, H, W, 3)
        As `hiwl_core.cutouts.EvalTransform` makes them.
    compute : ComputePlan, optional
        Default: `hiwl_core.device.choose_compute`.
    batch_size : int
        Images at once; it bounds the memory.

    Returns
    -------
    numpy.ndarray of float32, shape (N, feature_width)
    """
    compute = compute or choose_compute()
    model.to(compute.device).eval()
    rows = [np.empty((0, model.head.in_features), np.float32)]
    for start in range(0, len(pixels), batch_size):
        batch = torch.from_numpy(pixels[start : start + batch_size]).to(compute.device)
        with compute.autocast():
            features = model.features(normalize(batch, preprocessing.mean, preprocessing.std))
        rows.append(features.float().cpu().numpy())
    return np.concatenate(rows)
