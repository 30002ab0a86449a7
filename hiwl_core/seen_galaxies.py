"""Galaxies seen from all sides by both stages: what any number of views would have said of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hiwl_core.bundle import ModelBundle
from hiwl_core.cascade import routed
from hiwl_core.device import ComputePlan
from hiwl_core.engines import Engine, StageGraph, answers, choose_engine, create_engine
from hiwl_core.fitted import ADAPTIVE, Views
from hiwl_core.views import MOST_VIEWS, mean_over_views

__all__ = ["SeenGalaxies", "margin_of_views", "see", "stage_engine", "stage_graph"]

FEW_LOOKS = 4000
# Of all galaxies, whose label the one view of a stage that is taken for sure may change.
CHANGED_LABELS = 0.0005


@dataclass(frozen=True)
class SeenGalaxies:
    """What both stages say of galaxies from all sides, in one precision.

    Parameters
    ----------
    stage1 : numpy.ndarray of float32, shape (8, N, K)
        By the symmetry under which they were seen.
    stage2 : numpy.ndarray of float32, shape (8, N, M)
        NaN where no setting routes a galaxy on.
    """

    stage1: np.ndarray
    stage2: np.ndarray

    def outputs(
        self, views: Views, margins: dict[str, float], bundle: ModelBundle
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both stages' probabilities as a classification with these views has them: (N, K), and (N, M)."""
        stage1 = _averaged(self.stage1, views, margins.get("stage1", 0.0))
        stage2 = _averaged(self.stage2, views, margins.get("stage2", 0.0))
        stage2[~routed(stage1, bundle.taxonomy)] = np.nan
        return stage1, stage2


def _averaged(seen: np.ndarray, views: Views, margin: float) -> np.ndarray:
    if views == ADAPTIVE:
        return np.where(_margins(seen[0])[:, None] < margin, mean_over_views(seen), seen[0])
    return mean_over_views(seen) if views == MOST_VIEWS else seen[0].copy()


def _margins(probabilities: np.ndarray) -> np.ndarray:
    """Difference of the two largest probabilities, shape (N,)."""
    if probabilities.shape[1] < 2:
        return np.full(len(probabilities), np.inf)
    largest = np.partition(probabilities, -2, axis=1)[:, -2:]
    return largest[:, 1] - largest[:, 0]


def margin_of_views(seen: np.ndarray, of_all: int, share: float = CHANGED_LABELS) -> float:
    """The smallest margin with which few labels differ from those of eight views of every galaxy.

    Parameters
    ----------
    seen : numpy.ndarray of float, shape (8, n, K)
        A stage's probabilities by symmetry; rows with a NaN are left out.
    of_all : int
        Galaxies that `share` is a share of, which may be more than the stage sees.
    share : float
        Of the galaxies whose label may change.

    Returns
    -------
    float
        Galaxies whose two largest probabilities differ by less after one view are to be seen from all sides.
    """
    seen = seen[:, np.isfinite(seen).all(axis=(0, 2))]
    changed = seen[0].argmax(axis=1) != mean_over_views(seen).argmax(axis=1)
    largest_first = np.sort(_margins(seen[0])[changed])[::-1]
    left = int(share * of_all)
    # The next one is seen again, and so is all that is less sure.
    return float(np.nextafter(largest_first[left], 1)) if left < len(largest_first) else 0.0


def see(
    bundle: ModelBundle, pixels: dict[str, np.ndarray], precision: str, compute: ComputePlan, threads: int
) -> SeenGalaxies:
    """Look at galaxies from all sides.

    Parameters
    ----------
    bundle : ModelBundle
    pixels : dict of numpy.ndarray
        What each stage sees, uint8 of shape (N, H, W, 3).
    precision : str
    compute : ComputePlan
    threads : int
    """
    rows = len(pixels["stage1"])
    engine = stage_engine(bundle, "stage1", precision, compute, threads, MOST_VIEWS * rows)
    stage1 = _all_sides(engine, pixels["stage1"])
    members = len(bundle.taxonomy.stage2_classes)
    stage2 = np.full((MOST_VIEWS, rows, members), np.nan, np.float32)
    if members:
        # Whichever views are taken: the first one, all, or any mixture of the two.
        either = np.stack([stage1[0], mean_over_views(stage1)])
        sent_on = np.any([routed(one, bundle.taxonomy) for one in either], axis=0)
        if sent_on.any():
            looks = MOST_VIEWS * int(sent_on.sum())
            engine = stage_engine(bundle, "stage2", precision, compute, threads, looks)
            stage2[:, sent_on] = _all_sides(engine, pixels["stage2"][sent_on])
    return SeenGalaxies(stage1, stage2)


def _all_sides(engine: Engine, pixels: np.ndarray) -> np.ndarray:
    return np.stack([answers(engine, pixels, symmetry).probabilities for symmetry in range(MOST_VIEWS)])


def stage_engine(
    bundle: ModelBundle, stage: str, precision: str, compute: ComputePlan, threads: int, looks: int
) -> Engine:
    """An engine of a bundle's stage for so many looks at images."""
    # Exporting a graph to a faster engine takes as long as some thousand looks.
    worth_it = looks > FEW_LOOKS or precision != "float32"
    choice = choose_engine("auto" if worth_it else "torch", precision, compute, threads)
    return create_engine(stage_graph(bundle, stage), choice)


def stage_graph(bundle: ModelBundle, stage: str) -> StageGraph:
    """What an engine of a bundle's stage is to compute."""
    model, classes = bundle.stages[stage], len(bundle.taxonomy.stage_classes(stage))
    return StageGraph(lambda: model.network(classes), model.preprocessing, bundle.fitted.quantized.get(stage))
