import numpy as np
import pytest

from hiwl_core.class_distances import class_distances, stage_distances
from hiwl_core.errors import UserError
from hiwl_core.taxonomy import GALAXY_ZOO, Group, Taxonomy

BARS = Taxonomy("bars", ("bar", "ring", "none"), (Group("structure", ("bar", "ring")),))


def test_galaxy_zoo_by_hand() -> None:
    assert class_distances(GALAXY_ZOO, {}).tolist() == [
        [0, 1, 2, 2.5, 2],
        [1, 0, 1, 1.5, 2],
        [2, 1, 0, 0.5, 2],
        [2.5, 1.5, 0.5, 0, 2],
        [2, 2, 2, 2, 0],
    ]
    assert (
        stage_distances(GALAXY_ZOO.flat(), "stage1", {}).tolist() == class_distances(GALAXY_ZOO, {}).tolist()
    )


def test_the_combined_class_is_as_far_as_its_members_on_average() -> None:
    # CRS, IBS, SPI, CSS+EO
    assert stage_distances(GALAXY_ZOO, "stage1", {}).tolist() == [
        [0, 1, 2, 2.25],
        [1, 0, 2, 1.25],
        [2, 2, 0, 2],
        [2.25, 1.25, 2, 0],
    ]
    assert stage_distances(GALAXY_ZOO, "stage2", {}).tolist() == [[0, 0.5], [0.5, 0]]


def test_what_is_given_comes_before_the_default_either_way_round() -> None:
    for given in ({"EO": {"CSS": 0.25}}, {"CSS": {"EO": 0.25}}):
        distances = class_distances(GALAXY_ZOO, given)
        assert (distances[2, 3], distances[3, 2], distances[0, 1]) == (0.25, 0.25, 1)


def test_distances_of_other_classes_are_the_users() -> None:
    assert np.isnan(class_distances(BARS, {})[~np.eye(3, dtype=bool)]).all()
    # What a stage does not tell apart it need not know.
    given = {"bar": {"none": 1.0}, "none": {"ring": 2.0}}
    assert stage_distances(BARS, "stage1", given).tolist() == [[0, 1.5], [1.5, 0]]
    with pytest.raises(UserError, match="no distance between bar and ring, which similarity .* of stage2"):
        stage_distances(BARS, "stage2", given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bar": {"disk": 1.0}}, "distances.bar.disk: 'disk' is not a class, taxonomy 'bars' has bar, ring"),
        ({"bar": {"bar": 1.0}}, "distances.bar.bar: a class has no distance to itself"),
        ({"bar": {"ring": 1.0}, "ring": {"bar": 2.0}}, "distances.bar.ring and distances.ring.bar differ"),
    ],
)
def test_impossible_distances_are_refused(given: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        class_distances(BARS, given)
