import numpy as np
import pytest

from hiwl_core.cascade import combine_stages, route
from hiwl_core.taxonomy import GALAXY_ZOO, Group, Taxonomy
from tests.stages import FREQUENCIES, both

CLASSES = GALAXY_ZOO.classes


def test_product_rule_and_routing_by_hand() -> None:
    stage1 = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.2, 0.6]])  # CRS, IBS, SPI, CSS+EO
    stage2 = np.array([[np.nan, np.nan], [0.8, 0.2]])
    prediction = combine_stages(both(stage1, stage2), FREQUENCIES, GALAXY_ZOO)
    assert [CLASSES[i] for i in prediction.class_indices] == ["CRS", "CSS"]
    assert prediction.probabilities[0] == pytest.approx([0.7, 0.1, 0.013, 0.087, 0.1])
    assert prediction.probabilities[1] == pytest.approx([0.1, 0.1, 0.48, 0.12, 0.2])
    assert prediction.confidence == pytest.approx([0.7, 0.48])
    assert prediction.stages["stage1"][:, 3] == pytest.approx([0.1, 0.6])


def test_the_label_follows_the_routing_even_against_the_largest_probability() -> None:
    # Combined wins stage 1 with .4, but split in two it is behind CRS's .35.
    prediction = combine_stages(
        both(np.array([[0.35, 0.15, 0.1, 0.4]]), np.array([[0.55, 0.45]])), FREQUENCIES, GALAXY_ZOO
    )
    assert CLASSES[prediction.class_indices[0]] == "CSS"
    assert prediction.probabilities[0].argmax() == CLASSES.index("CRS")


def test_probabilities_sum_to_one_for_any_networks() -> None:
    rng = np.random.default_rng(0)
    stage1 = rng.dirichlet(np.full(4, 0.3), 10_000).astype(np.float32)
    stage2 = rng.dirichlet(np.full(2, 0.3), 10_000).astype(np.float32)
    stage2[rng.random(10_000) < 0.5] = np.nan
    prediction = combine_stages(both(stage1, stage2), FREQUENCIES, GALAXY_ZOO)
    assert prediction.probabilities.dtype == np.float32
    assert np.abs(prediction.probabilities.sum(1, dtype=np.float64) - 1).max() < 1e-6


@pytest.mark.parametrize("always", [False, True])
def test_stage2_sees_only_what_is_routed_to_it(always: bool) -> None:
    stage1 = np.array([[0.9, 0, 0, 0.1], [0.1, 0, 0, 0.9], [0, 0.6, 0, 0.4], [0, 0, 0.2, 0.8]])
    outputs = both(stage1, np.tile([0.3, 0.7], (4, 1)))
    prediction = combine_stages(outputs if always else route(outputs, GALAXY_ZOO), FREQUENCIES, GALAXY_ZOO)
    assert [CLASSES[i] for i in prediction.class_indices] == ["CRS", "EO", "IBS", "EO"]
    assert np.isnan(prediction.stages["stage2"][:, 0]).tolist() == (
        [False] * 4 if always else [True, False, True, False]
    )


@pytest.mark.filterwarnings("error")
def test_a_flat_taxonomy_has_the_networks_own_probabilities() -> None:
    stage1 = np.array([[0.1, 0.1, 0.2, 0.1, 0.5], [0.2, 0.2, 0.3, 0.2, 0.1]])
    flat = GALAXY_ZOO.flat()
    # The last class must not be taken for a combined one.
    prediction = combine_stages(route({"stage1": stage1}, flat), {}, flat)
    assert [CLASSES[i] for i in prediction.class_indices] == ["SPI", "CSS"]
    assert prediction.probabilities == pytest.approx(stage1)
    assert prediction.confidence == pytest.approx([0.5, 0.3])
    assert list(prediction.stages) == ["stage1"]


def test_no_objects_no_rows() -> None:
    empty = combine_stages(both(np.empty((0, 4)), np.empty((0, 2))), FREQUENCIES, GALAXY_ZOO)
    assert empty.probabilities.shape == (0, 5)


# Smooth galaxies and disks are groups of stage 1, spirals one of the disks.
TREE = Taxonomy(
    "tree",
    ("round", "oval", "edge-on", "barred", "unbarred", "star"),
    (
        Group("smooth", ("round", "oval")),
        Group("disk", ("edge-on", "spiral")),
        Group("spiral", ("barred", "unbarred")),
    ),
)
TREE_FREQUENCIES = TREE.member_frequencies(
    {"round": 1, "oval": 3, "edge-on": 2, "barred": 3, "unbarred": 5, "star": 9}
)


def test_a_tree_of_stages_routes_and_multiplies_down_to_the_leaves() -> None:
    assert TREE.stages == ("stage1", "stage2", "stage3", "stage4")
    assert TREE.stage_classes("stage1") == ("star", "smooth", "disk")
    says = {
        "stage1": np.array([[0.1, 0.2, 0.7], [0.1, 0.6, 0.3], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]),
        "stage2": np.array([[0.9, 0.1]] * 4),
        "stage3": np.array([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5], [0.6, 0.4]]),
        "stage4": np.array([[0.2, 0.8]] * 4),
    }
    sent = route(says, TREE)
    prediction = combine_stages(sent, TREE_FREQUENCIES, TREE)
    asked = {name: np.flatnonzero(~np.isnan(values).any(axis=1)).tolist() for name, values in sent.items()}
    assert asked == {"stage1": [0, 1, 2, 3], "stage2": [1], "stage3": [0, 3], "stage4": [0]}
    labels = [TREE.classes[index] for index in prediction.class_indices]
    assert labels == ["unbarred", "round", "star", "edge-on"]
    # Where a stage did not run, its members have their shares among the training galaxies.
    expected = [
        [0.2 * 0.25, 0.2 * 0.75, 0.7 * 0.25, 0.7 * 0.75 * 0.2, 0.7 * 0.75 * 0.8, 0.1],
        [0.6 * 0.9, 0.6 * 0.1, 0.3 * 0.2, 0.3 * 0.8 * 0.375, 0.3 * 0.8 * 0.625, 0.1],
        [0.1 * 0.25, 0.1 * 0.75, 0.1 * 0.2, 0.1 * 0.8 * 0.375, 0.1 * 0.8 * 0.625, 0.8],
        [0.1 * 0.25, 0.1 * 0.75, 0.8 * 0.6, 0.8 * 0.4 * 0.375, 0.8 * 0.4 * 0.625, 0.1],
    ]
    assert prediction.probabilities == pytest.approx(np.array(expected), abs=1e-6)
    always = combine_stages(says, TREE_FREQUENCIES, TREE)
    assert (always.class_indices == prediction.class_indices).all()
    assert always.probabilities[2] == pytest.approx([0.09, 0.01, 0.05, 0.01, 0.04, 0.8], abs=1e-6)
