"""Galaxies seen from all sides by all stages: what any number of views would have said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hiwl_core.bundle import ModelBundle
from hiwl_core.cascade import route, routed
from hiwl_core.device import ComputePlan
from hiwl_core.engines import Engine, StageGraph, answers, choose_engine, create_engine
from hiwl_core.fitted import ADAPTIVE, Views
from hiwl_core.taxonomy import FIRST_STAGE, Taxonomy
from hiwl_core.views import MOST_VIEWS, mean_over_views

__all__ = ["SeenGalaxies", "margin_of_views", "see", "stage_engine", "stage_graph"]

FEW_LOOKS = 4000
# Of all galaxies, whose label the one view of a stage that is taken for sure may change.
CHANGED_LABELS = 0.0005


@dataclass(frozen=True)
class SeenGalaxies:
    """What all stages say of galaxies from all sides, in one precision.

    Parameters
    ----------
    stages : dict of numpy.ndarray of float32, shape (8, N, K)
        Under the name of each stage, by the symmetry under which the galaxies were seen; NaN where no setting
        routes a galaxy to a stage.
    """

    stages: dict[str, np.ndarray]

    def outputs(
        self, views: Views, margins: Mapping[str, float], taxonomy: Taxonomy
    ) -> dict[str, np.ndarray]:
        """The stages' probabilities as a classification with these views has them: each (N, K)."""
        averaged = {
            name: _averaged(seen, views, margins.get(name, 0.0)) for name, seen in self.stages.items()
        }
        return route(averaged, taxonomy)


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
    taxonomy, rows = bundle.taxonomy, len(pixels[FIRST_STAGE])
    seen: dict[str, np.ndarray] = {}
    sent = {FIRST_STAGE: np.ones(rows, dtype=bool)}
    for stage in taxonomy.stages:
        if stage != FIRST_STAGE:
            sender, _ = taxonomy.sent_by(stage)
            # Whichever views are taken: the first one, all, or any mixture of the two.
            either = (seen[sender][0], mean_over_views(seen[sender]))
            sent[stage] = np.any([routed(one, taxonomy, stage) for one in either], axis=0)
        kinds = len(taxonomy.stage_classes(stage))
        seen[stage] = np.full((MOST_VIEWS, rows, kinds), np.nan, np.float32)
        if sent[stage].any():
            looks = MOST_VIEWS * int(sent[stage].sum())
            engine = stage_engine(bundle, stage, precision, compute, threads, looks)
            seen[stage][:, sent[stage]] = _all_sides(engine, pixels[stage][sent[stage]])
    return SeenGalaxies(seen)


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
