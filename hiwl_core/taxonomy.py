"""Taxonomies of one or two layers: the classes, and the few that the first stage does not tell apart.

A taxonomy names the classes of a catalog and one *combined* class, a group of members that look alike.
Stage 1 sees the combined class as one; stage 2 tells its members apart. Galaxy Zoo's five classes
(Ma et al. 2023, MNRAS 519, 4765) are one instance, `GALAXY_ZOO`; any grouping of two layers is possible.
A *flat* taxonomy has no combined class, and so no stage 2: stage 1 tells all classes apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hiwl_core.errors import UserError
from hiwl_core.near_names import or_meant

__all__ = ["GALAXY_ZOO", "Taxonomy", "probability_column"]


@dataclass(frozen=True)
class Taxonomy:
    """Classes in catalog order, and the combined class of stage 1.

    Parameters
    ----------
    name : str
        What the taxonomy is called in bundles and reports.
    classes : tuple of str
        All classes, in the order of the catalog's probability columns.
    combined : tuple of str
        The classes that stage 1 sees as one and stage 2 tells apart, at least two, in stage 2's order; none
        in a flat taxonomy.
    combined_name : str
        The name of the combined class, not itself a class; empty in a flat taxonomy.
    descriptions : tuple of str
        A few words for each class, for reports and column descriptions; may be empty.

    Raises
    ------
    UserError
        If names repeat, if a member of the combined class is not a class, or if nothing is left
        for stage 1 to tell apart.
    """

    name: str
    classes: tuple[str, ...]
    combined: tuple[str, ...] = ()
    combined_name: str = ""
    descriptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes):
            raise UserError(f"taxonomy {self.name!r}: class names repeat in {list(self.classes)}")
        strangers = [member for member in self.combined if member not in self.classes]
        if strangers:
            raise UserError(f"taxonomy {self.name!r}: combined {strangers} not among {list(self.classes)}")
        if bool(self.combined) != bool(self.combined_name):
            raise UserError(f"taxonomy {self.name!r}: the combined class needs both its members and a name")
        if len(self.combined) == 1 or len(set(self.combined)) != len(self.combined):
            raise UserError(f"taxonomy {self.name!r}: the combined class needs two or more different members")
        if len(self.stage1_classes) < 2:
            raise UserError(f"taxonomy {self.name!r}: stage 1 needs two classes or more to tell apart")
        if self.combined_name in self.classes:
            raise UserError(
                f"taxonomy {self.name!r}: {self.combined_name!r} is a class and the combined class"
            )
        columns: dict[str, str] = {}
        for name in self.classes:
            column = probability_column(name)
            if column == "p_" or column in columns:
                why = f"as for {columns[column]!r}" if column in columns else "of which nothing is left"
                raise UserError(
                    f"taxonomy {self.name!r}: the column of the class {name!r} would be {column!r}, {why}: "
                    "rename the class in letters from a to z and digits"
                )
            columns[column] = name
        if self.descriptions and len(self.descriptions) != len(self.classes):
            raise UserError(
                f"taxonomy {self.name!r}: {len(self.descriptions)} descriptions for "
                f"{len(self.classes)} classes"
            )

    def flat(self) -> Taxonomy:
        """The same classes without a combined one."""
        return replace(self, combined=(), combined_name="")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that there are: ``"stage1"``, and ``"stage2"`` if there is a combined class."""
        return ("stage1", "stage2") if self.combined else ("stage1",)

    @property
    def stage1_classes(self) -> tuple[str, ...]:
        """Stage 1's classes: those told apart at once in catalog order, then the combined class."""
        at_once = tuple(name for name in self.classes if name not in self.combined)
        return (*at_once, self.combined_name) if self.combined else at_once

    @property
    def stage2_classes(self) -> tuple[str, ...]:
        """Stage 2's classes: the members of the combined class."""
        return self.combined

    @property
    def combined_index(self) -> int:
        """Where the combined class stands among stage 1's classes; -1, which is no place, without one."""
        return len(self.stage1_classes) - 1 if self.combined else -1

    def stage_classes(self, stage: str) -> tuple[str, ...]:
        """The classes of ``"stage1"`` or ``"stage2"``."""
        return {"stage1": self.stage1_classes, "stage2": self.stage2_classes}[stage]

    def classes_seen(self, stage: str) -> tuple[str, ...]:
        """The classes whose galaxies a stage learns from: all, or the members of the combined class."""
        return {"stage1": self.classes, "stage2": self.combined}[stage]

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
        stage : {"stage1", "stage2"}
        class_indices : numpy.ndarray of int64, shape (N,)
            Positions in `classes`.

        Returns
        -------
        numpy.ndarray of int64, shape (N,)
            Positions in the stage's classes; -1 for objects that are not the stage's to tell (stage 2
            outside the combined class).
        """
        stage_classes = self.stage_classes(stage)
        lookup = np.full(len(self.classes), -1, dtype=np.int64)
        for index, name in enumerate(self.classes):
            if name in stage_classes:
                lookup[index] = stage_classes.index(name)
            elif stage == "stage1":
                lookup[index] = self.combined_index
        return lookup[np.asarray(class_indices, dtype=np.int64)]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a bundle's JSON; `from_dict` is its inverse."""
        return {
            "name": self.name,
            "classes": list(self.classes),
            "combined": list(self.combined),
            "combined_name": self.combined_name,
            "descriptions": list(self.descriptions),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Taxonomy:
        """The taxonomy that `to_dict` described.

        Raises
        ------
        UserError
            If a key is missing.
        """
        try:
            return cls(
                name=data["name"],
                classes=tuple(data["classes"]),
                combined=tuple(data["combined"]),
                combined_name=data["combined_name"],
                descriptions=tuple(data.get("descriptions", ())),
            )
        except KeyError as error:
            raise UserError(f"taxonomy without the key {error}") from None


def probability_column(class_name: str) -> str:
    """The catalog's column of a class's probability: ``p_css`` for the class ``CSS``."""
    return "p_" + re.sub(r"[^a-z0-9]+", "_", class_name.lower()).strip("_")


GALAXY_ZOO = Taxonomy(
    name="galaxy-zoo",
    classes=("CRS", "IBS", "CSS", "EO", "SPI"),
    combined=("CSS", "EO"),
    combined_name="CSS+EO",
    descriptions=(
        "completely round smooth",
        "in-between smooth",
        "cigar-shaped smooth",
        "edge-on",
        "spiral",
    ),
)
"""The five Galaxy Zoo 2 classes of Ma et al. (2023); cigar-shaped and edge-on are combined."""
