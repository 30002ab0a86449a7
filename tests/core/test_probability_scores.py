import numpy as np
import pytest

from hiwl_core.calibration import folds
from hiwl_core.conformal import ConformalScores, coverage_table
from hiwl_core.errors import UserError
from hiwl_core.probability_scores import cross_fitted_sets, reliability_curves, score_probabilities
from hiwl_core.reliability import (
    classwise_ece,
    expected_calibration_error,
    probability_table,
    reliability_curve,
)
from tests.calibrated_draws import CLASSES, galaxies


def test_the_curve_of_a_class_holds_what_its_error_is_made_of() -> None:
    p, truth = galaxies(900, seed=0, temperature=0.5)
    # Impossible for a galaxy, and certain for one: both are in a bin.
    p[0], p[1] = [0, 0, 1], [1, 0, 0]
    curves = reliability_curves(p, truth, CLASSES, bins=10)
    assert curves["class"].tolist() == [name for name in ("all", *CLASSES) for _ in range(10)]
    most_probable = curves[curves["class"] == "all"].drop(columns="class")
    assert most_probable.equals(reliability_curve(p, truth, bins=10))
    errors = dict(zip(CLASSES, classwise_ece(p, truth, 10), strict=True))
    errors["all"] = expected_calibration_error(p, truth, 10)
    for name, curve in curves.groupby("class"):
        full = curve[curve["count"] > 0]
        assert full["count"].sum() == 900
        gaps = full["count"] * (full["accuracy"] - full["mean_confidence"]).abs()
        assert gaps.sum() / 900 == pytest.approx(errors[name])
        assert (full["low"] <= full["accuracy"] + 1e-12).all()
        assert (full["accuracy"] <= full["high"] + 1e-12).all()
    of_b = curves[curves["class"] == "B"].iloc[-1]
    certain = p[:, 1] > 0.9
    assert of_b["accuracy"] == pytest.approx((truth[certain] == 1).mean())


def test_both_sides_and_the_sets_are_scored() -> None:
    before, truth = galaxies(400, seed=1, temperature=0.5)
    after, _ = galaxies(400, seed=1)
    sets = after > 0.2
    scores = score_probabilities(truth, CLASSES, before, after, sets)
    assert scores.table.equals(probability_table(before, after, truth, CLASSES))
    assert scores.curves["side"].value_counts().to_dict() == {"before": 60, "after": 60}
    of_after = scores.curves[scores.curves["side"] == "after"].drop(columns="side").reset_index(drop=True)
    assert of_after.equals(reliability_curves(after, truth, CLASSES))
    assert scores.coverage is not None
    assert scores.coverage.equals(coverage_table(sets, truth, CLASSES))


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_side_that_there_is_not_has_no_figures(side: str) -> None:
    p, truth = galaxies(200, seed=2)
    scores = score_probabilities(truth, CLASSES, **{side: p})
    other = {"before": "after", "after": "before"}[side]
    assert scores.table[[other, f"{other}_low", f"{other}_high"]].isna().to_numpy().all()
    assert scores.table[[side, f"{side}_low", f"{side}_high"]].notna().to_numpy().all()
    assert set(scores.curves["side"]) == {side}
    assert scores.coverage is None


def test_without_any_probabilities_there_is_nothing_to_score() -> None:
    with pytest.raises(UserError, match="none were given"):
        score_probabilities(np.array([0, 1]), CLASSES)


def test_each_galaxys_set_is_by_the_thresholds_of_the_other_folds() -> None:
    p, truth = galaxies(300, seed=3)
    sets = cross_fitted_sets(p, truth, CLASSES, 0.9, k=3, seed=7)
    fold = folds(truth, 3, seed=7)
    for index in range(3):
        others = fold != index
        scores = ConformalScores.from_held_out(p[others], truth[others], CLASSES)
        assert (sets[fold == index] == scores.sets(p[fold == index], 0.9)).all()
    # What a galaxy gave to its own class decides nothing about its own set.
    changed = p.copy()
    changed[0] = [0.98, 0.01, 0.01]
    again = cross_fitted_sets(changed, truth, CLASSES, 0.9, k=3, seed=7)
    assert (again[fold == fold[0]][1:] == sets[fold == fold[0]][1:]).all()


def test_sets_of_galaxies_that_were_not_fitted_on_cover_what_is_promised() -> None:
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(60):
        p, truth = galaxies(200, seed=int(rng.integers(1 << 30)))
        shares.append(coverage_table(cross_fitted_sets(p, truth, CLASSES, 0.9), truth, CLASSES)["coverage"])
    mean, error = np.mean(shares, axis=0), np.std(shares, axis=0) / np.sqrt(60)
    assert (mean > 0.9 - 3 * error).all()
