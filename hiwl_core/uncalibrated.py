"""What the networks themselves said, recovered from the calibrated probabilities that a catalog holds."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from hiwl_core.errors import UserError
from hiwl_core.stage_calibration import StageCalibration
from hiwl_core.taxonomy import FIRST_STAGE, Taxonomy

__all__ = ["uncalibrated_stage1"]

# A catalog's probabilities are float32, which knows no smaller ones but in fewer digits.
FLOOR = float(np.finfo(np.float32).tiny)


def uncalibrated_stage1(
    probabilities: np.ndarray, taxonomy: Taxonomy, calibration: StageCalibration
) -> np.ndarray:
    """Stage 1's own probabilities, from the calibrated ones of all classes.

    Calibration loses nothing: p' = softmax(log p / T + b) has the inverse p = softmax(T (log p' - b)). By the
    product rule, stage 1's calibrated probability of a group is the sum of its members'.

    Parameters
    ----------
    probabilities : numpy.ndarray of float, shape (N, C)
        Calibrated, in the taxonomy's class order and under the prior that the calibration was fitted at.
    taxonomy : Taxonomy
    calibration : StageCalibration
        Of stage 1.

    Returns
    -------
    numpy.ndarray of float64, shape (N, K1)
        In the order of stage 1's classes; rows sum to 1. A row with a NaN is NaN.

    Raises
    ------
    UserError
        If the probabilities or the calibration are of another number of classes.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    stage1_classes = taxonomy.stage_classes(FIRST_STAGE)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(taxonomy.classes):
        raise UserError(
            f"probabilities of shape {probabilities.shape} for the {len(taxonomy.classes)} classes "
            f"{', '.join(taxonomy.classes)}: they must have the shape (N, {len(taxonomy.classes)})"
        )
    if len(calibration.biases) != len(stage1_classes):
        raise UserError(
            f"a calibration of {len(calibration.biases)} classes for a stage 1 that tells apart "
            f"{', '.join(stage1_classes)}: take the model from its source again"
        )
    calibrated = np.zeros((len(probabilities), len(stage1_classes)))
    targets = taxonomy.stage_targets(FIRST_STAGE, np.arange(len(taxonomy.classes)))
    for index, target in enumerate(targets.tolist()):
        calibrated[:, target] += probabilities[:, index]
    logs = np.log(np.maximum(calibrated, FLOOR)) - np.array(calibration.biases)
    return np.asarray(softmax(calibration.temperature * logs, axis=1))
