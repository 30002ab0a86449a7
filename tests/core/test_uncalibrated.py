import numpy as np
import pytest
from scipy.special import softmax

from hiwl_core.calibration import Calibration
from hiwl_core.cascade import combine_stages, route
from hiwl_core.errors import UserError
from hiwl_core.stage_calibration import StageCalibration
from hiwl_core.taxonomy import GALAXY_ZOO
from hiwl_core.uncalibrated import uncalibrated_stage1
from tests.stages import FREQUENCIES, both


def outputs(count: int, num_classes: int, seed: int) -> np.ndarray:
    """What a network may say, as float32: some of it is very sure."""
    logits = np.random.default_rng(seed).normal(scale=3.0, size=(count, num_classes))
    return softmax(logits, axis=1).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_networks_own_probabilities_come_back_from_the_catalogs(temperature: float) -> None:
    stage1, stage2 = outputs(500, 4, seed=0), outputs(500, 2, seed=1)
    stage2 = route(both(stage1, stage2), GALAXY_ZOO)["stage2"]
    stages = {
        "stage1": StageCalibration(temperature, (0.6, -0.4, 0.1, -0.3)),
        "stage2": StageCalibration(1.3, (-1.0, 1.0)),
    }
    given = combine_stages(both(stage1, stage2), FREQUENCIES, GALAXY_ZOO, Calibration(stages, 500).apply)
    assert given.probabilities.dtype == np.float32
    found = uncalibrated_stage1(given.probabilities, GALAXY_ZOO, stages["stage1"])
    # To what float32 knows of the logarithms.
    assert found == pytest.approx(stage1, rel=1e-4, abs=1e-6)
    again = combine_stages(both(found, stage2), FREQUENCIES, GALAXY_ZOO).probabilities
    before = combine_stages(both(stage1, stage2), FREQUENCIES, GALAXY_ZOO).probabilities
    assert again == pytest.approx(before, rel=1e-4, abs=1e-6)


def test_a_flat_model_has_the_classes_of_its_only_stage() -> None:
    flat, stage1 = GALAXY_ZOO.flat(), outputs(100, 5, seed=2)
    calibration = StageCalibration(0.7, (0.2, -0.2, 0.3, -0.3, 0.0))
    assert uncalibrated_stage1(calibration.apply(stage1), flat, calibration) == pytest.approx(
        stage1, abs=1e-6
    )


def test_a_class_that_fell_out_of_float32_is_next_to_impossible_and_an_unknown_row_unknown() -> None:
    calibration = StageCalibration(1.0, (0.0, 0.0, 0.0, 0.0))
    p = np.array([[1.0, 0.0, 0.0, 0.0, 0.0], [np.nan] * 5])
    found = uncalibrated_stage1(p, GALAXY_ZOO, calibration)
    assert found[0] == pytest.approx([1, 0, 0, 0], abs=1e-30)
    assert np.isnan(found[1]).all()


def test_mistakes_are_named() -> None:
    of_four = StageCalibration(1.0, (0.0,) * 4)
    with pytest.raises(UserError, match=r"shape \(2, 4\) for the 5 classes CRS, IBS, CSS, EO, SPI"):
        uncalibrated_stage1(np.full((2, 4), 0.25), GALAXY_ZOO, of_four)
    with pytest.raises(UserError, match="of 4 classes for a stage 1 that tells apart CRS, IBS, CSS, EO, SPI"):
        uncalibrated_stage1(np.full((2, 5), 0.2), GALAXY_ZOO.flat(), of_four)
