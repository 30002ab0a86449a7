import json
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, softmax

from hiwl_core.calibration import Calibration, cross_fitted, fit_calibration, folds
from hiwl_core.cascade import combine_stages
from hiwl_core.errors import UserError
from hiwl_core.reliability import negative_log_likelihood
from hiwl_core.sampling import class_weights
from hiwl_core.stage_calibration import StageCalibration, calibrate_stage, sampling_log_ratio
from hiwl_core.taxonomy import GALAXY_ZOO
from tests.stages import FREQUENCIES, both

SHARES = np.array([8434, 8069, 578, 3903, 7806]) / 28_790


def drawn(p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A class for each row, with the row's probabilities."""
    return np.minimum((rng.random((len(p), 1)) > p.cumsum(axis=1)).sum(axis=1), p.shape[1] - 1)


def outputs(count: int, num_classes: int, seed: int) -> np.ndarray:
    return softmax(np.random.default_rng(seed).normal(scale=2.0, size=(count, num_classes)), axis=1)


def validation_like(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs of two smoothed stages and true classes; stage 2 is of a 50/50 prior and ran where routed."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(5, size=count, p=SHARES)
    target = GALAXY_ZOO.stage_targets("stage1", truth)
    logits = rng.normal(size=(count, 4))
    logits[np.arange(count), target] += 3.0
    stage1 = softmax(0.6 * logits, axis=1)
    # Members are two Gaussians, 1.5 standard deviations apart, of which stage 2 knows all but their shares.
    feature = rng.normal(size=count) + np.where(truth == 2, -0.75, 0.75)
    stage2 = np.column_stack([expit(-1.5 * feature), expit(1.5 * feature)])
    stage2[stage1.argmax(axis=1) != 3] = np.nan
    return stage1, stage2, truth


def test_a_known_temperature_and_known_offsets_are_found() -> None:
    p = outputs(40_000, 4, seed=0)
    known = StageCalibration(1.7, (0.5, -0.7, 0.3, -0.1))
    found = calibrate_stage(p, drawn(known.apply(p), np.random.default_rng(1)))
    assert found.temperature == pytest.approx(1.7, rel=0.03)
    assert found.biases == pytest.approx(known.biases, abs=0.06)
    assert sum(found.biases) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_with_offsets_held_at_zero_it_is_temperature_scaling(temperature: float) -> None:
    p = outputs(5000, 4, seed=0)
    targets = drawn(softmax(np.log(p) / temperature, axis=1), np.random.default_rng(1))

    def loss(t: float) -> float:
        return negative_log_likelihood(softmax(np.log(p) / t, axis=1), targets)

    reference = minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8}).x
    found = calibrate_stage(p, targets, ridge=1e12)
    assert found.temperature == pytest.approx(reference, rel=1e-3)
    assert found.biases == pytest.approx([0] * 4, abs=1e-6)


def test_the_fit_is_the_maximum_of_the_posterior() -> None:
    p = outputs(300, 3, seed=2)
    prior = np.array([1.0, -0.4, -0.6])
    targets = drawn(p, np.random.default_rng(3))

    def loss(parameters: np.ndarray) -> float:
        scaled = softmax(np.log(p) / np.exp(parameters[0]) + parameters[1:], axis=1)
        pull = ((parameters[1:] - prior) ** 2).sum() / (2 * 0.5**2) + parameters[0] ** 2 / 2
        return float(pull - np.log(scaled[np.arange(300), targets]).sum())

    reference = minimize(loss, np.zeros(4), options={"gtol": 1e-6}).x
    found = calibrate_stage(p, targets, prior)
    assert np.log(found.temperature) == pytest.approx(reference[0], abs=1e-4)
    assert found.biases == pytest.approx(reference[1:], abs=1e-4)


def test_the_offsets_prior_may_have_any_mean() -> None:
    p, targets = outputs(100, 3, seed=4), np.arange(100) % 3
    prior = np.array([0.4, -0.1, -0.3])
    moved, centered = calibrate_stage(p, targets, prior + 7.0), calibrate_stage(p, targets, prior)
    assert moved.temperature == pytest.approx(centered.temperature)
    assert moved.biases == pytest.approx(centered.biases)


def test_a_class_without_galaxies_keeps_a_finite_offset() -> None:
    p = outputs(2000, 4, seed=5)
    found = calibrate_stage(
        p, drawn(p[:, :3] / p[:, :3].sum(axis=1, keepdims=True), np.random.default_rng(6))
    )
    assert -6 < found.biases[3] < -1
    assert found.apply(p)[:, 3].min() > 0


def test_the_prior_spares_a_small_sample_its_own_noise() -> None:
    fresh = outputs(20_000, 3, seed=7)
    fresh_targets = drawn(fresh, np.random.default_rng(8))
    held, free = [], []
    for seed in range(30):
        p = outputs(50, 3, seed=100 + seed)
        targets = drawn(p, np.random.default_rng(200 + seed))
        held.append(negative_log_likelihood(calibrate_stage(p, targets).apply(fresh), fresh_targets))
        free.append(
            negative_log_likelihood(calibrate_stage(p, targets, ridge=1e-6).apply(fresh), fresh_targets)
        )
    assert np.mean(held) < np.mean(free)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_the_sampling_ratio_is_the_skys_share_over_the_share_drawn(power: float) -> None:
    counts = np.array([578, 3903, 40])
    targets = np.repeat(np.arange(3), counts)
    drawn_shares = np.bincount(targets, class_weights(targets, 3, power))
    expected = np.log(counts / counts.sum()) - np.log(drawn_shares)
    ratio = sampling_log_ratio(counts, power)
    assert ratio == pytest.approx(expected - expected.mean(), abs=1e-12)
    assert ratio.sum() == pytest.approx(0, abs=1e-12)


def test_the_ratio_makes_an_evenly_trained_stage_exact_on_the_sky() -> None:
    # Two Gaussians 1.5 standard deviations apart: Bayes' rule gives the posterior of either prior.
    feature = np.linspace(-3, 3, 61)
    even = np.column_stack([expit(-1.5 * feature), expit(1.5 * feature)])
    sky = expit(1.5 * feature + np.log(3903 / 578))
    corrected = StageCalibration(1.0, tuple(sampling_log_ratio(np.array([578, 3903]), 1.0))).apply(even)
    assert corrected[:, 1] == pytest.approx(sky, abs=1e-12)


def test_a_stage_trained_evenly_is_calibrated_by_few_galaxies_of_the_sky() -> None:
    rng = np.random.default_rng(9)

    def members(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        targets = (rng.random(count) < 0.87).astype(int)
        feature = rng.normal(size=count) + 1.5 * targets - 0.75
        even = expit(1.5 * feature)
        exact = expit(1.5 * feature + np.log(0.87 / 0.13))
        return np.column_stack([1 - even, even]), np.column_stack([1 - exact, exact]), targets

    p, _, targets = members(448)  # as many as validation has
    found = calibrate_stage(p, targets, sampling_log_ratio(np.array([578, 3903]), 1.0))
    p, exact, targets = members(50_000)
    best = negative_log_likelihood(exact, targets)
    assert negative_log_likelihood(p, targets) > best + 0.1
    assert negative_log_likelihood(found.apply(p), targets) < best + 0.01
    assert p[:, 0].mean() > 0.25
    assert found.apply(p)[:, 0].mean() == pytest.approx(0.13, abs=0.02)


def test_rows_where_a_stage_did_not_run_stay_nan_and_zeros_stay_finite() -> None:
    p = np.array([[1.0, 0.0], [np.nan, np.nan], [0.2, 0.8]], dtype=np.float32)
    result = StageCalibration(0.7, (0.2, -0.2)).apply(p)
    assert result.dtype == np.float64
    assert np.isnan(result[:, 0]).tolist() == [False, True, False]
    assert result[[0, 2]].sum(axis=1) == pytest.approx(1)
    assert result[0, 1] > 0
    assert result[2, 0] == pytest.approx(expit((np.log(0.2) - np.log(0.8)) / 0.7 + 0.4), rel=1e-6)


def test_the_likelihood_of_the_cascade_is_that_of_its_stages() -> None:
    stage1, stage2, truth = validation_like(2000, seed=10)
    whole = combine_stages(both(stage1, stage2), FREQUENCIES, GALAXY_ZOO).probabilities
    member = GALAXY_ZOO.stage_targets("stage2", truth)
    own = (member >= 0) & ~np.isnan(stage2[:, 0])
    skipped = (member >= 0) & ~own
    parts = 2000 * negative_log_likelihood(stage1, GALAXY_ZOO.stage_targets("stage1", truth))
    parts += own.sum() * negative_log_likelihood(stage2[own], member[own])
    parts -= np.log(FREQUENCIES["stage2"][member[skipped]]).sum()
    assert skipped.any()
    assert 2000 * negative_log_likelihood(whole, truth) == pytest.approx(parts, rel=1e-6)


def test_each_stage_is_fitted_on_the_galaxies_that_are_its_own() -> None:
    stage1, stage2, truth = validation_like(2878, seed=11)
    stage1[5] = stage2[5] = np.nan
    ratio = sampling_log_ratio(np.array([578, 3903]), 1.0)
    found = fit_calibration(both(stage1, stage2), truth, GALAXY_ZOO, {"stage2": ratio})
    kept = np.arange(2878) != 5
    own = np.isin(truth, [2, 3]) & ~np.isnan(stage2[:, 0])
    assert found.galaxies == 2877
    assert found.stages["stage1"] == calibrate_stage(
        stage1[kept], GALAXY_ZOO.stage_targets("stage1", truth[kept])
    )
    assert found.stages["stage2"] == calibrate_stage(stage2[own], truth[own] - 2, ratio)

    first, second = found.apply(both(stage1, stage2)).values()
    assert (first[kept] == found.stages["stage1"].apply(stage1[kept])).all()
    assert (np.isnan(second) == np.isnan(stage2)).all()


def test_a_flat_taxonomy_has_one_stage() -> None:
    flat = GALAXY_ZOO.flat()
    p = outputs(500, 5, seed=12)
    truth = drawn(p, np.random.default_rng(13))
    found = fit_calibration({"stage1": p}, truth, flat, None)
    assert found.stages == {"stage1": calibrate_stage(p, truth)}
    assert {name: one.shape for name, one in found.apply({"stage1": p}).items()} == {"stage1": (500, 5)}
    assert cross_fitted({"stage1": p}, truth, {}, flat, None).sum(axis=1) == pytest.approx(1)


def test_a_stage_2_that_saw_none_of_its_galaxies_has_what_is_known_without() -> None:
    stage1, stage2, truth = validation_like(200, seed=14)
    ratio = sampling_log_ratio(np.array([578, 3903]), 1.0)
    found = fit_calibration(both(stage1, np.full_like(stage2, np.nan)), truth, GALAXY_ZOO, {"stage2": ratio})
    assert found.stages["stage2"] == StageCalibration(1.0, tuple(ratio.tolist()))


def test_folds_have_their_part_of_each_class() -> None:
    truth = np.random.default_rng(15).choice(5, size=2878, p=SHARES)
    fold = folds(truth, k=5, seed=3)
    assert np.ptp(np.bincount(fold, minlength=5)) <= 1
    for index in range(5):
        assert np.ptp(np.bincount(fold[truth == index], minlength=5)) <= 1
    assert (fold == folds(truth, k=5, seed=3)).all()
    assert (fold != folds(truth, k=5, seed=4)).any()


def test_cross_fitting_is_the_calibration_of_the_other_folds() -> None:
    stage1, stage2, truth = validation_like(600, seed=16)
    p = cross_fitted(both(stage1, stage2), truth, FREQUENCIES, GALAXY_ZOO, None, k=4, seed=1)
    assert p.dtype == np.float64
    assert np.abs(p.sum(axis=1) - 1).max() < 1e-12
    fold = folds(truth, 4, 1)
    for index in range(4):
        other, own = fold != index, fold == index
        found = fit_calibration(both(stage1[other], stage2[other]), truth[other], GALAXY_ZOO, None)
        expected = combine_stages(found.apply(both(stage1[own], stage2[own])), FREQUENCIES, GALAXY_ZOO)
        assert p[own] == pytest.approx(expected.probabilities, abs=1e-7)


def test_a_galaxys_label_has_no_part_in_the_probabilities_of_its_fold() -> None:
    stage1, stage2, truth = validation_like(300, seed=17)
    fold = folds(truth)
    # Two galaxies of one fold that exchange their labels and leave the folds as they are.
    for one, other in product(np.flatnonzero(fold == 0), repeat=2):
        changed = truth.copy()
        changed[[one, other]] = truth[[other, one]]
        if truth[one] != truth[other] and (folds(changed) == fold).all():
            break
    else:
        pytest.fail("no such pair: choose another seed")
    before, after = (
        cross_fitted(both(stage1, stage2), labels, FREQUENCIES, GALAXY_ZOO, None)
        for labels in (truth, changed)
    )
    assert (before[fold == 0] == after[fold == 0]).all()
    assert (np.abs(before - after)[fold != 0].max(axis=1) > 0).all()


def test_a_galaxys_outputs_have_no_part_in_those_of_its_fold() -> None:
    stage1, stage2, truth = validation_like(300, seed=18)
    fold = folds(truth)
    moved = stage1.copy()
    one = np.flatnonzero(fold == 2)[0]
    moved[one] = [0.01, 0.01, 0.01, 0.97]
    before, after = (
        cross_fitted(both(first, stage2), truth, FREQUENCIES, GALAXY_ZOO, None) for first in (stage1, moved)
    )
    mates = (fold == 2) & (np.arange(300) != one)
    assert (before[mates] == after[mates]).all()
    assert (before[fold != 2] != after[fold != 2]).any()


def test_cross_fitted_probabilities_are_better_than_the_stages_own() -> None:
    stage1, stage2, truth = validation_like(2878, seed=19)
    ratios = {"stage2": sampling_log_ratio(np.array([578, 3903]), 1.0)}
    raw = combine_stages(both(stage1, stage2), FREQUENCIES, GALAXY_ZOO).probabilities
    p = cross_fitted(both(stage1, stage2), truth, FREQUENCIES, GALAXY_ZOO, ratios)
    assert negative_log_likelihood(p, truth) < negative_log_likelihood(raw, truth) - 0.03
    assert p.mean(axis=0) == pytest.approx(np.bincount(truth) / 2878, abs=0.005)


def test_a_calibration_comes_back_from_json() -> None:
    stage1, stage2, truth = validation_like(300, seed=20)
    found = fit_calibration(both(stage1, stage2), truth, GALAXY_ZOO, None)
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize(
    ("p", "targets", "words"),
    [
        (np.empty((0, 3)), np.empty(0, int), "at least one"),
        (np.full((2, 3), 1 / 3), np.array([0]), "one true class for each row"),
        (np.full((2, 3), 1 / 3), np.array([0, 3]), r"\[0, 3\), not 0 to 3"),
        (np.full((2, 3), 1 / 3), np.array([-1, 2]), "not -1 to 2"),
        (np.array([[0.5, 0.5], [np.nan, np.nan]]), np.array([0, 1]), "finite probabilities"),
    ],
)
def test_what_cannot_be_fitted_is_named(p: np.ndarray, targets: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        calibrate_stage(p, targets)


def test_other_mistakes_are_named() -> None:
    p = np.full((4, 3), 1 / 3)
    with pytest.raises(UserError, match=r"offsets of shape \(2,\)"):
        calibrate_stage(p, np.zeros(4, int), np.zeros(2))
    with pytest.raises(UserError, match="2 classes for probabilities of shape"):
        StageCalibration(1.0, (0.0, 0.0)).apply(p)
    with pytest.raises(UserError, match="temperature 0.0"):
        StageCalibration(0.0, (0.0, 0.0))
    with pytest.raises(UserError, match="offsets .*nan"):
        StageCalibration(1.0, (float("nan"), 0.0))
    with pytest.raises(UserError, match="without the key 'biases'"):
        Calibration.from_dict({"stages": {"stage1": {"temperature": 1.0}}, "galaxies": 3})
    with pytest.raises(UserError, match="without the key 'galaxies'"):
        Calibration.from_dict({"stages": {}})
    with pytest.raises(UserError, match="none may be 0"):
        sampling_log_ratio(np.array([0, 5]), 1.0)
    with pytest.raises(UserError, match="5 folds of 4 galaxies"):
        folds(np.zeros(4, int))
    stage1, stage2 = np.full((2, 4), 0.25), np.full((2, 2), 0.5)
    with pytest.raises(UserError, match="without a label"):
        fit_calibration(both(stage1, stage2), np.array([0, -1]), GALAXY_ZOO, None)
    with pytest.raises(UserError, match="at least one"):
        fit_calibration(both(stage1[:0], stage2[:0]), np.empty(0, int), GALAXY_ZOO, None)
