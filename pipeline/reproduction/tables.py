"""The paper's tables from the scores of the grid's runs: ours, with intervals, beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pandas as pd

from hiwl_core.published_results import (
    ACCURACY,
    CLASSES,
    TABLE_3,
    TABLE_7,
    TABLE_8,
    WORDS_9_TO_11,
    published_figures,
    set_beside,
)
from hiwl_core.taxonomy import Taxonomy
from pipeline.reproduction.cells import (
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

CLASS_METRICS = ("recall", "precision", "f1")

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
    matrix = pd.DataFrame(runs[0].confusion, index=names, columns=list(taxonomy.classes))
    if taxonomy.classes == CLASSES:
        paper = pd.DataFrame(TABLE_3, index=names, columns=[f"paper: {name}" for name in CLASSES])
        matrix = matrix.join(paper)
    matrix = matrix.reset_index()
    return PaperTable(matrix, matrix.astype(str), ("Of the first seed.",) if len(runs) > 1 else ())


def classes_table(scores: Scores, taxonomy: Taxonomy) -> PaperTable:
    """Tables 4 to 6: precision, recall and F1 of each class, their averages, and accuracy, of each method."""
    first, *others = scores
    rows = []
    shown: dict[str, list[str]] = {}
    for (backbone, method), runs in scores.items():
        figures, paper = figures_of(runs, taxonomy), published_figures(backbone, method)
        for (name, metric), figure in figures.items():
            published = paper.get((name, metric), math.nan)
            facts = {"method": method, "class": name, "metric": metric}
            rows.append({**facts, **figure._asdict(), "paper": published})
        shown["class"], shown["figure"] = ([key[place] for key in figures] for place in (0, 1))
        shown[f"{method}, ours"] = [share_cell(figure) for figure in figures.values()]
        shown[f"{method}, paper ({set_beside(backbone)})"] = [
            share(paper.get(key, math.nan)) for key in figures
        ]
    comparisons = compare_runs({key: (scores[first], scores[key]) for key in others})
    sentences = tuple(one.sentence(first[1], method) for (_, method), one in comparisons.items())
    return PaperTable(pd.DataFrame(rows), pd.DataFrame(shown), sentences)


def literature_table(scores: Scores, taxonomy: Taxonomy) -> PaperTable:
    """Table 8: accuracies that others report, each of its own galaxies and classes, and ours."""
    rows = [asdict(work) for work in TABLE_8]
    shown = [row | {"accuracy": share(row["accuracy"])} for row in rows]
    for (backbone, method), runs in scores.items():
        figure = figures_of(runs, taxonomy)[ACCURACY]
        ours: dict[str, Any] = {
            "authors": "here",
            "network": f"{backbone}, {method}",
            "classes": len(taxonomy.classes),
            "accuracy": figure.value,
            "sample": f"{len(runs[0].ids):,} galaxies",
        }
        rows.append(ours)
        shown.append(ours | {"accuracy": share_cell(figure)})
    return PaperTable(
        pd.DataFrame(rows),
        pd.DataFrame(shown),
        ("Other galaxies, classes and parts: no row says that its method is better than another's.",),
    )


def by_class_table(scores: Scores, taxonomy: Taxonomy, metrics: Sequence[str] = CLASS_METRICS) -> PaperTable:
    """Some metrics of each class, a row a network and metric."""
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


def nearest_table(metric: str, scores: Scores, taxonomy: Taxonomy) -> PaperTable:
    """Tables 9 to 11: one metric of each class beside other networks, and what the paper says of it."""
    return replace(by_class_table(scores, taxonomy, (metric,)), sentences=WORDS_9_TO_11)


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
    """The first method, and each of the others against it."""
    first, *others = scores
    comparisons = compare_runs({key: (scores[key], scores[first]) for key in others})
    rows, shown = [], []
    for key, runs in scores.items():
        figures = figures_of(runs, taxonomy)
        paper = published_figures(*key).get(ACCURACY, math.nan)
        row: dict[str, object] = {"method": key[1], "seeds": len(runs)}
        row |= {f"{metric}_{name}": figure.value for (name, metric), figure in figures.items()}
        text = {
            "method": key[1],
            "accuracy": share_cell(figures[ACCURACY]),
            "mean recall": share_cell(figures[MEAN_RECALL]),
            "mean F1": share(figures["average", "f1"].value),
        }
        for name in (name for group in taxonomy.groups for name in group.members):
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
    "literature": literature_table,
    "by_class": by_class_table,
    **{metric: partial(nearest_table, metric) for metric in CLASS_METRICS},
    "backbones": backbones_table,
    "ablation": ablation_table,
}
"""By the kind of an experiment."""
