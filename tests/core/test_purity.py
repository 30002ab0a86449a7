import numpy as np
import pytest

from hiwl_core.metrics import wilson
from hiwl_core.purity import threshold_table


def test_samples_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.55, 0.45], [0.2, 0.8]])
    table = threshold_table(p, np.array([0, 1, 0, 1]), ("A", "B"), (0.5, 0.85, 0.95)).set_index(
        ["class", "threshold"]
    )
    half = table.loc[("A", 0.5)]
    assert (half["selected"], half["purity"], half["completeness"]) == (3, pytest.approx(2 / 3), 1.0)
    assert (half["purity_low"], half["purity_high"]) == wilson(2, 3)
    assert half["expected_purity"] == pytest.approx((0.9 + 0.6 + 0.55) / 3)
    assert table.loc[("A", 0.85), "completeness"] == 0.5
    nothing = table.loc[("B", 0.95)]
    assert (nothing["selected"], nothing["completeness"]) == (0, 0.0)
    assert np.isnan(nothing["purity"])


def test_of_calibrated_probabilities_the_expected_purity_is_the_purity() -> None:
    generator = np.random.default_rng(0)
    p = generator.dirichlet([0.5, 0.5, 0.5], 20_000)
    truth = (p.cumsum(axis=1) < generator.random((20_000, 1))).sum(axis=1)
    table = threshold_table(p, truth, ("A", "B", "C"))
    assert np.abs(table["purity"] - table["expected_purity"]).max() < 0.02
    assert (table.groupby("class")["completeness"].diff().dropna() <= 0).all()
