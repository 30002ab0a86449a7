"""Paired tests and intervals against the literature, against simulation, and on cases done by hand."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from hiwl_core.comparison import compare_paired, holm, mean_interval, mean_recall_test, sign_flip_test
from hiwl_core.errors import UserError


@pytest.mark.parametrize(("only_first", "only_second"), [(10, 3), (0, 5), (7, 7), (150, 101), (1, 0)])
def test_of_one_seed_it_is_mcnemars_exact_test(only_first: int, only_second: int) -> None:
    differences = np.repeat([1, -1, 0], [only_first, only_second, 400])
    expected = binomtest(only_first, only_first + only_second, 0.5).pvalue
    assert sign_flip_test(differences) == pytest.approx(expected, rel=1e-9)


def test_without_a_difference_there_is_no_doubt_that_there_is_none() -> None:
    assert sign_flip_test(np.zeros(20, dtype=int)) == 1.0


def test_sums_over_seeds_agree_with_random_signs() -> None:
    generator = np.random.default_rng(0)
    differences = generator.integers(-3, 4, 60) + (generator.random(60) < 0.2)
    signs = generator.choice([-1, 1], size=(40_000, len(differences)))
    share = (np.abs(signs @ differences) >= abs(differences.sum())).mean()
    assert sign_flip_test(differences) == pytest.approx(share, abs=4 * math.sqrt(0.25 / 40_000))


def test_p_values_are_uniform_where_neither_is_better() -> None:
    generator = np.random.default_rng(1)
    # Three seeds of each model that agree on most galaxies, as seeds do.
    p_values = []
    for _ in range(300):
        hard = generator.random(500) < 0.3
        first, second = ((generator.random((3, 500)) < 0.5) | ~hard for _ in range(2))
        p_values.append(compare_paired(first, second).p_value)
    rejected = (np.array(p_values) < 0.05).mean()
    assert rejected < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.08)


def test_a_comparison_by_hand() -> None:
    first = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], dtype=bool)
    second = np.array([[1, 0, 0, 0], [1, 0, 0, 1]], dtype=bool)
    comparison = compare_paired(first, second)
    assert comparison.difference == pytest.approx((0.5 + 0.0) / 2)
    assert (comparison.only_first, comparison.only_second) == ((2, 1), (0, 1))
    assert comparison.seed_p_values == pytest.approx((0.5, 1.0))
    # Sums over the seeds: 0, 2, 1, -1. Of the 8 sums of signs of (2, 1, 1) 6 are 2 or more in size.
    assert comparison.p_value == pytest.approx(6 / 8)
    assert comparison.low < 0 < comparison.high
    assert not comparison.is_significant()


def test_significant_is_what_stands_before_other_galaxies_and_other_seeds() -> None:
    better = np.ones((3, 200), dtype=bool)
    worse = better.copy()
    worse[:, :20] = False
    worse[0, 20] = False
    assert compare_paired(better, worse).is_significant()
    # One seed makes all of the difference.
    worse[:] = True
    worse[0, :60] = False
    lucky = compare_paired(better, worse)
    assert lucky.p_value < 1e-6
    assert not lucky.is_significant()
    one_seed = compare_paired(better[:1], worse[:1])
    assert math.isnan(one_seed.low)
    assert one_seed.is_significant()


def test_mean_recalls_are_compared_with_one_weight_for_all_classes() -> None:
    generator = np.random.default_rng(5)
    truth = np.repeat([0, 1], 60)
    differences = generator.integers(-1, 2, 120) + (generator.random(120) < 0.15)
    # Of classes of one size it is the test of the accuracies, but for the draws.
    exact = sign_flip_test(differences)
    assert 0.01 < exact < 0.5
    assert mean_recall_test(differences, truth) == pytest.approx(exact, abs=0.015)
    # Of a class of ten three outweigh three of a class of 150: as far is what gives them one sign.
    few = np.zeros(160, dtype=int)
    few[:3], few[10:13] = 1, -1
    truth = np.repeat([0, 1], [10, 150])
    assert sign_flip_test(few) == 1
    assert mean_recall_test(few, truth) == pytest.approx(2 * 8 / 64)
    assert mean_recall_test(np.zeros(160, dtype=int), truth) == 1


def test_intervals_are_students() -> None:
    values = [0.91, 0.93, 0.92]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean_interval(values) == pytest.approx((expected.low, expected.high))
    assert all(map(math.isnan, mean_interval([0.9])))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_different_galaxies_are_refused() -> None:
    with pytest.raises(UserError, match=r"same seeds and galaxies, not \(1, 3\) and \(1, 4\)"):
        compare_paired(np.ones((1, 3)), np.ones((1, 4)))
