"""The scores as one page to look at: what the classes are, which are confused, figures with intervals.

The page is a single HTML file with its pictures inside: it can be mailed, or put beside a paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipeline.evaluation.probabilities import ProbabilityEvaluation
from pipeline.evaluation.shown_galaxies import ShownGalaxies
from pipeline.pages.class_notes import ClassNote
from pipeline.pages.probability_tables import SIDE, shown_probabilities
from pipeline.pages.score_tables import figure_table, matrix_rows
from pipeline.pages.templates import render

__all__ = ["render_page"]


def render_page(
    title: str,
    facts: Sequence[str],
    classes: Sequence[ClassNote],
    confusion: pd.DataFrame,
    metrics: pd.DataFrame,
    metrics_label_map: pd.DataFrame,
    probabilities: ProbabilityEvaluation,
    galaxies: ShownGalaxies,
) -> str:
    """The page as HTML.

    Parameters
    ----------
    title : str
    facts : sequence of str
        Lines under the title: which model, which data, what was left out.
    classes : sequence of ClassNote
    confusion : pandas.DataFrame
        True classes by row, predicted by column.
    metrics, metrics_label_map : pandas.DataFrame
        See `hiwl_core.metrics.class_table`; of `label` and of `label_map`.
    probabilities : ProbabilityEvaluation
    galaxies : ShownGalaxies
    """
    return render(
        "evaluation.html",
        verb="evaluate",
        title=title,
        facts=facts,
        classes=classes,
        confusion=matrix_rows(confusion, galaxies.anchors),
        figures=figure_table(metrics),
        figures_label_map=figure_table(metrics_label_map),
        probabilities=probabilities,
        shown=shown_probabilities(probabilities.scores),
        side=SIDE,
        galaxies=galaxies,
    )
