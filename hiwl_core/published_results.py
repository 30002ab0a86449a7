"""What the paper reports (Ma et al. 2023, MNRAS 519, 4765), to stand beside what is measured here.

All figures are of its test part, 2,881 galaxies, unless said otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "BEST_BACKBONE",
    "HIWL_PRECISION",
    "HIWL_RECALL",
    "METHOD_ACCURACY",
    "TABLE_7",
    "VALIDATION_ACCURACY",
    "BackboneAccuracy",
    "published_accuracy",
    "set_beside",
]

BEST_BACKBONE = "efficientnet_b1"
"""That of its best model, of which all its figures are but those of Table 7."""


@dataclass(frozen=True)
class BackboneAccuracy:
    """A row of the paper's Table 7: accuracy of a backbone alone, and inside HIWL."""

    plain: float
    hiwl: float


TABLE_7 = {
    "dieleman": BackboneAccuracy(0.9337, 0.9400),
    "resnet26": BackboneAccuracy(0.9074, 0.9147),
    "vgg16": BackboneAccuracy(0.9431, 0.9469),
    "googlenet": BackboneAccuracy(0.9480, 0.9507),
    "resnet34": BackboneAccuracy(0.9507, 0.9597),
    "resnet50": BackboneAccuracy(0.9469, 0.9497),
    "efficientnet_b0": BackboneAccuracy(0.9521, 0.9577),
    "efficientnet_b1": BackboneAccuracy(0.9542, 0.9612),
    "efficientnet_b2": BackboneAccuracy(0.9503, 0.9580),
    "vit_b_16": BackboneAccuracy(0.9264, 0.9451),
}
"""Means of several trainings, in the paper's order."""

METHOD_ACCURACY = {"hiwl": 0.9632, "slwslm": 0.9590, "hmws": 0.9604, "plain": 0.9542}
"""Of EfficientNet-B1: the paper's best model, without hierarchy, without label smoothing, with none of the
three (a mean, from Table 7)."""

VALIDATION_ACCURACY = 0.9722
"""Of the best model, on the 2,878 validation galaxies by which it was chosen."""

HIWL_RECALL = {"CRS": 0.9633, "IBS": 0.9628, "CSS": 0.7069, "EO": 0.9616, "SPI": 0.9834}
"""Of the best model, by class (Table 4)."""

HIWL_PRECISION = {"CSS": 41 / 52}
"""Of the best model (Table 4), which prints .7855 for 41 / 52 = .7885."""


def set_beside(backbone: str) -> str:
    """The paper's backbone whose figures stand beside those of one here: its own, or else the best."""
    return backbone if backbone in TABLE_7 else BEST_BACKBONE


def published_accuracy(backbone: str, method: str) -> float:
    """The paper's accuracy of a method with the backbone that `set_beside` gives; NaN where it has none."""
    of = set_beside(backbone)
    if of == BEST_BACKBONE:
        return METHOD_ACCURACY.get(method, math.nan)
    return {"plain": TABLE_7[of].plain, "hiwl": TABLE_7[of].hiwl}.get(method, math.nan)
