"""Which trainings each table and figure of the paper is made of, and what all of one reproduction share.

Tables and figures show what the paper's of that number show (Ma et al. 2023, MNRAS 519, 4765).
`earlier_networks`, `ablations` and `methods` go beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hiwl_core.errors import UserError
from hiwl_core.methods import METHODS
from hiwl_core.metrics import wilson
from hiwl_core.published_results import TABLE_7, VALIDATION_ACCURACY
from hiwl_core.recipe import Recipe
from pipeline.reproduction.reproduce_options import ReproduceOptions
from pipeline.reproduction.scores import ScoredPart

__all__ = ["ALL_EXPERIMENTS", "EXPERIMENTS", "Experiment", "Request", "choose_experiments"]

ALL_EXPERIMENTS = "all"
OWN = "<own>"
EACH = "<each>"
# Of the paper's three in Tables 9 to 11 two are built here; see `hiwl_core.published_results.WORDS_9_TO_11`.
NEAREST = ((OWN, "hiwl"), ("resnet26", "plain"), ("neural_ode", "plain"))


@dataclass(frozen=True)
class Experiment:
    """A table or figure.

    Parameters
    ----------
    title : str
    kind : str
        How it is made of its trainings; a key of `pipeline.reproduction.tables.TABLES` or of
        `pipeline.reproduction.pictures.PICTURES`, or of both.
    trainings : tuple of (str, str)
        Backbone and method; trained anew for each seed. A backbone may be that of the recipe or each of the
        paper's Table 7, in the place of which stand those that the user asks for.
    one_seed : bool
        Whether it shows one training of each, not all seeds.
    many_backbones : bool
        Whether it sets backbones beside each other; else each has a table or figure of its own.
    on_validation : bool
        Whether it is of the validation galaxies, as the paper's is, though there be test galaxies.
    """

    title: str
    kind: str
    trainings: tuple[tuple[str, str], ...]
    one_seed: bool = False
    many_backbones: bool = False
    on_validation: bool = False

    def resolved(self, own: str, asked: Sequence[str] = ()) -> list[tuple[str, str]]:
        """The trainings by the names of their backbones.

        Parameters
        ----------
        own : str
            The backbone of the recipe.
        asked : sequence of str
            Backbones that the user asks for.
        """
        stands_for = {OWN: asked or (own,), EACH: asked or tuple(TABLE_7)}
        return [
            (backbone, method)
            for place, method in self.trainings
            for backbone in stands_for.get(place, (place,))
        ]


EXPERIMENTS = {
    "table3": Experiment("Confusion matrix of HIWL", "confusion", ((OWN, "hiwl"),)),
    "table4": Experiment("Precision, recall, F1 and accuracy of HIWL", "classes", ((OWN, "hiwl"),)),
    "table5": Experiment(
        "SLWSLM, which is HIWL without its hierarchy, by class", "classes", ((OWN, "slwslm"), (OWN, "hiwl"))
    ),
    "table6": Experiment(
        "HMWS, which is HIWL without its label smoothing, by class", "classes", ((OWN, "hmws"), (OWN, "hiwl"))
    ),
    "table7": Experiment(
        "Accuracy of each backbone, alone and inside HIWL",
        "backbones",
        ((EACH, "plain"), (EACH, "hiwl")),
        many_backbones=True,
    ),
    "table8": Experiment("Accuracies in the literature, and here", "literature", ((OWN, "hiwl"),)),
    **{
        name: Experiment(
            f"{metric} by class on the validation galaxies, beside other networks for galaxies",
            metric.lower(),
            NEAREST,
            many_backbones=True,
            on_validation=True,
        )
        for name, metric in (("table9", "Recall"), ("table10", "Precision"), ("table11", "F1"))
    },
    "earlier_networks": Experiment(
        "Recall, precision and F1 by class, beside the two earlier networks for these galaxies",
        "by_class",
        (("dieleman", "plain"), ("resnet26", "plain"), (OWN, "hiwl")),
        many_backbones=True,
    ),
    "ablations": Experiment(
        "What the hierarchy, weighted sampling and label smoothing are worth",
        "ablation",
        ((OWN, "hiwl"), (OWN, "slwslm"), (OWN, "unweighted"), (OWN, "hmws")),
    ),
    "methods": Experiment(
        "HIWL beside each other method", "ablation", tuple((OWN, method) for method in METHODS)
    ),
    "figure4": Experiment("The steps of the augmentation", "figure4", ()),
    "figure5": Experiment("Learning curves of both stages", "figure5", ((OWN, "hiwl"),), one_seed=True),
    "figure6": Experiment(
        "Features of the last layer but one, by t-SNE",
        "figure6",
        ((OWN, "plain"), (OWN, "hiwl")),
        one_seed=True,
    ),
    "figure7": Experiment(
        "What the networks look at, by Grad-CAM", "figure7", ((OWN, "plain"), (OWN, "hiwl")), one_seed=True
    ),
}
"""By the name that the command line takes."""


def choose_experiments(names: Sequence[str]) -> dict[str, Experiment]:
    """The experiments with these names, or all.

    Raises
    ------
    UserError
        If there is none of a name.
    """
    if ALL_EXPERIMENTS in names:
        return EXPERIMENTS
    for name in names:
        if name not in EXPERIMENTS:
            raise UserError(
                f"nothing to reproduce by the name {name!r}: there are {', '.join(EXPERIMENTS)}, "
                f"{ALL_EXPERIMENTS}"
            )
    return {name: EXPERIMENTS[name] for name in dict.fromkeys(names)}


@dataclass(frozen=True)
class Request:
    """What all experiments of one call share.

    Parameters
    ----------
    recipe : Recipe
        With the first seed.
    options : ReproduceOptions
    train_shards : sequence of str
    val : ScoredPart
        The galaxies by which checkpoints are selected.
    test : ScoredPart or None
        Galaxies that no training sees, if there are any.
    out : str
        Folder of the reproduction.
    """

    recipe: Recipe
    options: ReproduceOptions
    train_shards: Sequence[str]
    val: ScoredPart
    test: ScoredPart | None
    out: str

    def scored(self, experiment: Experiment) -> ScoredPart:
        """What an experiment's trainings are scored on."""
        return self.val if experiment.on_validation or self.test is None else self.test

    def facts(self, experiment: Experiment, galaxies: int) -> tuple[str, ...]:
        """How the figures came about, a sentence each."""
        on_test = self.scored(experiment).on_test
        part = "galaxies that no training saw" if on_test else "validation galaxies"
        options = self.options
        several = len(options.seeds) > 1
        changes = "".join(f", {change}" for change in options.overrides)
        seeds = f"seed{'s' if several else ''} {', '.join(map(str, options.seeds))}"
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
