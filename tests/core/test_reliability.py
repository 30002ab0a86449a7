import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from hiwl_core.errors import UserError
from hiwl_core.metrics import wilson
from hiwl_core.reliability import (
    brier,
    classwise_ece,
    expected_calibration_error,
    negative_log_likelihood,
    probability_table,
    reliability_curve,
)
from tests.calibrated_draws import CLASSES, galaxies


def loop_error(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """The definition of the papers, bin by bin."""
    error = 0.0
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(error)


def test_scores_agree_with_scikit_learn() -> None:
    p, truth = galaxies(500, seed=0)
    assert negative_log_likelihood(p, truth) == pytest.approx(log_loss(truth, p, labels=[0, 1, 2]))
    one_by_one = [brier_score_loss(truth == index, p[:, index]) for index in range(3)]
    assert brier(p, truth) == pytest.approx(sum(one_by_one))


def test_scores_by_hand() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0]])
    truth = np.array([0, 2])
    assert negative_log_likelihood(p, truth) == pytest.approx(-np.log(0.7) / 2)
    assert brier(p, truth) == pytest.approx((0.09 + 0.04 + 0.01) / 2)
    assert expected_calibration_error(p, truth) == pytest.approx(0.3 / 2)
    assert negative_log_likelihood(p[1:], np.array([0])) == pytest.approx(-np.log(1e-12))
    assert brier(p[1:], np.array([0])) == pytest.approx(2)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_errors_agree_with_a_plain_loop(bins: int) -> None:
    p, truth = galaxies(700, seed=1, temperature=0.5)
    top = loop_error(p.max(axis=1), p.argmax(axis=1) == truth, bins)
    assert expected_calibration_error(p, truth, bins) == pytest.approx(top)
    own = [loop_error(p[:, index], truth == index, bins) for index in range(3)]
    assert classwise_ece(p, truth, bins) == pytest.approx(own)


def test_a_calibrated_model_has_less_error_than_an_overconfident_one() -> None:
    errors = [
        expected_calibration_error(*galaxies(20_000, seed=2, temperature=temperature))
        for temperature in (1.0, 0.7, 0.4)
    ]
    assert errors[0] < 0.01 < 0.03 < errors[1] < errors[2]


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    p = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    curve = reliability_curve(p, np.array([0, 0]), bins=2)
    assert curve["count"].tolist() == [1, 1]


def test_the_curve_holds_what_the_error_is_made_of() -> None:
    p, truth = galaxies(900, seed=3, temperature=0.5)
    curve = reliability_curve(p, truth, bins=10)
    assert list(curve.columns) == [
        "bin_low",
        "bin_high",
        "count",
        "mean_confidence",
        "accuracy",
        "low",
        "high",
    ]
    assert len(curve) == 10
    assert curve["count"].sum() == 900
    # Of three classes the most probable has more than a third: the first bins are empty, and say so.
    assert curve.loc[0, "count"] == 0
    assert curve.loc[0, ["mean_confidence", "accuracy", "low", "high"]].isna().all()
    full = curve[curve["count"] > 0]
    assert ((full["mean_confidence"] > full["bin_low"]) & (full["mean_confidence"] <= full["bin_high"])).all()
    gaps = full["count"] * (full["accuracy"] - full["mean_confidence"]).abs()
    assert gaps.sum() / 900 == pytest.approx(expected_calibration_error(p, truth, bins=10))
    last = full.iloc[-1]
    hits = round(last["accuracy"] * last["count"])
    assert (last["low"], last["high"]) == pytest.approx(wilson(hits, int(last["count"])))


def test_the_table_has_every_metric_before_and_after() -> None:
    before, truth = galaxies(1000, seed=4, temperature=0.5)
    after, _ = galaxies(1000, seed=4)
    table = probability_table(before, after, truth, CLASSES, resamples=50)
    assert table["metric"].tolist() == ["nll", "brier", "ece", "ece_A", "ece_B", "ece_C", "accuracy"]
    for side, p in (("before", before), ("after", after)):
        expected = [
            negative_log_likelihood(p, truth),
            brier(p, truth),
            expected_calibration_error(p, truth),
            *classwise_ece(p, truth),
            (p.argmax(axis=1) == truth).mean(),
        ]
        assert table[side].tolist() == pytest.approx(expected)
        assert (table[f"{side}_low"] <= table[f"{side}_high"]).all()
    # A temperature does not change which class is the most probable, and both sides see the same resamples.
    accuracy = table.set_index("metric").loc["accuracy"]
    for end in ("", "_low", "_high"):
        assert accuracy[f"before{end}"] == accuracy[f"after{end}"]
    assert table.equals(probability_table(before, after, truth, CLASSES, resamples=50))


def test_intervals_of_means_are_those_of_their_standard_errors() -> None:
    p, truth = galaxies(10_000, seed=5)
    table = probability_table(p, p, truth, CLASSES).set_index("metric")
    losses = -np.log(p[np.arange(10_000), truth])
    spread = 1.96 * losses.std() / 100
    assert table.loc["nll", "after_low"] == pytest.approx(losses.mean() - spread, abs=0.2 * spread)
    assert table.loc["nll", "after_high"] == pytest.approx(losses.mean() + spread, abs=0.2 * spread)
    hits = int((p.argmax(axis=1) == truth).sum())
    expected = pytest.approx(wilson(hits, 10_000), abs=0.002)
    assert (table.loc["accuracy", "after_low"], table.loc["accuracy", "after_high"]) == expected


def test_intervals_of_errors_are_those_of_a_plain_bootstrap() -> None:
    p, truth = galaxies(400, seed=6, temperature=0.5)
    table = probability_table(p, p, truth, CLASSES, resamples=800).set_index("metric")
    rng = np.random.default_rng(7)
    rows = rng.integers(400, size=(800, 400))
    for metric, function in (
        ("ece", expected_calibration_error),
        ("ece_B", lambda p, truth: classwise_ece(p, truth)[1]),
    ):
        drawn = [function(p[chosen], truth[chosen]) for chosen in rows]
        low, high = 2 * function(p, truth) - np.percentile(drawn, [97.5, 2.5])
        assert table.loc[metric, "before_low"] == pytest.approx(low, abs=0.006)
        assert table.loc[metric, "before_high"] == pytest.approx(high, abs=0.006)


def test_the_error_of_a_calibrated_model_may_be_next_to_nothing() -> None:
    # Percentiles of resamples would put it above 0.01, where the estimate's own noise is.
    reached = []
    for seed in range(20):
        p, truth = galaxies(1000, seed=100 + seed)
        lowest = probability_table(p, p, truth, CLASSES, resamples=100).set_index("metric")["after_low"]
        reached.append(float(lowest["ece"]))
    assert min(reached) >= 0
    assert np.median(reached) < 0.005


@pytest.mark.parametrize(
    ("p", "truth", "words"),
    [
        (np.empty((0, 3)), np.empty(0, int), "at least one galaxy"),
        (np.full((2, 3), 1 / 3), np.array([0]), "one true class for each row"),
        (np.full((2, 3), 1 / 3), np.array([0, 3]), r"\[0, 3\), not 0 to 3"),
        (np.array([[0.5, np.nan]]), np.array([0]), "not nan to nan: leave out what was not classified"),
        (np.array([[1.5, -0.5]]), np.array([0]), "not -0.5 to 1.5"),
    ],
)
def test_bad_input_is_named(p: np.ndarray, truth: np.ndarray, words: str) -> None:
    for metric in (
        negative_log_likelihood,
        brier,
        expected_calibration_error,
        classwise_ece,
        reliability_curve,
    ):
        with pytest.raises(UserError, match=words):
            metric(p, truth)


def test_a_table_of_other_classes_is_refused() -> None:
    p, truth = galaxies(10, seed=8)
    with pytest.raises(UserError, match="for 2 classes"):
        probability_table(p, p, truth, ("A", "B"))
