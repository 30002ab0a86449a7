"""Which trainings each table and figure of the paper is made of.

Tables 3, 4 and 7 and Figures 4 to 7 show what the paper's of that number show (Ma et al. 2023, MNRAS 519,
4765). Of Tables 5, 6 and 9 to 11 only the subject was at hand, not the columns: 5 and 6 set HIWL beside the
two earlier networks made for the same galaxies, by class; 9 to 11 take one of its three parts away.
`methods` goes beyond the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hiwl_core.errors import UserError
from hiwl_core.methods import METHODS
from hiwl_core.published_results import TABLE_7

__all__ = ["ALL", "EXPERIMENTS", "Experiment", "choose_experiments"]

ALL = "all"
OWN = "<own>"
EACH = "<each>"
EARLIER = (("dieleman", "plain"), ("resnet26", "plain"), (OWN, "hiwl"))


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
    """

    title: str
    kind: str
    trainings: tuple[tuple[str, str], ...]
    one_seed: bool = False
    many_backbones: bool = False

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
        "Recall by class, beside earlier networks for galaxies", "recall", EARLIER, many_backbones=True
    ),
    "table6": Experiment(
        "Precision and F1 by class, beside earlier networks", "precision", EARLIER, many_backbones=True
    ),
    "table7": Experiment(
        "Accuracy of each backbone, alone and inside HIWL",
        "backbones",
        ((EACH, "plain"), (EACH, "hiwl")),
        many_backbones=True,
    ),
    "table9": Experiment("What the hierarchy is worth", "ablation", ((OWN, "hiwl"), (OWN, "slwslm"))),
    "table10": Experiment(
        "What weighted sampling is worth", "ablation", ((OWN, "hiwl"), (OWN, "unweighted"))
    ),
    "table11": Experiment("What label smoothing is worth", "ablation", ((OWN, "hiwl"), (OWN, "hmws"))),
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
    if ALL in names:
        return EXPERIMENTS
    for name in names:
        if name not in EXPERIMENTS:
            raise UserError(
                f"nothing to reproduce by the name {name!r}: there are {', '.join(EXPERIMENTS)}, {ALL}"
            )
    return {name: EXPERIMENTS[name] for name in dict.fromkeys(names)}
