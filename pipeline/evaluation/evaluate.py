"""Score a bundle on labeled shards: classify them, then compare the catalog with the labels.

The figures are those of the catalog that `classify` writes, row for row; there is no second way to predict.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from hiwl_core.bundle import ModelBundle
from hiwl_core.errors import IncompleteError, UserError
from hiwl_core.metrics import class_table, confusion_matrix
from hiwl_core.statuses import OK
from pipeline import storage
from pipeline.catalog.catalog_schema import TRUE_LABEL
from pipeline.catalog.manifest import is_catalog, read_plan
from pipeline.classification.catalog_contents import AS_VALIDATED, CatalogContents
from pipeline.classification.catalog_summary import CatalogSummary
from pipeline.classification.classify import classify
from pipeline.classification.computing import WHATEVER_THERE_IS, Computing
from pipeline.classification.shard_classifier import read_bundle
from pipeline.evaluation.galaxies import read_galaxies, scored
from pipeline.evaluation.held_out import LEARNED_FROM, not_learned_from
from pipeline.evaluation.page import render_page
from pipeline.evaluation.probabilities import ProbabilityEvaluation, evaluate_probabilities
from pipeline.evaluation.shown_galaxies import ShownGalaxies, class_notes, read_shown
from pipeline.evaluation.stage_tables import stage_tables
from pipeline.in_notebooks import InNotebooks
from pipeline.shards.cutout_shards import CONTRACT_NAMES, Columns, list_shards
from pipeline.shards.fingerprints import ends_of
from pipeline.storage.own_folders import check_own
from pipeline.training.labeled_shards import check_labeled

__all__ = ["Evaluation", "evaluate"]

TABLES = (
    "confusion_matrix.csv",
    "metrics.csv",
    "metrics_label_map.csv",
    "stages.csv",
    "probabilities.csv",
    "reliability.csv",
    "coverage.csv",
    "thresholds.csv",
)
REPORT, PAGE = "evaluation.json", "evaluation.html"


@dataclass(frozen=True)
class Evaluation(InNotebooks):
    """The scores of a bundle.

    Parameters
    ----------
    confusion : pandas.DataFrame
        True classes by row, predicted by column (the paper's Table 3).
    metrics : pandas.DataFrame
        Precision, recall and F1 of each class, averages and accuracy, with 95 % intervals (Table 4); see
        `hiwl_core.metrics.class_table`.
    metrics_label_map : pandas.DataFrame
        The same of `label_map`, the most probable class.
    stages : pandas.DataFrame
        The same of each stage alone: later ones on their own classes that were routed right.
    probabilities : ProbabilityEvaluation
        How good the probabilities and the sets of classes are.
    left_out : dict of int
        Rows that are in no figure, by reason.
    out : str
        Folder with the tables and the catalog.
    catalog : CatalogSummary
    galaxies : pandas.DataFrame
        All rows of the catalog that the model did not learn from; see
        `pipeline.evaluation.galaxies.read_galaxies`.
    shown : ShownGalaxies
        Those that the page shows.
    """

    in_notebooks = ("out", "confusion", "metrics", "left_out")

    confusion: pd.DataFrame
    metrics: pd.DataFrame
    metrics_label_map: pd.DataFrame
    stages: pd.DataFrame
    probabilities: ProbabilityEvaluation
    left_out: dict[str, int]
    out: str
    catalog: CatalogSummary
    galaxies: pd.DataFrame
    shown: ShownGalaxies

    @property
    def scored(self) -> dict[str, int]:
        """Galaxies of each true class."""
        return {str(name): int(count) for name, count in self.confusion.sum(axis=1).items()}

    def files(self) -> dict[str, bytes]:
        """The tables as CSV, by file name; those that there is nothing to say in are left out."""
        tables = {
            "confusion_matrix": self.confusion,
            "metrics": self.metrics,
            "metrics_label_map": self.metrics_label_map,
            "stages": self.stages,
            **self.probabilities.tables(),
        }
        return {
            f"{name}.csv": table.to_csv(index=table is self.confusion, float_format="%.6f").encode()
            for name, table in tables.items()
        }


def evaluate(
    bundle_path: str,
    shards_path: str,
    out: str,
    columns: Columns = CONTRACT_NAMES,
    contents: CatalogContents = AS_VALIDATED,
    computing: Computing = WHATEVER_THERE_IS,
) -> Evaluation:
    """Classify labeled shards and score the result.

    Parameters
    ----------
    bundle_path, shards_path, columns, contents, computing
        As `pipeline.classification.classify.classify`; the catalog holds the labels in any case.
    out : str
        Folder for the tables of `TABLES`, ``evaluation.json``, ``evaluation.html`` and the catalog.

    Raises
    ------
    UserError
        As `pipeline.classification.classify.classify`, and for labels that are not classes of the bundle's
        taxonomy.
    IncompleteError
        If a shard could not be classified.
    """
    bundle = read_bundle(bundle_path)
    shards = list_shards(shards_path)
    kept = not_learned_from(bundle, check_labeled(shards, columns, bundle.taxonomy))
    out = storage.absolute(out).rstrip("/")
    # The catalog in it is the mark of our own.
    check_own(out, is_catalog(f"{out}/catalog"), (*TABLES, REPORT, PAGE), "evaluate")
    contents = replace(contents, keep_truth=True)
    summary = classify(bundle_path, shards_path, f"{out}/catalog", columns, contents, computing)
    if summary.failed:
        raise IncompleteError(
            f"{len(summary.failed)} of {len(shards)} shards could not be classified, so there are no scores: "
            f"{summary.failed[0]}"
        )
    galaxies = read_galaxies(summary.parts, shards, bundle.taxonomy)
    left_out = {}
    if kept is not None and not kept.all():
        left_out, galaxies = {LEARNED_FROM: int((~kept).sum())}, galaxies[kept].reset_index(drop=True)
    evaluation = _score(galaxies, bundle, out, summary, columns, left_out)
    _write(evaluation, bundle, shards_path)
    return evaluation


def _score(
    rows: pd.DataFrame,
    bundle: ModelBundle,
    out: str,
    summary: CatalogSummary,
    columns: Columns,
    left_out: dict[str, int],
) -> Evaluation:
    taxonomy, plan = bundle.taxonomy, read_plan(summary.catalog)
    labeled, known = rows[rows[TRUE_LABEL].notna()], scored(rows)
    left_out = {
        **left_out,
        **{str(status): int(n) for status, n in labeled["status"].value_counts().items() if status != OK},
        **({"unlabeled": len(rows) - len(labeled)} if len(rows) > len(labeled) else {}),
    }
    if known.empty:
        raise UserError("no cutout with a label could be read: there is nothing to score")
    truth, predicted = (taxonomy.encode(known[name].to_numpy()) for name in (TRUE_LABEL, "label"))
    matrix = confusion_matrix(truth, predicted, len(taxonomy.classes))
    probabilities = evaluate_probabilities(
        known,
        bundle,
        CatalogContents.from_settings(plan.settings),
        [ends_of(shard.fingerprint) for shard in plan.shards.values()],
    )
    by_map = confusion_matrix(truth, probabilities.most_probable, len(taxonomy.classes))
    confusion = pd.DataFrame(
        matrix, index=pd.Index(taxonomy.classes, name="true"), columns=list(taxonomy.classes)
    )
    return Evaluation(
        confusion=confusion,
        metrics=class_table(matrix, taxonomy.classes),
        metrics_label_map=class_table(by_map, taxonomy.classes),
        stages=stage_tables(truth, predicted, taxonomy),
        probabilities=probabilities,
        left_out=left_out,
        out=out,
        catalog=summary,
        galaxies=rows,
        shown=read_shown(rows, confusion, bundle, columns),
    )


def _write(evaluation: Evaluation, bundle: ModelBundle, shards_path: str) -> None:
    for name, content in evaluation.files().items():
        storage.write_bytes(f"{evaluation.out}/{name}", content)
    report: dict[str, Any] = {
        "model_id": bundle.model_id,
        "shards": shards_path,
        "rows": evaluation.catalog.rows,
        "left_out": evaluation.left_out,
        "classes": list(evaluation.confusion.columns),
        "confusion_matrix": evaluation.confusion.to_numpy().tolist(),
        "metrics": _records(evaluation.metrics),
        "metrics_label_map": _records(evaluation.metrics_label_map),
        "stages": _records(evaluation.stages),
        "calibration": {
            "basis": evaluation.probabilities.basis,
            "words": evaluation.probabilities.words,
            "coverage": evaluation.probabilities.coverage,
        },
        **{name: _records(table) for name, table in evaluation.probabilities.tables().items()},
    }
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    storage.write_bytes(f"{evaluation.out}/{REPORT}", text.encode())
    facts = [
        f"Model {bundle.model_id} on {shards_path}: {int(evaluation.confusion.to_numpy().sum()):,} galaxies.",
        *(f"Not in any figure, {reason}: {count:,}." for reason, count in evaluation.left_out.items()),
    ]
    page = render_page(
        "How good is the model?",
        facts,
        class_notes(bundle.taxonomy, evaluation.shown, {"Scored": evaluation.scored}),
        evaluation.confusion,
        evaluation.metrics,
        evaluation.metrics_label_map,
        evaluation.probabilities,
        evaluation.shown,
    )
    storage.write_bytes(f"{evaluation.out}/{PAGE}", page.encode())


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain data; JSON has no NaN, so a figure without objects is null."""
    return json.loads(table.round(6).to_json(orient="records"))
