"""What the paper reports (Ma et al. 2023, MNRAS 519, 4765), to stand beside what is measured here.

All figures are of its test part, 2,881 galaxies, and of its best model, unless said otherwise. Classes and
metrics have the names of `hiwl_core.metrics.class_table`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "ACCURACY",
    "BEST_BACKBONE",
    "BY_METHOD",
    "CLASSES",
    "TABLE_3",
    "TABLE_4",
    "TABLE_5",
    "TABLE_6",
    "TABLE_7",
    "TABLE_8",
    "TRAININGS",
    "VALIDATION_ACCURACY",
    "WORDS_9_TO_11",
    "BackboneAccuracy",
    "EarlierWork",
    "StageTraining",
    "published_figures",
    "set_beside",
]

BEST_BACKBONE = "efficientnet_b1"
"""That of its best model, of which all its figures are but those of Tables 7 and 8."""

CLASSES = ("CRS", "IBS", "CSS", "EO", "SPI")
ACCURACY = ("all", "accuracy")

Figures = dict[tuple[str, str], float]
"""By class and metric; the averages over the classes under ``"average"``, accuracy under `ACCURACY`."""


def _of_classes(metric: str, *values: float) -> Figures:
    """Five figures by class, and the average if there is a sixth."""
    return {(name, metric): value for name, value in zip((*CLASSES, "average"), values, strict=False)}


TABLE_3 = (
    (813, 26, 0, 0, 5),
    (25, 777, 0, 0, 5),
    (0, 6, 41, 11, 0),
    (0, 1, 11, 376, 3),
    (2, 8, 0, 3, 768),
)
"""The confusion matrix of HIWL, true classes in rows."""

TABLE_4 = {
    **_of_classes("recall", 0.9633, 0.9628, 0.7069, 0.9616, 0.9834, 0.9156),
    **_of_classes("precision", 0.9679, 0.9499, 0.7855, 0.9641, 0.9834, 0.9302),
    **_of_classes("f1", 0.9656, 0.9563, 0.7455, 0.9629, 0.9834, 0.9227),
    ACCURACY: 0.9632,
}
"""HIWL by class, as printed. By `TABLE_3` the precision of CSS is 41/52 = .7885, not .7855: its F1 is of the
right one, the average precision of the wrong one."""

TABLE_5 = {**_of_classes("recall", 0.9763, 0.9579, 0.6207, 0.9335, 0.9795), ACCURACY: 0.9590}
"""One layer, weighted sampling, label smoothing (SLWSLM): HIWL without its hierarchy. An epoch is 48 s
shorter, which is the time of the second stage."""

TABLE_6 = {**_of_classes("recall", 0.9668, 0.9616, 0.6724, 0.9437, 0.9821), ACCURACY: 0.9604}
"""Hierarchy and weighted sampling (HMWS): HIWL without label smoothing."""


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


@dataclass(frozen=True)
class EarlierWork:
    """A row of the paper's Table 8.

    Parameters
    ----------
    authors, network : str
    classes : int
    accuracy : float
    sample : str
        Which part the accuracy is of. By the paper's text the highest validation accuracy, where it does not
        say test.
    """

    authors: str
    network: str
    classes: int
    accuracy: float
    sample: str = "validation"


TABLE_8 = (
    EarlierWork("Reza 2021", "ANN", 4, 0.982, "test"),
    EarlierWork("Zhu et al. 2019", "ResNet-26", 5, 0.9521),
    EarlierWork("Zhang et al. 2022", "SC-Net", 5, 0.9470),
    EarlierWork("Gupta et al. 2022", "NODE-ACA", 5, 0.9500),
    EarlierWork("Silva & Ventura 2019", "", 6, 0.9401),
    EarlierWork("Goyal et al. 2020", "layered CNN", 3, 0.8833),
    EarlierWork("Jimenez et al. 2020", "", 2, 0.9643),
    EarlierWork("Lin et al. 2021", "ViT", 8, 0.8121, "test"),
    EarlierWork("Kalvankar et al. 2020", "EfficientNet-B5", 7, 0.9370),
    EarlierWork("Ma et al. 2023", "HIWL", 5, 0.9722),
    EarlierWork("Ma et al. 2023", "HIWL", 5, 0.9632, "test"),
)
"""The literature, of other galaxies and other classes: no comparison of methods."""

WORDS_9_TO_11 = (
    "Tables 9 to 11 are of the validation galaxies; the paper's figures were not at hand, its words are: "
    "HIWL's recall is above ResNet-26's and NODE-ACA's in every class; SC-Net's is higher for CRS, IBS and "
    "CSS and more than 10 points lower for EO; HIWL's precision and F1 are the highest.",
    "SC-Net is not built here, and no network here is near it; NODE-ACA stands here as `neural_ode`, after "
    "its description.",
)
"""What is known of Tables 9, 10 and 11."""


@dataclass(frozen=True)
class StageTraining:
    """The training of a stage (section 4.3): its epochs, and the accuracy of the three best by epoch."""

    epochs: int
    best: dict[int, float]


TRAININGS = {
    "stage1": StageTraining(123, {90: 0.9784, 98: 0.9802, 120: 0.9791}),
    "stage2": StageTraining(96, {47: 0.9530, 57: 0.9508, 62: 0.9508}),
}
"""Validation accuracies of each stage on its own classes."""

VALIDATION_ACCURACY = 0.9722
"""On the 2,878 validation galaxies by which it was chosen."""

BY_METHOD = {"hiwl": TABLE_4, "slwslm": TABLE_5, "hmws": TABLE_6, "plain": {ACCURACY: 0.9542}}
"""Of EfficientNet-B1: the best models, and of the plain network the mean of Table 7."""


def set_beside(backbone: str) -> str:
    """The paper's backbone whose figures stand beside those of one here: its own, or else the best."""
    return backbone if backbone in TABLE_7 else BEST_BACKBONE


def published_figures(backbone: str, method: str) -> Figures:
    """The paper's figures of a method with the backbone that `set_beside` gives; empty where it has none."""
    of = set_beside(backbone)
    if of == BEST_BACKBONE:
        return BY_METHOD.get(method, {})
    accuracy = {"plain": TABLE_7[of].plain, "hiwl": TABLE_7[of].hiwl}.get(method, math.nan)
    return {} if math.isnan(accuracy) else {ACCURACY: accuracy}
