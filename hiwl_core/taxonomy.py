"""Taxonomies: the classes, and the groups of them that a stage of their own tells apart.

A taxonomy names the classes of a catalog, and *groups* of members that look alike. Stage 1 sees a group as
one; the group's own stage tells its members apart, among which may be groups again: so the stages are a tree,
of which each leaf is a class. Galaxy Zoo's five classes (Ma et al. 2023, MNRAS 519, 4765) with their one
group, the *combined* class, are one instance, `GALAXY_ZOO`. A *flat* taxonomy has no group: stage 1 tells all
classes apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from hiwl_core.errors import UserError
from hiwl_core.near_names import or_meant

__all__ = ["FIRST_STAGE", "GALAXY_ZOO", "STAGE_NAME", "Group", "Taxonomy", "probability_column"]

FIRST_STAGE = "stage1"
# Of a group's stage: `stage2` of the first group, `stage3` of the next.
STAGE_NAME = re.compile(r"stage[1-9][0-9]?")
MOST_GROUPS = 20


class Group(NamedTuple):
    """Classes, or groups of them, that one stage sees as one and another tells apart.

    Parameters
    ----------
    name : str
        What they are called together.
    members : tuple of str
        Two or more, in the order of the stage that tells them apart.
    """

    name: str
    members: tuple[str, ...]


@dataclass(frozen=True)
class Taxonomy:
    """Classes in catalog order, and the tree of stages that tells them apart.

    Parameters
    ----------
    name : str
        What the taxonomy is called in bundles and reports.
    classes : tuple of str
        All classes, in the order of the catalog's probability columns.
    groups : tuple of Group
        What stages of their own tell apart, in the order of the stages: the first group is stage 2's. A group
        that is a member of another comes after it. None in a flat taxonomy.
    descriptions : tuple of str
        A few words for each class, for reports and column descriptions; may be empty.

    Raises
    ------
    UserError
        If names repeat, if a member is no class or later group or is one of two groups, or if nothing is left
        for a stage to tell apart.
    """

    name: str
    classes: tuple[str, ...]
    groups: tuple[Group, ...] = ()
    descriptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise self._mistake(f"class names repeat in {list(self.classes)}")
        self._check_groups()
        if len(self.stage_classes(FIRST_STAGE)) < 2:
            raise self._mistake("stage 1 needs two classes or more to tell apart")
        columns: dict[str, str] = {}
        # The only group has a column that is not named after it.
        of_groups = [group.name for group in self.groups if len(self.groups) > 1]
        for name in (*self.classes, *of_groups):
            column = probability_column(name)
            if column == "p_" or column in columns:
                why = f"as for {columns[column]!r}" if column in columns else "of which nothing is left"
                raise self._mistake(
                    f"the column of {name!r} would be {column!r}, {why}: rename it in letters from a to z "
                    "and digits"
                )
            columns[column] = name
        if self.descriptions and len(self.descriptions) != len(self.classes):
            raise self._mistake(f"{len(self.descriptions)} descriptions for {len(self.classes)} classes")

    def _mistake(self, words: str) -> UserError:
        return UserError(f"taxonomy {self.name!r}: {words}")

    def _check_groups(self) -> None:
        if len(self.groups) > MOST_GROUPS:
            raise self._mistake(f"{len(self.groups)} groups: {MOST_GROUPS} are most")
        group_of: dict[str, str] = {}
        later = [group.name for group in self.groups]
        for name, members in self.groups:
            later.remove(name)
            if not name or name in self.classes or name in later:
                raise self._mistake(
                    f"a group needs a name of its own, which no class and no other group has, not {name!r}"
                )
            if len(set(members)) < max(2, len(members)):
                raise self._mistake(f"the group {name!r} needs two or more different members")
            for member in members:
                if member not in self.classes and member not in later:
                    raise self._mistake(
                        f"{member!r} of the group {name!r} is not among the classes {list(self.classes)}, "
                        f"and no group that comes after it{or_meant(member, [*self.classes, *later])}"
                    )
                if member in group_of:
                    raise self._mistake(f"{member!r} is in two groups, {group_of[member]!r} and {name!r}")
                group_of[member] = name

    def flat(self) -> Taxonomy:
        """The same classes without groups."""
        return replace(self, groups=())

    @cached_property
    def stages(self) -> tuple[str, ...]:
        """The stages that there are: ``"stage1"``, and ``"stage2"`` and on, one for each group."""
        return tuple(f"stage{number}" for number in range(1, len(self.groups) + 2))

    @property
    def later_stages(self) -> tuple[str, ...]:
        """The stages of groups, each of which comes after the one that sees its group as one."""
        return self.stages[1:]

    @cached_property
    def _stage_classes(self) -> dict[str, tuple[str, ...]]:
        inner = {member for group in self.groups for member in group.members}
        outer = [*self.classes, *(group.name for group in self.groups)]
        first = tuple(name for name in outer if name not in inner)
        return dict(zip(self.stages, (first, *(group.members for group in self.groups)), strict=True))

    def stage_classes(self, stage: str) -> tuple[str, ...]:
        """Classes of a stage: of stage 1 those in no group in catalog order, then the groups in no other."""
        return self._stage_classes[stage]

    def group(self, stage: str) -> Group:
        """The group that a later stage tells apart."""
        return self.groups[self.later_stages.index(stage)]

    def sent_by(self, stage: str) -> tuple[str, int]:
        """The stage that sends galaxies on to a later one, and where the group stands among its classes."""
        name = self.group(stage).name
        return next(
            (sender, classes.index(name))
            for sender, classes in self._stage_classes.items()
            if name in classes
        )

    @cached_property
    def _sent_from(self) -> dict[str, tuple[str, ...]]:
        senders = {stage: self.sent_by(stage)[0] for stage in self.later_stages}
        return {
            stage: tuple(later for later, sender in senders.items() if sender == stage)
            for stage in self.stages
        }

    def sent_from(self, stage: str) -> tuple[str, ...]:
        """The later stages to which a stage sends galaxies on."""
        return self._sent_from[stage]

    @cached_property
    def _members(self) -> dict[str, tuple[str, ...]]:
        """The classes below each name: of a class itself."""
        found: dict[str, tuple[str, ...]] = {name: (name,) for name in self.classes}
        for group in reversed(self.groups):
            found[group.name] = tuple(name for member in group.members for name in found[member])
        return found

    def classes_seen(self, stage: str) -> tuple[str, ...]:
        """The classes whose galaxies a stage learns from: all, or those of its group."""
        return self.classes if stage == FIRST_STAGE else self._members[self.group(stage).name]

    def owner(self, name: str) -> str:
        """The stage that tells a class from its like."""
        return next(stage for stage, classes in self._stage_classes.items() if name in classes)

    def encode(self, labels: np.ndarray | list[str]) -> np.ndarray:
        """Class indices of label strings.

        Parameters
        ----------
        labels : array of str, shape (N,)

        Returns
        -------
        numpy.ndarray of int64, shape (N,)
            Positions in `classes`.

        Raises
        ------
        UserError
            If a label is not a class of the taxonomy.
        """
        position = {name: index for index, name in enumerate(self.classes)}
        unknown = sorted({str(label) for label in labels if label not in position})
        if unknown:
            raise UserError(
                f"unknown class {', '.join(map(repr, unknown[:5]))} in the labels: "
                f"taxonomy {self.name!r} has {', '.join(self.classes)}{or_meant(unknown[0], self.classes)}"
            )
        return np.fromiter((position[label] for label in labels), dtype=np.int64, count=len(labels))

    def stage_targets(self, stage: str, class_indices: np.ndarray) -> np.ndarray:
        """Targets of one stage.

        Parameters
        ----------
        stage : str
        class_indices : numpy.ndarray of int64, shape (N,)
            Positions in `classes`.

        Returns
        -------
        numpy.ndarray of int64, shape (N,)
            Positions in the stage's classes; -1 for objects that are not the stage's to tell, being outside
            of its group.
        """
        lookup = np.full(len(self.classes), -1, dtype=np.int64)
        for position, name in enumerate(self.stage_classes(stage)):
            lookup[[self.classes.index(member) for member in self._members[name]]] = position
        return lookup[np.asarray(class_indices, dtype=np.int64)]

    def member_frequencies(self, counts: Mapping[str, float]) -> dict[str, np.ndarray]:
        """Shares of the classes of each later stage among the galaxies of its group.

        Parameters
        ----------
        counts : mapping of float
            Galaxies of each class.

        Returns
        -------
        dict of numpy.ndarray of float64, shape (M,)
            Under the names of the later stages; they sum to 1.
        """
        shares = {}
        for stage in self.later_stages:
            members = np.array(
                [sum(counts[name] for name in self._members[member]) for member in self.stage_classes(stage)],
                dtype=np.float64,
            )
            shares[stage] = members / members.sum()
        return shares

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a bundle's JSON; `from_dict` is its inverse.

        One group of classes is written as what was the only form once: bundles of such taxonomies can be read
        by older versions.
        """
        form: dict[str, Any] = {"groups": [{"name": name, "members": list(of)} for name, of in self.groups]}
        if len(self.groups) < 2:
            name, members = self.groups[0] if self.groups else Group("", ())
            form = {"combined": list(members), "combined_name": name}
        return {
            "name": self.name,
            "classes": list(self.classes),
            **form,
            "descriptions": list(self.descriptions),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Taxonomy:
        """The taxonomy that `to_dict` described.

        Parameters
        ----------
        data : mapping
            With ``groups``, or with the ``combined`` members of an only group and their ``combined_name``.

        Raises
        ------
        UserError
            If a key is missing, or both forms are there.
        """
        try:
            return cls(
                name=data["name"],
                classes=tuple(data["classes"]),
                groups=_groups(data),
                descriptions=tuple(data.get("descriptions", ())),
            )
        except KeyError as error:
            raise UserError(f"taxonomy without the key {error}") from None


def _groups(data: Mapping[str, Any]) -> tuple[Group, ...]:
    groups: Sequence[Mapping[str, Any]] = data.get("groups", ())
    combined, name = tuple(data.get("combined", ())), data.get("combined_name", "")
    if groups and (combined or name):
        raise UserError(
            f"taxonomy {data['name']!r}: either combined, or groups with the combined one among them"
        )
    if combined or name:
        if not (combined and name):
            raise UserError(
                f"taxonomy {data['name']!r}: the combined class needs both its members and a name"
            )
        return (Group(name, combined),)
    return tuple(Group(group["name"], tuple(group["members"])) for group in groups)


def probability_column(class_name: str) -> str:
    """The catalog's column of a class's probability: ``p_css`` for the class ``CSS``."""
    return "p_" + re.sub(r"[^a-z0-9]+", "_", class_name.lower()).strip("_")


GALAXY_ZOO = Taxonomy(
    name="galaxy-zoo",
    classes=("CRS", "IBS", "CSS", "EO", "SPI"),
    groups=(Group("CSS+EO", ("CSS", "EO")),),
    descriptions=(
        "completely round smooth",
        "in-between smooth",
        "cigar-shaped smooth",
        "edge-on",
        "spiral",
    ),
)
"""The five Galaxy Zoo 2 classes of Ma et al. (2023); cigar-shaped and edge-on are combined."""
