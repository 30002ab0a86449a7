"""How far apart classes are: what similarity-aware smoothing shares a galaxy's probability by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hiwl_core.errors import UserError
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy

__all__ = ["GALAXY_ZOO_DISTANCES", "Distances", "class_distances", "stage_distances"]

Distances = Mapping[str, Mapping[str, float]]
"""Of pairs of classes, each pair once, either way round."""

GALAXY_ZOO_DISTANCES: Distances = {
    "CRS": {"IBS": 1.0, "CSS": 2.0, "EO": 2.5, "SPI": 2.0},
    "IBS": {"CSS": 1.0, "EO": 1.5, "SPI": 2.0},
    "CSS": {"EO": 0.5, "SPI": 2.0},
    "EO": {"SPI": 2.0},
}
"""The distances of `GALAXY_ZOO`, in steps of roundness.

Smooth galaxies lie on a line, CRS - IBS - CSS, a step apart: the answers to "how rounded is it?". An edge-on
disk is half a step beyond the cigar that it is taken for. Spirals have what none of the others shows, and
stand two steps from each.
"""


def class_distances(taxonomy: Taxonomy, given: Distances) -> np.ndarray:
    """Distances of all classes.

    Parameters
    ----------
    taxonomy : Taxonomy
    given : mapping of mapping of float
        Distances of pairs of classes, each pair once; between the classes of Galaxy Zoo, those that are not
        given are as in `GALAXY_ZOO_DISTANCES`.

    Returns
    -------
    numpy.ndarray of float64, shape (C, C)
        Symmetric, in the order of the taxonomy's classes, 0 on the diagonal; NaN for a pair without distance.

    Raises
    ------
    UserError
        If a name is not a class, if a class has a distance to itself, or if a pair has two different ones.
    """
    matrix = np.full((len(taxonomy.classes),) * 2, np.nan)
    np.fill_diagonal(matrix, 0.0)
    for pairs in (GALAXY_ZOO_DISTANCES if taxonomy.classes == GALAXY_ZOO.classes else {}, given):
        for first, others in pairs.items():
            for second, distance in others.items():
                place = f"distances.{first}.{second}"
                for name in (first, second):
                    if name not in taxonomy.classes:
                        raise UserError(
                            f"{place}: {name!r} is not a class, taxonomy {taxonomy.name!r} has "
                            f"{', '.join(taxonomy.classes)}"
                        )
                if first == second:
                    raise UserError(f"{place}: a class has no distance to itself")
                if pairs.get(second, {}).get(first, distance) != distance:
                    raise UserError(f"{place} and distances.{second}.{first} differ: give one of them")
                row, column = map(taxonomy.classes.index, (first, second))
                matrix[row, column] = matrix[column, row] = distance
    return matrix


def stage_distances(taxonomy: Taxonomy, stage: str, given: Distances) -> np.ndarray:
    """Distances of the classes that a stage tells apart.

    A group is as far from another as its members are on average.

    Parameters
    ----------
    taxonomy : Taxonomy
    stage : str
    given : mapping of mapping of float
        See `class_distances`.

    Returns
    -------
    numpy.ndarray of float64, shape (K, K)
        Symmetric, in the order of the stage's classes, 0 on the diagonal.

    Raises
    ------
    UserError
        As `class_distances`, and if a pair that the stage tells apart has no distance.
    """
    distances = class_distances(taxonomy, given)
    targets = taxonomy.stage_targets(stage, np.arange(len(taxonomy.classes)))
    told_apart = (targets[:, None] != targets) & (targets >= 0) & (targets >= 0)[:, None]
    missing = np.argwhere(told_apart & np.isnan(distances))
    if len(missing):
        first, second = (taxonomy.classes[index] for index in missing[0])
        raise UserError(
            f"no distance between {first} and {second}, which similarity smoothing of {stage} needs: set "
            f"distances.{first}.{second}"
        )
    members = targets == np.arange(len(taxonomy.stage_classes(stage)))[:, None]
    share = members / members.sum(axis=1, keepdims=True)
    means = share @ np.where(told_apart, distances, 0.0) @ share.T
    np.fill_diagonal(means, 0.0)
    return means
