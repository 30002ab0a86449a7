"""The paper's tables from the scores of the grid's runs: ours, with intervals, beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from hiwl_core.published_results import (
    BEST_BACKBONE,
    HIWL_PRECISION,
    HIWL_RECALL,
    TABLE_7,
    published_accuracy,
    set_beside,
)
from hiwl_core.taxonomy import Taxonomy
from pipeline.reproduction.cells import (
    ACCURACY,
    MEAN_RECALL,
    compare_runs,
    figures_of,
    points_cell,
    share,
    share_cell,
    small_p,
)
from pipeline.reproduction.scores import RunScores

__all__ = ["TABLES", "PaperTable", "Scores"]

Scores = Mapping[tuple[str, str], Sequence[RunScores]]
"""Of each backbone and method, in the order of the seeds."""


@dataclass(frozen=True)
class PaperTable:
    """A table to print and to write.

    Parameters
    ----------
    numbers : pandas.DataFrame
        For CSV.
    shown : pandas.DataFrame
        The same as text, for people.
    sentences : tuple of str
        What the table says and does not say.
    """

    numbers: pd.DataFrame
    shown: pd.DataFrame
    sentences: tuple[str, ...] = ()


def confusion_table(scores: Scores, taxonomy: Taxonomy) -> PaperTable:
    """Table 3: the confusion matrix of the first seed."""
    (runs,) = scores.values()
    names = pd.Index(taxonomy.classes, name="true \\ predicted")
    matrix = pd.DataFrame(runs[0].confusion, index=names, columns=list(taxonomy.classes)).reset_index()
    return PaperTable(matrix, matrix.astype(str), ("Of the first seed.",) if len(runs) > 1 else ())


def classes_table(scores: Scores, taxonomy: Taxonomy) -> PaperTable:
    """Table 4: precision, recall and F1 of each class, their averages, and accuracy."""
    (((backbone, method), runs),) = scores.items()
    figures = figures_of(runs, taxonomy)
    published = {ACCURACY: published_accuracy(backbone, method)}
    of = set_beside(backbone)
    if of == BEST_BACKBONE:
        published |= {(name, "recall"): value for name, value in HIWL_RECALL.items()}
        published |= {(name, "precision"): value for name, value in HIWL_PRECISION.items()}
    rows, shown = [], []
    for (name, metric), figure in figures.items():
        paper = published.get((name, metric), math.nan)
        rows.append({"class": name, "metric": metric, **figure._asdict(), "paper": paper})
        ours = share_cell(figure)
        shown.append({"class": name, "figure": metric, "ours": ours, f"paper ({of})": share(paper)})
    return PaperTable(pd.DataFrame(rows), pd.DataFrame(shown))


def recall_table(scores: Scores, taxonomy: Taxonomy) -> PaperTable:
    """Table 5: recall of each class, a row a network."""
    return _by_class(scores, taxonomy, ("recall",))


def precision_table(scores: Scores, taxonomy: Taxonomy) -> PaperTable:
    """Table 6: precision and F1 of each class, a row a network."""
    return _by_class(scores, taxonomy, ("precision", "f1"))


def _by_class(scores: Scores, taxonomy: Taxonomy, metrics: tuple[str, ...]) -> PaperTable:
    rows, shown = [], []
    for (backbone, method), runs in scores.items():
        figures = figures_of(runs, taxonomy)
        for metric in metrics:
            facts = {"backbone": backbone, "method": method, "figure": metric}
            names = (*taxonomy.classes, "average")
            of_classes = {name: figures[name, metric] for name in names}
            rows.append({**facts, **{name: figure.value for name, figure in of_classes.items()}})
            shown.append({**facts, **{name: share_cell(figure) for name, figure in of_classes.items()}})
    return PaperTable(pd.DataFrame(rows), pd.DataFrame(shown))


def backbones_table(scores: Scores, taxonomy: Taxonomy) -> PaperTable:
    """Table 7: accuracy of each backbone alone and inside HIWL, and whether that differs."""
    comparisons = compare_runs(
        {
            name: (scores[name, "hiwl"], scores[name, "plain"])
            for name in dict.fromkeys(name for name, _ in scores)
        }
    )
    rows, shown = [], []
    for name, comparison in comparisons.items():
        paper = TABLE_7.get(name)
        published = {"plain": paper.plain if paper else math.nan, "hiwl": paper.hiwl if paper else math.nan}
        row: dict[str, object] = {"backbone": name}
        text: dict[str, object] = {"backbone": name}
        for method in ("plain", "hiwl"):
            figures = figures_of(scores[name, method], taxonomy)
            row |= {f"{method}_{key}": value for key, value in figures[ACCURACY]._asdict().items()}
            row[f"{method}_mean_recall"] = figures[MEAN_RECALL].value
            text[f"{method}: accuracy"] = share_cell(figures[ACCURACY])
            text[f"{method}: mean recall"] = share(figures[MEAN_RECALL].value)
        text |= {"hiwl − plain, points": points_cell(comparison.points), "p": small_p(comparison.adjusted)}
        rows.append(
            row | comparison.numbers() | {f"paper_{method}": value for method, value in published.items()}
        )
        shown.append(text | {f"paper: {method}": share(value) for method, value in published.items()})
    better = sum(comparison.accuracy.difference > 0 for comparison in comparisons.values())
    return PaperTable(
        pd.DataFrame(rows),
        pd.DataFrame(shown),
        (
            f"HIWL is more accurate than the backbone alone with {better} of {len(comparisons)} backbones, "
            "in the paper with 10 of 10.",
            *(comparison.sentence(f"{name}: hiwl", "plain") for name, comparison in comparisons.items()),
        ),
    )


def ablation_table(scores: Scores, taxonomy: Taxonomy) -> PaperTable:
    """Tables 9 to 11, and all methods: the first one, and each of the others against it."""
    first, *others = scores
    comparisons = compare_runs({key: (scores[key], scores[first]) for key in others})
    rows, shown = [], []
    for key, runs in scores.items():
        figures = figures_of(runs, taxonomy)
        paper = published_accuracy(*key)
        row: dict[str, object] = {"method": key[1], "seeds": len(runs)}
        row |= {f"{metric}_{name}": figure.value for (name, metric), figure in figures.items()}
        text = {
            "method": key[1],
            "accuracy": share_cell(figures[ACCURACY]),
            "mean recall": share_cell(figures[MEAN_RECALL]),
            "mean F1": share(figures["average", "f1"].value),
        }
        for name in taxonomy.combined:
            text[f"recall {name}"] = share(figures[name, "recall"].value)
            text[f"precision {name}"] = share(figures[name, "precision"].value)
        text |= dict.fromkeys((f"accuracy to {first[1]}, points", "p", "mean recall, points", "its p"), "")
        if key in comparisons:
            comparison = comparisons[key]
            row |= comparison.numbers()
            text[f"accuracy to {first[1]}, points"] = points_cell(comparison.points)
            text["p"] = small_p(comparison.adjusted)
            text["mean recall, points"] = points_cell(comparison.mean_recall)
            text["its p"] = small_p(comparison.mean_recall_adjusted)
        rows.append(row | {"paper_accuracy": paper})
        shown.append(text | {f"paper ({set_beside(key[0])}): accuracy": share(paper)})
    sentences = (comparison.sentence(key[1], first[1]) for key, comparison in comparisons.items())
    return PaperTable(pd.DataFrame(rows), pd.DataFrame(shown), tuple(sentences))


TABLES: dict[str, Callable[[Scores, Taxonomy], PaperTable]] = {
    "confusion": confusion_table,
    "classes": classes_table,
    "recall": recall_table,
    "precision": precision_table,
    "backbones": backbones_table,
    "ablation": ablation_table,
}
"""By the kind of an experiment."""
