import numpy as np
import pytest

from hiwl_core.cascade import combine_stages, run_cascade
from hiwl_core.taxonomy import GALAXY_ZOO

CLASSES = GALAXY_ZOO.classes
FREQUENCIES = np.array([0.13, 0.87])


def test_product_rule_and_routing_by_hand() -> None:
    stage1 = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]])  # CRS, IBS, SPI, CSS+EO
    stage2 = np.array([[np.nan, np.nan], [0.8, 0.2]])
    prediction = combine_stages(stage1, stage2, FREQUENCIES, GALAXY_ZOO)
    assert [CLASSES[i] for i in prediction.class_indices] == ["CRS", "CSS"]
    assert prediction.probabilities[0] == pytest.approx([0.7, 0.1, 0.013, 0.087, 0.1])
    assert prediction.probabilities[1] == pytest.approx([0.1, 0.1, 0.48, 0.12, 0.2])
    assert prediction.confidence == pytest.approx([0.7, 0.48])
    assert prediction.combined == pytest.approx([0.1, 0.6])


def test_the_label_follows_the_routing_even_against_the_largest_probability() -> None:
    # Combined wins stage 1 with .4, but split in two it is behind CRS's .35.
    prediction = combine_stages(
        np.array([[0.35, 0.15, 0.1, 0.4]]), np.array([[0.55, 0.45]]), FREQUENCIES, GALAXY_ZOO
    )
    assert CLASSES[prediction.class_indices[0]] == "CSS"
    assert prediction.probabilities[0].argmax() == CLASSES.index("CRS")


def test_probabilities_sum_to_one_for_any_networks() -> None:
    rng = np.random.default_rng(0)
    stage1 = rng.dirichlet(np.full(4, 0.3), 10_000).astype(np.float32)
    stage2 = rng.dirichlet(np.full(2, 0.3), 10_000).astype(np.float32)
    stage2[rng.random(10_000) < 0.5] = np.nan
    prediction = combine_stages(stage1, stage2, FREQUENCIES, GALAXY_ZOO)
    assert prediction.probabilities.dtype == np.float32
    assert np.abs(prediction.probabilities.sum(1, dtype=np.float64) - 1).max() < 1e-6


@pytest.mark.parametrize("always", [False, True])
def test_stage2_sees_only_what_is_routed_to_it(always: bool) -> None:
    stage1 = np.array([[0.9, 0, 0, 0.1], [0.1, 0, 0, 0.9], [0, 0.6, 0, 0.4], [0, 0, 0.2, 0.8]])
    seen: list[int] = []

    def stage2(rows: np.ndarray) -> np.ndarray:
        seen.extend(rows.tolist())
        return np.tile([0.3, 0.7], (len(rows), 1))

    prediction = run_cascade(lambda rows: stage1[rows], stage2, 4, FREQUENCIES, GALAXY_ZOO, always=always)
    assert seen == ([0, 1, 2, 3] if always else [1, 3])
    assert [CLASSES[i] for i in prediction.class_indices] == ["CRS", "EO", "IBS", "EO"]
    assert np.isnan(prediction.stage2[:, 0]).tolist() == (
        [False] * 4 if always else [True, False, True, False]
    )


@pytest.mark.filterwarnings("error")
def test_a_flat_taxonomy_has_the_networks_own_probabilities() -> None:
    stage1 = np.array([[0.1, 0.1, 0.2, 0.1, 0.5], [0.2, 0.2, 0.3, 0.2, 0.1]])
    flat = GALAXY_ZOO.flat()
    # The last class must not be taken for a combined one.
    prediction = run_cascade(lambda rows: stage1[rows], pytest.fail, 2, np.empty(0), flat)
    assert [CLASSES[i] for i in prediction.class_indices] == ["SPI", "CSS"]
    assert prediction.probabilities == pytest.approx(stage1)
    assert prediction.confidence == pytest.approx([0.5, 0.3])
    assert np.isnan(prediction.combined).all()
    assert prediction.stage2.shape == (2, 0)


def test_no_objects_no_rows() -> None:
    empty = run_cascade(
        lambda rows: np.empty((0, 4)), lambda rows: np.empty((0, 2)), 0, FREQUENCIES, GALAXY_ZOO
    )
    assert empty.probabilities.shape == (0, 5)
