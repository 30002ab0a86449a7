import numpy as np
import pytest

from hiwl_core.errors import UserError
from hiwl_core.taxonomy import GALAXY_ZOO, Group, Taxonomy


def test_galaxy_zoo_stages() -> None:
    assert GALAXY_ZOO.stage_classes("stage1") == ("CRS", "IBS", "SPI", "CSS+EO")
    assert GALAXY_ZOO.stage_classes("stage2") == ("CSS", "EO")
    indices = GALAXY_ZOO.encode(["CRS", "IBS", "CSS", "EO", "SPI"])
    assert GALAXY_ZOO.stage_targets("stage1", indices).tolist() == [0, 1, 3, 3, 2]
    assert GALAXY_ZOO.stage_targets("stage2", indices).tolist() == [-1, -1, 0, 1, -1]


def test_another_grouping() -> None:
    disturbed = Group("disturbed", ("merger", "pair", "ring"))
    taxonomy = Taxonomy("mergers", ("merger", "pair", "ring", "single"), (disturbed,))
    assert taxonomy.stage_classes("stage1") == ("single", "disturbed")
    assert taxonomy.stage_targets("stage1", np.arange(4)).tolist() == [1, 1, 1, 0]
    assert taxonomy.stage_targets("stage2", np.arange(4)).tolist() == [0, 1, 2, -1]
    assert Taxonomy.from_dict(taxonomy.to_dict()) == taxonomy


def test_a_flat_taxonomy_has_one_stage_for_all_classes() -> None:
    flat = GALAXY_ZOO.flat()
    assert (flat.stages, GALAXY_ZOO.stages) == (("stage1",), ("stage1", "stage2"))
    assert flat.stage_classes("stage1") == flat.classes_seen("stage1") == GALAXY_ZOO.classes
    assert flat.stage_targets("stage1", np.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert flat.flat() == flat == Taxonomy.from_dict(flat.to_dict())
    assert Taxonomy("x", ("a", "b")).stage_classes("stage1") == ("a", "b")


def test_unknown_label_names_itself_and_the_classes() -> None:
    with pytest.raises(UserError, match="unknown class 'BAR' in the labels.*CRS, IBS, CSS, EO, SPI"):
        GALAXY_ZOO.encode(["CRS", "BAR"])


def test_groups_may_be_members_of_groups() -> None:
    tree = Taxonomy(
        "tree",
        ("a", "b", "c", "d", "e"),
        (Group("bcd", ("b", "cd")), Group("cd", ("d", "c"))),
    )
    assert tree.stages == ("stage1", "stage2", "stage3")
    assert [tree.stage_classes(stage) for stage in tree.stages] == [
        ("a", "e", "bcd"),
        ("b", "cd"),
        ("d", "c"),
    ]
    assert [tree.classes_seen(stage) for stage in tree.stages] == [tree.classes, ("b", "d", "c"), ("d", "c")]
    assert [tree.stage_targets(stage, np.arange(5)).tolist() for stage in tree.stages] == [
        [0, 2, 2, 2, 1],
        [-1, 0, 1, 1, -1],
        [-1, -1, 1, 0, -1],
    ]
    assert (tree.sent_by("stage2"), tree.sent_by("stage3")) == (("stage1", 2), ("stage2", 1))
    assert [tree.sent_from(stage) for stage in tree.stages] == [("stage2",), ("stage3",), ()]
    assert [tree.owner(name) for name in "abcde"] == ["stage1", "stage2", "stage3", "stage3", "stage1"]
    assert Taxonomy.from_dict(tree.to_dict()) == tree
    counts = dict(zip("abcde", (7, 1, 2, 1, 7), strict=True))
    shares = tree.member_frequencies(counts)
    assert shares["stage2"] == pytest.approx([1 / 4, 3 / 4])
    assert shares["stage3"] == pytest.approx([1 / 3, 2 / 3])


def test_one_group_is_written_as_older_versions_read_it() -> None:
    written = GALAXY_ZOO.to_dict()
    assert (written["combined"], written["combined_name"]) == (["CSS", "EO"], "CSS+EO")
    assert "groups" not in written
    assert Taxonomy.from_dict({"name": "x", "classes": ["a", "b"]}) == Taxonomy("x", ("a", "b"))


@pytest.mark.parametrize(
    ("classes", "groups"),
    [
        ("aab", {"ab": "ab"}),
        ("abc", {"ab": "a"}),
        ("abc", {"aa": "aa"}),
        ("abc", {"ad": "ad"}),
        ("ab", {"ab": "ab"}),
        ("abc", {"c": "ab"}),
        ("abc", {"": "ab"}),
        ("a", {}),
        ("abcd", {"x": "ab", "y": "bc"}),
        ("abcd", {"x": "ab", "y": "cx"}),
        ("abcd", {"x": "ay", "y": "bx"}),
        ("abcde", {"X": "ab", "x": "cd"}),
    ],
)
def test_impossible_taxonomies_are_refused(classes: str, groups: dict[str, str]) -> None:
    with pytest.raises(UserError, match="taxonomy 'x'"):
        Taxonomy("x", tuple(classes), tuple(Group(name, tuple(of)) for name, of in groups.items()))


def test_a_description_with_both_forms_or_half_of_one_is_refused() -> None:
    group = {"name": "ab", "members": ["a", "b"]}
    for form in (
        {"combined": ["a", "b"]},
        {"combined_name": "ab"},
        {"combined": ["a", "b"], "combined_name": "ab", "groups": [group]},
    ):
        with pytest.raises(UserError, match="taxonomy 'x': .*combined"):
            Taxonomy.from_dict({"name": "x", "classes": ["a", "b", "c"], **form})
