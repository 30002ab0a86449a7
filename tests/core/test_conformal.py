import json
import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.special import softmax

from hiwl_core.conformal import ConformalScores, coverage_table, set_names
from hiwl_core.errors import UserError
from hiwl_core.metrics import wilson

CLASSES = ("CRS", "CSS", "EO")


def galaxies(counts: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that mistakes many, the rare second class most."""
    truth = np.repeat(np.arange(len(counts)), counts)
    logits = rng.normal(size=(len(truth), len(counts)))
    logits[np.arange(len(truth)), truth] += 1.5
    logits[:, 1] -= 1.0
    return softmax(logits, axis=1), truth


def one_class(scores: list[float]) -> ConformalScores:
    p = np.column_stack([scores, 1 - np.array(scores)])
    return ConformalScores.from_held_out(p, np.zeros(len(scores), int), ("A", "B"))


@pytest.mark.parametrize(
    ("count", "coverage", "rank"),
    [(19, 0.95, 1), (18, 0.95, 0), (39, 0.95, 2), (9, 0.9, 1), (99, 0.9, 10), (5, 0.5, 3), (0, 0.9, 0)],
)
def test_the_threshold_is_the_finite_samples_order_statistic(count: int, coverage: float, rank: int) -> None:
    scores = np.round(np.linspace(0.2, 0.9, count), 4).tolist()
    expected = scores[rank - 1] if rank else 0.0
    shuffled = np.random.default_rng(0).permutation(scores).tolist()
    # The other class has no galaxies, and so is in every set.
    assert one_class(shuffled).thresholds(coverage) == pytest.approx([expected, 0.0], rel=1e-5)


def test_each_class_is_covered_as_promised_over_many_draws() -> None:
    rng = np.random.default_rng(1)
    held_out, coverage, draws = (100, 30, 60), 0.9, 400
    above, in_set = np.empty((draws, 3)), np.empty((draws, 3))
    for index in range(draws):
        scores = ConformalScores.from_held_out(*galaxies(held_out, rng), CLASSES)
        p, truth = galaxies((50, 50, 50), rng)
        own = p[np.arange(150), truth] >= scores.thresholds(coverage)[truth]
        above[index] = own.reshape(3, 50).mean(axis=1)
        in_set[index] = scores.sets(p, coverage)[np.arange(150), truth].reshape(3, 50).mean(axis=1)
    error = above.std(axis=0) / math.sqrt(draws)
    exact = np.array([1 - math.floor(0.1 * (n + 1) + 1e-9) / (n + 1) for n in held_out])
    assert (exact >= coverage).all()
    assert (np.abs(above.mean(axis=0) - exact) < 4 * error).all()
    assert (in_set >= above).all()


def test_other_class_shares_do_not_change_the_coverage_of_a_class() -> None:
    rng = np.random.default_rng(2)
    scores = ConformalScores.from_held_out(*galaxies((4000, 4000, 4000), rng), CLASSES)
    for counts in ((9000, 500, 2000), (500, 9000, 500)):
        p, truth = galaxies(counts, rng)
        table = coverage_table(scores.sets(p, 0.9), truth, CLASSES).set_index("class")
        # 0.9 within the noise of the thresholds and of 500 galaxies.
        assert (table.loc[list(CLASSES), "coverage"] > 0.87).all()


def test_an_empty_set_has_the_most_probable_class_and_an_unknown_row_none() -> None:
    p, truth = np.tile([[0.95, 0.05], [0.05, 0.95]], (20, 1)), np.tile([0, 1], 20)
    scores = ConformalScores.from_held_out(p, truth, ("A", "B"))
    sets = scores.sets(np.array([[0.6, 0.4], [np.nan, np.nan], [0.04, 0.96]]), 0.9)
    assert sets.tolist() == [[True, False], [False, False], [False, True]]


def test_a_higher_coverage_has_the_lower_ones_sets_within() -> None:
    rng = np.random.default_rng(3)
    scores = ConformalScores.from_held_out(*galaxies((300, 100, 200), rng), CLASSES)
    p, _ = galaxies((200, 200, 200), rng)
    sizes = [scores.sets(p, coverage).sum(axis=1) for coverage in (0.5, 0.8, 0.95, 0.999)]
    for smaller, larger in pairwise(sizes):
        assert (smaller <= larger).all()
    assert (sizes[-1] == 3).all()


def test_scores_come_back_from_json_and_are_the_lowest_half_to_six_digits() -> None:
    p, truth = galaxies((7, 4, 1), np.random.default_rng(4))
    scores = ConformalScores.from_held_out(p, truth, CLASSES)
    assert ConformalScores.from_dict(json.loads(json.dumps(scores.to_dict()))) == scores
    assert scores.counts == (7, 4, 1)
    assert [len(own) for own in scores.scores] == [4, 2, 1]
    exact = np.sort(p[truth == 0, 0])[:4]
    # Down, so that none of the held-out galaxies is below its own threshold; and no small one becomes 0.
    assert (np.array(scores.scores[0]) <= exact).all()
    assert scores.scores[0] == pytest.approx(exact, rel=1e-5)
    assert one_class([3.14159265e-9, 0.5]).scores[0] == (3.14159e-9,)


def test_the_table_has_coverage_and_size_of_each_class() -> None:
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]], dtype=bool)
    table = coverage_table(sets, np.array([0, 0, 0, 2]), CLASSES)
    assert list(table.columns) == ["class", "coverage", "low", "high", "count", "mean_size"]
    assert table["class"].tolist() == ["CRS", "CSS", "EO", "all"]
    by_class = table.set_index("class")
    assert by_class.loc["CRS", "coverage"] == pytest.approx(2 / 3)
    assert list(by_class.loc["CRS", ["low", "high"]]) == pytest.approx(wilson(2, 3))
    assert by_class.loc["CRS", "mean_size"] == pytest.approx(4 / 3)
    assert by_class.loc["CSS", "count"] == 0
    assert by_class.loc["CSS", ["coverage", "low", "high", "mean_size"]].isna().all()
    assert list(by_class.loc["all", ["coverage", "count", "mean_size"]]) == [0.75, 4, 1.5]


def test_sets_are_named_in_the_order_of_the_classes() -> None:
    sets = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], dtype=bool)
    assert set_names(sets, CLASSES) == ["CRS", "CSS|EO", ""]
    assert set_names(sets[:0], CLASSES) == []


@pytest.mark.parametrize("coverage", [1.2, 1.0, 0.0, -0.5, math.nan])
def test_a_coverage_that_is_no_share_is_named(coverage: float) -> None:
    with pytest.raises(UserError, match=rf"--coverage {coverage}: a share between 0 and 1, such as 0.95"):
        one_class([0.5]).thresholds(coverage)


def test_a_coverage_below_one_half_is_refused() -> None:
    with pytest.raises(UserError, match=r"--coverage 0.3: a model keeps the scores for 0.5 and more"):
        one_class([0.5]).sets(np.array([[0.5, 0.5]]), 0.3)


def test_other_mistakes_are_named() -> None:
    p = np.full((2, 3), 1 / 3)
    with pytest.raises(UserError, match=r"shape \(2, 2\), not \(2, 3\)"):
        ConformalScores.from_held_out(p, np.array([0, 1]), ("A", "B"))
    with pytest.raises(UserError, match="0 to 3"):
        ConformalScores.from_held_out(p, np.array([0, 3]), CLASSES)
    with pytest.raises(UserError, match="finite"):
        ConformalScores.from_held_out(p * np.nan, np.array([0, 1]), CLASSES)
    with pytest.raises(UserError, match=r"shape \(N, 2\), not \(2, 3\)"):
        one_class([0.5]).sets(p, 0.9)
    with pytest.raises(UserError, match="without the key 'galaxies'"):
        ConformalScores.from_dict({"classes": ["A"], "lowest_scores": [[0.5]]})
    with pytest.raises(UserError, match=r"lengths \[1\]"):
        ConformalScores(("A",), ((0.5,),), (10,))
