"""Drift: two samples of one sky never drift, real changes do, and chance is told from them."""

from __future__ import annotations

import numpy as np
import pytest

from hiwl_core.drift import DRIFT_COLUMNS, Histogram, Tally, drift_table
from hiwl_core.errors import UserError
from hiwl_core.stability import newcombe, population_stability_index, stability_index

EDGES = np.linspace(0, 1, 21)
REFERENCE_ROWS = 2878


def tally(
    rows: int,
    seed: int,
    tilt: float = 0.0,
    css: float = 0.02,
    unlike: float = 0.01,
    undecodable: float = 0.0,
) -> Tally:
    """A night: probabilities of a class with most galaxies at 0, labels, flags and statuses."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(1, 0.001, 20) * np.exp(tilt * np.linspace(0, 1, 20))
    columns = {
        name: Histogram(EDGES, rng.multinomial(rows, part / part.sum()))
        for name, part in (("p_css", shares), ("ood_score", np.ones(20)))
    }
    labels = dict(zip(["CRS", "CSS"], rng.multinomial(rows, [1 - css, css]).tolist(), strict=True))
    broken = int(rng.binomial(rows, undecodable))
    flags = {1: int(rng.binomial(rows, unlike)), 2: int(rng.binomial(rows, 0.02))}
    return Tally(rows, columns, labels, flags, {"ok": rows, **({"undecodable": broken} if broken else {})})


REFERENCE = tally(REFERENCE_ROWS, seed=0)


def drifting(night: Tally, limit: float = 0.1) -> dict[str, str]:
    table = drift_table(night, REFERENCE, limit)
    assert list(table.columns) == list(DRIFT_COLUMNS)
    found = table[~table["drift"].isin(["", "no"])]
    return dict(zip(found["kind"] + " " + found["name"], found["drift"], strict=True))


@pytest.mark.parametrize("rows", [40, 1000, 200_000])
def test_another_night_of_the_same_sky_does_not_drift(rows: int) -> None:
    for seed in range(1, 5):
        assert drifting(tally(rows, seed)) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tilt": 5.0}, {"column p_css": "strong"}),
        ({"tilt": 3.0}, {"column p_css": "moderate"}),
        ({"css": 0.2}, {"labels all": "strong"}),
        ({"unlike": 0.2}, {"flag unlike": "strong"}),
        ({"undecodable": 0.2}, {"status undecodable": "strong"}),
    ],
)
def test_a_change_is_found_where_it_is_and_nowhere_else(
    change: dict[str, float], expected: dict[str, str]
) -> None:
    assert drifting(tally(20_000, 5, **change)) == expected


def test_what_a_few_galaxies_cannot_prove_is_no_drift() -> None:
    assert drifting(tally(30, 5, tilt=3.0)) == {}
    night = drift_table(tally(30, 5, tilt=3.0), REFERENCE).iloc[0]
    assert night["low"] == 0
    assert night["high"] > 0.25


def test_a_higher_limit_finds_less() -> None:
    night = tally(20_000, 5, unlike=0.06)
    assert drifting(night, 0.05) == {"flag unlike": "moderate"}
    assert drifting(night, 1.0) == {}


def test_shares_and_their_difference() -> None:
    table = drift_table(tally(20_000, 5, unlike=0.2), REFERENCE).set_index("name")
    unlike = table.loc["unlike"]
    assert unlike["share"] == pytest.approx(0.2, abs=0.01)
    assert unlike["reference"] == pytest.approx(0.01, abs=0.005)
    assert unlike["difference"] == pytest.approx(unlike["share"] - unlike["reference"])
    assert unlike["difference_low"] < 0.19 < unlike["difference_high"]
    css = table.loc["CSS"]
    assert css["kind"] == "label"
    assert css["difference_low"] < 0 < css["difference_high"]
    assert np.isnan(css["psi"])
    assert table.loc[["p_css", "ood_score"], "share"].isna().all()


def test_the_index_of_even_samples_is_noise_of_the_known_size() -> None:
    rng = np.random.default_rng(1)
    even = np.full(20, 0.05)
    found = stability_index(rng.multinomial(3000, even), rng.multinomial(2000, even), 0.95, rng, 1000)
    assert found.noise == pytest.approx(19 * (1 / 3000 + 1 / 2000), rel=0.1)
    assert found.value < 2 * found.noise
    assert found.low == 0


def test_the_interval_covers_the_true_index() -> None:
    rng = np.random.default_rng(2)
    one = np.full(10, 0.1)
    other = one * np.exp(np.linspace(-0.7, 0.7, 10))
    other /= other.sum()
    truth = ((other - one) * np.log(other / one)).sum()
    inside = 0
    for _ in range(100):
        found = stability_index(rng.multinomial(800, other), rng.multinomial(2000, one), 0.95, rng, 300)
        inside += found.low <= truth <= found.high
    assert inside >= 88


def test_the_index_is_symmetric_and_zero_for_equal_counts() -> None:
    counts = np.array([[50, 30, 20], [10, 0, 90]])
    other = np.array([[40, 40, 20], [10, 0, 90]])
    index = population_stability_index(counts, other)
    np.testing.assert_allclose(index, population_stability_index(other, counts))
    assert index[0] > 0 == index[1]


def test_newcombes_interval_is_the_published_one() -> None:
    # Newcombe (1998), table II, (a): 56/70 - 48/80.
    assert newcombe(56, 70, 48, 80, 1.959964) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert all(np.isnan(newcombe(0, 0, 1, 2, 1.96)))


def test_a_night_without_a_classified_galaxy_has_statuses_only() -> None:
    table = drift_table(Tally(0, statuses={"undecodable": 500}), REFERENCE)
    assert table["kind"].tolist() == ["status"]
    assert table["drift"].tolist() == ["strong"]


def test_what_only_one_of_them_has_is_not_compared() -> None:
    night = tally(1000, 3)
    part = Tally(1000, {"p_css": night.columns["p_css"]}, {}, {2: 20}, {"ok": 1000})
    assert drift_table(part, REFERENCE)["name"].tolist() == ["p_css", "border"]


def test_mistakes() -> None:
    night = tally(1000, 3)
    with pytest.raises(UserError, match="limit 0"):
        drift_table(night, REFERENCE, 0)
    with pytest.raises(UserError, match="no rows"):
        drift_table(Tally(0), REFERENCE)
    other = Tally(10, {"p_css": Histogram(EDGES + 1, np.full(20, 1))}, {}, {}, {"ok": 10})
    with pytest.raises(UserError, match="different bins"):
        drift_table(other, REFERENCE)
