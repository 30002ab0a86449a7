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
from hiwl_core.published_results import HIWL_PRECISION, HIWL_RECALL, METHOD_ACCURACY
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


# Known of the Table 3 from the Table 4 and the text of the paper: the diagonal, the galaxies of each class,
# and how CSS and EO are told apart. How the other mistakes spread does not enter into what is tested.
PAPER_SIZES = {"CRS": 844, "IBS": 807, "CSS": 58, "EO": 391, "SPI": 781}
PAPER_TABLE_3 = np.array(
    [
        [813, 31, 0, 0, 0],
        [15, 777, 0, 0, 15],
        [0, 6, 41, 11, 0],
        [0, 4, 11, 376, 0],
        [0, 13, 0, 0, 768],
    ]
)


def test_the_papers_table_4_follows_from_its_table_3() -> None:
    assert PAPER_TABLE_3.sum(1).tolist() == list(PAPER_SIZES.values())
    figures = class_table(PAPER_TABLE_3, tuple(PAPER_SIZES)).set_index(["class", "metric"])["value"]
    assert figures["all", "accuracy"] == pytest.approx(METHOD_ACCURACY["hiwl"], abs=5e-5)
    for name, published in HIWL_RECALL.items():
        assert figures[name, "recall"] == pytest.approx(published, abs=5e-5)
    # The paper prints .7855 for 41 / 52.
    assert round(figures["CSS", "precision"], 4) == 0.7885
    assert figures["CSS", "precision"] == pytest.approx(HIWL_PRECISION["CSS"])


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
