"""A run as one page: what it was, how it went, how good the model is, where it looks and where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from hiwl_core.taxonomy import FIRST_STAGE
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.shown_galaxies import class_notes
from pipeline.evaluation.stage_tables import stage_title
from pipeline.pages.cards import Card
from pipeline.pages.number_tables import NumberTable, number_table
from pipeline.pages.numbers import count_word
from pipeline.pages.probability_tables import SIDE, shown_probabilities
from pipeline.pages.score_tables import FigureTable, figure_table, matrix_rows
from pipeline.pages.templates import render
from pipeline.reporting.facts import headline, run_facts, stage_settings, tiles, which_data
from pipeline.reporting.finished_run import FinishedRun
from pipeline.reporting.pictures import Drawings

__all__ = ["Contents", "render_report"]

# The same in all rows, and said above the table.
CONSTANT = ("compute", "workers")
CONFUSION = "confusion_matrix.csv"


@dataclass(frozen=True)
class Contents:
    """What goes into a report.

    Parameters
    ----------
    run : FinishedRun
    evaluation : Evaluation
    shards : str
        What was scored.
    fingerprints : sequence of str
        Of these shards.
    mistakes, unsure : list of Card
    tables : dict of bytes
        All tables as CSV, by file name.
    drawings : Drawings
    """

    run: FinishedRun
    evaluation: Evaluation
    shards: str
    fingerprints: Sequence[str]
    mistakes: list[Card]
    unsure: list[Card]
    tables: dict[str, bytes]
    drawings: Drawings

    @property
    def scored(self) -> int:
        """Galaxies that the figures are of."""
        return int(self.evaluation.confusion.to_numpy().sum())


def render_report(contents: Contents) -> str:
    """The page as HTML."""
    run, evaluation = contents.run, contents.evaluation
    wrong = contents.scored - int(evaluation.confusion.to_numpy().diagonal().sum())
    return render(
        "report.html",
        verb="report",
        title=f"Training run {run.name}",
        contents=contents,
        run=run,
        headline=headline(run),
        tiles=tiles(run, evaluation.metrics),
        data_note=which_data(run, contents.scored, contents.fingerprints),
        facts=run_facts(run, contents.scored, contents.fingerprints),
        settings=stage_settings(run.recipe),
        classes=class_notes(
            run.taxonomy, evaluation.shown, {"Trained on": run.class_counts, "Scored": evaluation.scored}
        ),
        epochs={stage: _epochs(run, stage) for stage in run.epochs},
        pairs=_pairs(run),
        candidates=f"{count_word(len(run.pairs))} {_candidates(run)}",
        confusion=matrix_rows(evaluation.confusion, evaluation.shown.anchors),
        confusion_files={CONFUSION: contents.tables[CONFUSION], **contents.drawings.confusion.files},
        figures=figure_table(evaluation.metrics),
        figures_label_map=figure_table(evaluation.metrics_label_map),
        probabilities=evaluation.probabilities,
        shown=shown_probabilities(evaluation.probabilities.scores),
        side=SIDE,
        stages=_stages(run, evaluation.stages),
        # An only stage needs no name.
        stage_names={
            stage: stage.replace("stage", "stage ") if run.taxonomy.groups else "" for stage in run.epochs
        },
        mistakes_in_all=wrong,
    )


def _candidates(run: FinishedRun) -> str:
    return {1: "candidates", 2: "pairs"}.get(len(run.taxonomy.stages), "combinations")


def _epochs(run: FinishedRun, stage: str) -> NumberTable:
    epochs = run.epochs[stage]
    kept = {candidate.epoch for candidate in run.kept[stage]}
    marks = {
        row: "chosen" if epoch == run.chosen[stage] else "kept"
        for row, epoch in enumerate(epochs["epoch"])
        if epoch in kept
    }
    return number_table(epochs, marks, without=CONSTANT)


def _pairs(run: FinishedRun) -> NumberTable:
    is_chosen = pd.Series(True, index=run.pairs.index)
    for stage, epoch in run.chosen.items():
        is_chosen &= run.pairs[f"{stage}_epoch"] == epoch
    # An only stage needs no name.
    pairs = run.pairs if run.taxonomy.groups else run.pairs.rename(columns={f"{FIRST_STAGE}_epoch": "epoch"})
    return number_table(pairs, dict.fromkeys(is_chosen[is_chosen].index, "chosen"))


def _stages(run: FinishedRun, stages: pd.DataFrame) -> dict[str, FigureTable]:
    """Tables of the stages by title; an only stage is the model."""
    if not run.taxonomy.groups:
        return {}
    return {stage_title(str(stage)): figure_table(table) for stage, table in stages.groupby("stage")}
