import numpy as np
import pytest

from hiwl_core.errors import UserError
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy


def test_galaxy_zoo_stages() -> None:
    assert GALAXY_ZOO.stage1_classes == ("CRS", "IBS", "SPI", "CSS+EO")
    assert GALAXY_ZOO.stage2_classes == ("CSS", "EO")
    indices = GALAXY_ZOO.encode(["CRS", "IBS", "CSS", "EO", "SPI"])
    assert GALAXY_ZOO.stage_targets("stage1", indices).tolist() == [0, 1, 3, 3, 2]
    assert GALAXY_ZOO.stage_targets("stage2", indices).tolist() == [-1, -1, 0, 1, -1]


def test_another_grouping() -> None:
    taxonomy = Taxonomy(
        "mergers", ("merger", "pair", "ring", "single"), ("merger", "pair", "ring"), "disturbed"
    )
    assert taxonomy.stage1_classes == ("single", "disturbed")
    assert taxonomy.stage_targets("stage1", np.arange(4)).tolist() == [1, 1, 1, 0]
    assert taxonomy.stage_targets("stage2", np.arange(4)).tolist() == [0, 1, 2, -1]
    assert Taxonomy.from_dict(taxonomy.to_dict()) == taxonomy


def test_a_flat_taxonomy_has_one_stage_for_all_classes() -> None:
    flat = GALAXY_ZOO.flat()
    assert (flat.stages, GALAXY_ZOO.stages) == (("stage1",), ("stage1", "stage2"))
    assert flat.stage1_classes == flat.classes_seen("stage1") == GALAXY_ZOO.classes
    assert flat.stage2_classes == ()
    assert flat.stage_targets("stage1", np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert flat.flat() == flat == Taxonomy.from_dict(flat.to_dict())
    assert Taxonomy("x", ("a", "b")).stage1_classes == ("a", "b")


def test_unknown_label_names_itself_and_the_classes() -> None:
    with pytest.raises(UserError, match="unknown class 'BAR' in the labels.*CRS, IBS, CSS, EO, SPI"):
        GALAXY_ZOO.encode(["CRS", "BAR"])


@pytest.mark.parametrize(
    ("classes", "combined", "combined_name"),
    [
        (("a", "a", "b"), ("a", "b"), "ab"),
        (("a", "b", "c"), ("a",), "ab"),
        (("a", "b", "c"), ("a", "d"), "ad"),
        (("a", "b"), ("a", "b"), "ab"),
        (("a", "b", "c"), ("a", "b"), "c"),
        (("a", "b", "c"), ("a", "b"), ""),
        (("a", "b", "c"), (), "ab"),
        (("a",), (), ""),
    ],
)
def test_impossible_taxonomies_are_refused(classes: tuple, combined: tuple, combined_name: str) -> None:
    with pytest.raises(UserError, match="taxonomy 'x'"):
        Taxonomy("x", classes, combined, combined_name)
