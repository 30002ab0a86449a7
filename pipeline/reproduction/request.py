"""What all tables and figures of one reproduction share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hiwl_core.metrics import wilson
from hiwl_core.published_results import VALIDATION_ACCURACY
from hiwl_core.recipe import Recipe
from pipeline.reproduction.experiments import Experiment
from pipeline.reproduction.scores import ScoredPart
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """What all experiments of one call share.

    Parameters
    ----------
    recipe : Recipe
        With the first seed.
    overrides : sequence of str
        The user's changes of it.
    seeds : sequence of int
    train_shards : sequence of str
    val : ScoredPart
        The galaxies by which checkpoints are selected.
    test : ScoredPart or None
        Galaxies that no training sees, if there are any.
    columns : Columns
    out : str
        Folder of the reproduction.
    scale : WantedScale
        At which all models see galaxies.
    """

    recipe: Recipe
    overrides: Sequence[str]
    seeds: Sequence[int]
    train_shards: Sequence[str]
    val: ScoredPart
    test: ScoredPart | None
    columns: Columns
    out: str
    scale: WantedScale = AS_IT_IS

    def scored(self, experiment: Experiment) -> ScoredPart:
        """What an experiment's trainings are scored on."""
        return self.val if experiment.on_validation or self.test is None else self.test

    def facts(self, experiment: Experiment, galaxies: int) -> tuple[str, ...]:
        """How the figures came about, a sentence each."""
        on_test = self.scored(experiment).on_test
        part = "galaxies that no training saw" if on_test else "validation galaxies"
        several = len(self.seeds) > 1
        changes = "".join(f", {change}" for change in self.overrides)
        seeds = f"seed{'s' if several else ''} {', '.join(map(str, self.seeds))}"
        origin = f"Recipe {self.recipe.name}{changes}, {seeds}, scored on {galaxies:,} {part}."
        paper = "The paper's figures are of its 2,881 test galaxies"
        if not on_test:
            paper += f"; on its validation galaxies its best model has {VALIDATION_ACCURACY}"
        if experiment.kind == "confusion":
            return (origin, f"{paper}.")
        if not several:
            return (origin, "In brackets 95 % intervals; p after Holm.", f"{paper}.")
        low, high = wilson(round(0.95 * galaxies), galaxies)
        return (
            origin,
            "Means of the seeds with Student's 95 % intervals; p after Holm.",
            "The intervals leave out that other galaxies could have been scored, which p is about: with "
            f"{galaxies:,} an accuracy of 0.95 has [{low:.3f}, {high:.3f}].",
            f"{paper}.",
        )
