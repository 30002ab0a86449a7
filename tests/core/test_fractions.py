"""Fractions of classes: the truth is in the corrected intervals, and not in those of the plain counts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hiwl_core.class_prior import estimate_prior
from hiwl_core.errors import UserError
from hiwl_core.fractions import FRACTION_COLUMNS, SaidOfGalaxies, class_fractions
from hiwl_core.mixture import adjusted_shares, mixture_shares
from hiwl_core.taxonomy import GALAXY_ZOO

CLASSES = list(GALAXY_ZOO.classes)
VALIDATION = np.array([843, 807, 58, 390, 780])
# Accuracy 96 %; a quarter of the cigar-shaped galaxies is lost, most of it to the edge-on disks.
RATES = np.array(
    [
        [0.965, 0.030, 0.0002, 0.0008, 0.004],
        [0.020, 0.965, 0.004, 0.003, 0.008],
        [0.000, 0.050, 0.750, 0.190, 0.010],
        [0.0005, 0.004, 0.012, 0.9645, 0.019],
        [0.003, 0.006, 0.0005, 0.0075, 0.983],
    ]
)
MIX = VALIDATION / VALIDATION.sum()
CSS = CLASSES.index("CSS")


def confusion(rng: np.random.Generator) -> np.ndarray:
    """What a validation of the usual size finds of the rates."""
    return np.array([rng.multinomial(n, row) for n, row in zip(VALIDATION, RATES, strict=True)])


def with_css(factor: float) -> np.ndarray:
    shares = MIX * np.where(np.arange(5) == CSS, factor, 1)
    return shares / shares.sum()


def counted(counts: np.ndarray, group: str = "all") -> pd.DataFrame:
    return pd.DataFrame([counts], index=[group], columns=CLASSES)


@pytest.mark.parametrize(("factor", "size"), [(0.25, 60_000), (3, 60_000), (0.25, 150)])
def test_the_intervals_cover_the_truth(factor: float, size: int) -> None:
    truth = with_css(factor)
    rng = np.random.default_rng(8)
    draws = 200 if size > 1000 else 100  # small ones are often on the border, where each takes longer
    adjusted, naive = np.zeros(5), np.zeros(5)
    for seed in range(draws):
        counts = rng.multinomial(size, truth @ RATES)
        table = class_fractions(counted(counts), confusion(rng), seed=seed, draws=300)
        adjusted += table["adjusted_low"].le(truth) & table["adjusted_high"].ge(truth)
        naive += table["naive_low"].le(truth) & table["naive_high"].ge(truth)
    assert (adjusted / draws >= 0.9).all()
    if size >= 4_000:
        assert naive[CSS] / draws < 0.05


def test_without_confusion_the_fractions_are_the_counted_ones() -> None:
    table = class_fractions(counted(np.array([50, 30, 5, 10, 5])), np.diag(VALIDATION))
    assert list(table.columns) == list(FRACTION_COLUMNS)
    assert table["rows"].tolist() == [50, 30, 5, 10, 5]
    np.testing.assert_allclose(table["adjusted"], table["naive"], atol=1e-9)
    assert table[["em", "em_low", "em_high"]].isna().all(axis=None)


def test_exact_rates_and_counts_give_the_exact_mix() -> None:
    truth = np.array([[0.6, 0.3, 0.02, 0.03, 0.05], [0.2, 0.1, 0.3, 0.3, 0.1]])
    np.testing.assert_allclose(adjusted_shares(truth @ RATES, RATES), truth, atol=1e-9)
    # On the border of what is possible the steps of expectation maximization become small.
    absent = np.array([0.0, 0.1, 0.4, 0.4, 0.1])
    np.testing.assert_allclose(adjusted_shares(absent @ RATES, RATES), absent, atol=1e-4)


def test_no_share_is_negative_and_none_is_likelier() -> None:
    # Fewer cigar-shaped ones than the other classes' mistakes alone would give.
    counts = np.array([400.0, 400, 0, 100, 100])
    found = adjusted_shares(counts, RATES)
    assert found[CSS] < 1e-4
    assert found.min() >= 0
    assert found.sum() == pytest.approx(1)

    def log_likelihood(shares: np.ndarray) -> float:
        return float(counts @ np.log(shares @ RATES))

    others = np.random.default_rng(0).dirichlet(found * 2000 + 0.1, 500)
    assert log_likelihood(found) >= max(map(log_likelihood, others)) - 1e-4


def test_many_samples_at_once_are_each_as_alone() -> None:
    rng = np.random.default_rng(1)
    likelihood = rng.uniform(0.01, 1, (6, 4, 3))
    counts = rng.integers(1, 50, (6, 4)).astype(float)
    together = mixture_shares(counts, likelihood)
    for index in range(6):
        alone = mixture_shares(counts[index : index + 1], likelihood[index : index + 1])
        np.testing.assert_allclose(together[index], alone[0], atol=1e-4)


def test_groups_empty_groups_and_classes_without_rows() -> None:
    counts = pd.DataFrame(
        [[300, 280, 20, 140, 260], [0, 0, 0, 0, 0], [40, 60, 0, 0, 0]], index=[0, 1, 2], columns=CLASSES
    )
    table = class_fractions(counts, confusion(np.random.default_rng(2)))
    assert table["group"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert table["class"].tolist() == CLASSES * 3
    groups = dict(list(table.groupby("group")))
    assert groups[1].drop(columns=["group", "class", "rows"]).isna().all(axis=None)
    for group in (0, 2):
        assert groups[group][["naive", "adjusted"]].sum().tolist() == pytest.approx([1, 1])
    absent = groups[2].set_index("class").loc["CSS"]
    assert absent["naive"] == 0
    # Nobody was called cigar-shaped, but of a hundred galaxies some could be.
    assert absent["adjusted_low"] <= absent["adjusted"] < 0.01 < absent["adjusted_high"] < 0.15
    again = class_fractions(counts, confusion(np.random.default_rng(2)))
    pd.testing.assert_frame_equal(table, again)


def test_a_class_without_validation_galaxies_is_uncertain_and_one_never_predicted_no_error() -> None:
    matrix = confusion(np.random.default_rng(3))
    matrix[CSS] = 0
    matrix[:, CSS] = 0
    table = class_fractions(counted(np.array([300, 280, 20, 140, 260])), matrix).set_index("class")
    assert np.isfinite(table.drop(columns=["group", "em", "em_low", "em_high"]).to_numpy()).all()
    width = table["adjusted_high"] - table["adjusted_low"]
    assert width["CSS"] > 0.02


def gaussian_galaxies(rng: np.random.Generator, mix: np.ndarray, count: int) -> SaidOfGalaxies:
    """Galaxies of three classes on a line, with their exact probabilities under equal shares."""
    classes = rng.choice(3, count, p=mix)
    places = rng.normal(np.array([0.0, 2.5, 5.0])[classes])
    density = np.exp(-0.5 * (places[:, None] - np.array([0.0, 2.5, 5.0])) ** 2)
    probabilities = density / density.sum(axis=1, keepdims=True)
    return SaidOfGalaxies(probabilities.argmax(axis=1), probabilities)


def gaussian_confusion(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = [gaussian_galaxies(rng, np.eye(3)[index], count).labels for index in range(3)]
    return np.array([np.bincount(row, minlength=3) for row in rows])


def test_em_is_that_of_the_probabilities_with_the_doubts_of_validation() -> None:
    rng = np.random.default_rng(4)
    mix, prior = np.array([0.8, 0.15, 0.05]), np.full(3, 1 / 3)
    galaxies = gaussian_galaxies(rng, mix, 20_000)
    counts = pd.DataFrame([np.bincount(galaxies.labels, minlength=3)], index=["a"], columns=list("xyz"))
    tables = [
        class_fractions(
            counts, gaussian_confusion(rng, count), {"a": galaxies}, prior, draws=200, em_draws=60
        )
        for count in (60, 60_000)
    ]
    np.testing.assert_allclose(tables[0]["em"], estimate_prior(galaxies.probabilities, prior))
    for table in tables:
        assert table["em_low"].le(mix).all()
        assert table["em_high"].ge(mix).all()
    few, many = (table["em_high"] - table["em_low"] for table in tables)
    # With few validation galaxies their uncertainty is most of it, with many that of the sample is left.
    assert (few > 2 * many).all()
    noise = 1.96 * np.sqrt(mix * (1 - mix) / len(galaxies.labels))
    assert (many / 2).between(noise, 2 * noise).all()
    # Probabilities say more than labels do.
    assert (few < tables[0]["adjusted_high"] - tables[0]["adjusted_low"]).all()


def test_em_leaves_out_nan_rows_and_a_class_whose_probability_is_always_zero() -> None:
    rng = np.random.default_rng(6)
    galaxies = gaussian_galaxies(rng, np.array([0.5, 0.5, 0]), 500)
    two = galaxies.probabilities.copy()
    two[:, 2] = 0
    two /= two.sum(axis=1, keepdims=True)
    two[0] = np.nan
    counts = pd.DataFrame([np.bincount(galaxies.labels, minlength=3)], index=["a"], columns=list("xyz"))
    prior = np.array([0.5, 0.5, 0])
    table = class_fractions(
        counts,
        gaussian_confusion(rng, 100),
        {"a": SaidOfGalaxies(galaxies.labels, two)},
        prior,
        em_draws=20,
    )
    assert table["em"].isna().tolist() == [False, False, True]
    assert table["em"][:2].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(4, dtype=int), "square confusion matrix"),
        (np.zeros((5, 5), dtype=int), "without galaxies"),
        (-np.eye(5, dtype=int), "negative"),
    ],
)
def test_what_corrects_nothing_is_refused(matrix: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        class_fractions(counted(VALIDATION), matrix)


def test_galaxies_need_a_prior() -> None:
    galaxies = {"all": SaidOfGalaxies(np.zeros(1, int), np.full((1, 5), 0.2))}
    with pytest.raises(UserError, match="class shares that probabilities assume"):
        class_fractions(counted(VALIDATION), np.diag(VALIDATION), galaxies)
