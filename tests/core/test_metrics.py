import math

import numpy as np
import pytest

from hiwl_core.errors import UserError
from hiwl_core.metrics import (
    accuracy,
    bootstrap_intervals,
    class_table,
    confusion_matrix,
    f1,
    precision,
    recall,
    wilson,
)
from hiwl_core.published_results import (
    ACCURACY,
    CLASSES,
    TABLE_3,
    TABLE_4,
    TABLE_7,
    TABLE_8,
    TRAININGS,
    VALIDATION_ACCURACY,
    published_figures,
)
from hiwl_core.taxonomy import GALAXY_ZOO

MATRIX = np.array([[8, 2, 0], [1, 6, 3], [0, 0, 0]])


def test_confusion_matrix_has_true_classes_in_rows() -> None:
    matrix = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_figures_by_hand() -> None:
    assert accuracy(MATRIX) == pytest.approx(14 / 20)
    assert recall(MATRIX)[:2] == pytest.approx([0.8, 0.6])
    assert precision(MATRIX)[:2] == pytest.approx([8 / 9, 6 / 8])
    assert f1(MATRIX)[:2] == pytest.approx([2 * 8 / (10 + 9), 2 * 6 / (10 + 8)])


def test_an_absent_class_has_no_recall_and_does_not_spoil_the_average() -> None:
    assert math.isnan(recall(MATRIX)[2])
    table = class_table(MATRIX, ("a", "b", "c")).set_index(["class", "metric"])
    assert table.loc[("average", "recall"), "value"] == pytest.approx(0.7)
    assert math.isnan(table.loc[("c", "recall"), "low"])


def test_wilson_interval_of_the_literature() -> None:
    # Newcombe (1998, Statistics in Medicine 17, 857), table I: 81 of 263 and 15 of 148.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20)[0] == 0.0
    assert all(map(math.isnan, wilson(0, 0)))


def test_bootstrap_agrees_with_wilson_on_a_proportion() -> None:
    matrix = np.array([[700, 50], [50, 200]])
    low, high = bootstrap_intervals(matrix, accuracy, resamples=4000, seed=0)
    assert (low, high) == pytest.approx(wilson(900, 1000), abs=0.004)


def test_the_papers_test_accuracy_has_an_error_of_a_third_of_a_point() -> None:
    low, high = wilson(2775, 2881)
    assert (high - low) / 2 / 1.96 == pytest.approx(0.0035, abs=2e-4)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="one length"):
        confusion_matrix(np.zeros(3, int), np.zeros(4, int), 2)
    with pytest.raises(UserError, match="0 to 5"):
        confusion_matrix(np.array([0, 5]), np.array([0, 1]), 2)


PAPER_TABLE_3 = np.array(TABLE_3)


def test_the_papers_table_4_follows_from_its_table_3() -> None:
    assert PAPER_TABLE_3.sum(1).tolist() == [844, 807, 58, 391, 781]
    figures = class_table(PAPER_TABLE_3, CLASSES).set_index(["class", "metric"])["value"]
    # The paper prints .7855 for 41 / 52, and averages that.
    slips = {("CSS", "precision"): 41 / 52, ("average", "precision"): 0.93077}
    for key, published in {**TABLE_4, **slips}.items():
        assert figures[key] == pytest.approx(published, abs=1e-4), key


def test_all_that_the_paper_reports_is_here() -> None:
    """Its figures, typed a second time."""
    assert (TABLE_4[ACCURACY], TABLE_4["average", "recall"]) == (0.9632, 0.9156)
    recalls = {
        "slwslm": [0.9763, 0.9579, 0.6207, 0.9335, 0.9795],
        "hmws": [0.9668, 0.9616, 0.6724, 0.9437, 0.9821],
    }
    for method, all_right in (("slwslm", 0.9590), ("hmws", 0.9604)):
        figures = published_figures("efficientnet_lite0", method)
        assert [figures[name, "recall"] for name in CLASSES] == recalls[method]
        assert figures[ACCURACY] == all_right
    gains = [round(row.hiwl - row.plain, 4) for row in TABLE_7.values()]
    assert gains == [0.0063, 0.0073, 0.0038, 0.0027, 0.0090, 0.0028, 0.0056, 0.0070, 0.0077, 0.0187]
    assert [work.classes for work in TABLE_8] == [4, 5, 5, 5, 6, 3, 2, 8, 7, 5, 5]
    others = [0.982, 0.9521, 0.9470, 0.95, 0.9401, 0.8833, 0.9643, 0.8121, 0.937]
    assert [work.accuracy for work in TABLE_8] == [*others, 0.9722, 0.9632]
    assert [work.authors for work in TABLE_8 if work.sample == "test"] == [
        "Reza 2021",
        "Lin et al. 2021",
        "Ma et al. 2023",
    ]
    stage1, stage2 = TRAININGS["stage1"], TRAININGS["stage2"]
    assert (stage1.epochs, stage2.epochs) == (123, 96)
    assert stage1.best == {90: 0.9784, 98: 0.9802, 120: 0.9791}
    assert stage2.best == {47: 0.9530, 57: 0.9508, 62: 0.9508}
    assert VALIDATION_ACCURACY == 0.9722


def test_the_papers_stages_follow_from_its_table_3() -> None:
    truth, predicted = (np.repeat(np.indices((5, 5))[axis].ravel(), PAPER_TABLE_3.ravel()) for axis in (0, 1))
    stage1 = confusion_matrix(
        *(GALAXY_ZOO.stage_targets("stage1", labels) for labels in (truth, predicted)), 4
    )
    assert np.trace(stage1) == 2797
    told_apart = PAPER_TABLE_3[2:4, 2:4]
    assert (np.trace(told_apart), told_apart.sum()) == (417, 439)
    # The average accuracy of the five questions "this class or not?", which some later papers give.
    one_against_rest = 1 - 2 * (PAPER_TABLE_3.sum() - np.trace(PAPER_TABLE_3)) / (5 * PAPER_TABLE_3.sum())
    assert one_against_rest == pytest.approx(0.9853, abs=5e-5)
