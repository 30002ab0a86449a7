"""How good a scored catalog's probabilities are, and what they were before calibration.

No figure is of galaxies that what it judges was fitted on: where the scored galaxies are those of the
calibration, each is judged by what is fitted on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hiwl_core.bundle import ModelBundle
from hiwl_core.calibration import cross_fitted
from hiwl_core.cascade import StageOutputs, combine_stages
from hiwl_core.class_prior import move_prior
from hiwl_core.finishing import prior_log_ratios
from hiwl_core.fitted import Setting, ValidatedSetting
from hiwl_core.probability_scores import ProbabilityScores, cross_fitted_sets, score_probabilities
from hiwl_core.purity import threshold_table
from hiwl_core.taxonomy import FIRST_STAGE, Taxonomy, probability_column
from hiwl_core.uncalibrated import uncalibrated_stage1
from pipeline.catalog.catalog_schema import TRUE_LABEL, stage_outputs
from pipeline.classification.catalog_contents import CatalogContents

__all__ = [
    "CATALOG",
    "CROSS_FITTED",
    "NOT_CALIBRATED",
    "UNKNOWN",
    "ProbabilityEvaluation",
    "evaluate_probabilities",
]

FOLDS, SEED = 5, 0
CATALOG, CROSS_FITTED, NOT_CALIBRATED, UNKNOWN = "catalog", "cross-fitted", "not calibrated", "unknown"


@dataclass(frozen=True)
class ProbabilityEvaluation:
    """What the labels say of a catalog's probabilities.

    Parameters
    ----------
    basis : {"catalog", "cross-fitted", "not calibrated", "unknown"}
        What the figures after calibration are of: the catalog's own columns, or probabilities and sets of
        each galaxy by what was fitted on the others. Without calibration, or where neither can be had, there
        are none.
    words : str
        The same for people.
    most_probable : numpy.ndarray of int64, shape (N,)
        Class indices of the scored galaxies by what `basis` says.
    scores : ProbabilityScores or None
        None where nothing is known of either side.
    coverage : float or None
        That the sets promise for each class; None without sets.
    thresholds : pandas.DataFrame or None
        Purity and completeness of cuts on the probabilities; see `hiwl_core.purity.threshold_table`.
    """

    basis: str
    words: str
    most_probable: np.ndarray
    scores: ProbabilityScores | None
    coverage: float | None
    thresholds: pd.DataFrame | None = None

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables that there are: ``probabilities``, ``reliability``, ``thresholds`` and ``coverage``."""
        if self.scores is None:
            return {}
        tables = {"probabilities": self.scores.table, "reliability": self.scores.curves}
        if self.thresholds is not None:
            tables["thresholds"] = self.thresholds
        return tables if self.scores.coverage is None else {**tables, "coverage": self.scores.coverage}


@dataclass(frozen=True)
class _Calibrated:
    """What stands for a model after calibration; None for what cannot be had."""

    basis: str
    words: str
    probabilities: np.ndarray | None
    sets: np.ndarray | None


def evaluate_probabilities(
    galaxies: pd.DataFrame, bundle: ModelBundle, contents: CatalogContents, fingerprints: Sequence[str]
) -> ProbabilityEvaluation:
    """Score probabilities and sets of classes.

    Parameters
    ----------
    galaxies : pandas.DataFrame
        Scored rows of a catalog; see `pipeline.evaluation.galaxies.scored`.
    bundle : ModelBundle
        That made it.
    contents : CatalogContents
        Those of the catalog.
    fingerprints : sequence of str
        Of its shards.
    """
    taxonomy = bundle.taxonomy
    truth, labels = (taxonomy.encode(galaxies[name].to_numpy()) for name in (TRUE_LABEL, "label_map"))
    given = galaxies[list(map(probability_column, taxonomy.classes))].to_numpy(dtype=np.float64)
    views = bundle.views if contents.views is None else contents.views
    validated = bundle.validated(Setting(views, contents.precision))
    if validated is None:
        words = "This model is not calibrated: the probabilities are the networks' own, as they come."
        scores = score_probabilities(truth, taxonomy.classes, before=given)
        return ProbabilityEvaluation(NOT_CALIBRATED, words, labels, scores, None)
    outputs = _outputs(galaxies, given, bundle, contents, validated)
    before = None
    if outputs is not None:
        before = combine_stages(outputs, bundle.member_frequencies, taxonomy).probabilities
    seen, given_shards = set(bundle.provenance.get("val", ())), set(fingerprints)
    if seen & given_shards:
        after = _by_the_others(outputs, truth, bundle, contents, some=bool(given_shards - seen))
    else:
        words = (
            f"Calibrated on {validated.calibration.galaxies:,} galaxies of other shards; the figures are of "
            "the catalog's own probabilities, label_map and class_set."
        )
        after = _Calibrated(CATALOG, words, given, _sets(galaxies["class_set"], taxonomy))
    words = after.words + ("" if outputs is None else _moved(contents, taxonomy))
    if outputs is None:
        words += (
            " What they were before calibration is lost with the classes to which the prior gives no share."
        )
    p, sets = after.probabilities, after.sets
    known = before is not None or p is not None
    return ProbabilityEvaluation(
        basis=after.basis,
        words=words,
        most_probable=labels if p is None or after.basis == CATALOG else p.argmax(axis=1),
        scores=score_probabilities(truth, taxonomy.classes, before, p, sets) if known else None,
        coverage=None if sets is None else contents.coverage,
        thresholds=None if p is None else threshold_table(p, truth, taxonomy.classes),
    )


def _outputs(
    galaxies: pd.DataFrame,
    given: np.ndarray,
    bundle: ModelBundle,
    contents: CatalogContents,
    validated: ValidatedSetting,
) -> StageOutputs | None:
    """The stages' own probabilities; None if a prior without a share of some class took them away."""
    taxonomy = bundle.taxonomy
    if isinstance(contents.prior, tuple):
        if not min(contents.prior) > 0:
            return None
        given = move_prior(given, np.array(contents.prior), np.array(bundle.fitted.prior))
    calibrated = validated.calibration.stages[FIRST_STAGE]
    later = {stage: stage_outputs(galaxies, taxonomy, stage) for stage in taxonomy.later_stages}
    return {FIRST_STAGE: uncalibrated_stage1(given, taxonomy, calibrated), **later}


def _by_the_others(
    outputs: StageOutputs | None,
    truth: np.ndarray,
    bundle: ModelBundle,
    contents: CatalogContents,
    some: bool,
) -> _Calibrated:
    """Probabilities and sets of each galaxy by what is fitted on the other folds."""
    taxonomy = bundle.taxonomy
    which = "some of these shards" if some else "these shards"
    if outputs is None or len(truth) < FOLDS:
        words = (
            f"The calibration was fitted on {which}, and cannot be fitted anew on a part of them to be "
            "judged by the rest; label_map is the catalog's, and its figures flatter it."
        )
        return _Calibrated(UNKNOWN, words, None, None)
    p = cross_fitted(
        outputs, truth, bundle.member_frequencies, taxonomy, prior_log_ratios(bundle), FOLDS, SEED
    )
    sets = cross_fitted_sets(p, truth, taxonomy.classes, contents.coverage, FOLDS, SEED)
    if isinstance(contents.prior, tuple):
        p = move_prior(p, np.array(bundle.fitted.prior), np.array(contents.prior))
    words = (
        f"The calibration was fitted on {which}. So that no figure is of galaxies that it was fitted on, "
        f"each galaxy is judged by a calibration and thresholds fitted on {FOLDS - 1} of {FOLDS} parts, to "
        "which it does not belong; those of the catalog are fitted on all of the calibration's galaxies."
    )
    return _Calibrated(CROSS_FITTED, words, p, sets)


def _moved(contents: CatalogContents, taxonomy: Taxonomy) -> str:
    if not isinstance(contents.prior, tuple):
        return ""
    shares = ", ".join(
        f"{name} {share:.4g}" for name, share in zip(taxonomy.classes, contents.prior, strict=True)
    )
    return f" After calibration they are moved to the prior {shares}."


def _sets(texts: pd.Series, taxonomy: Taxonomy) -> np.ndarray:
    """The sets of a catalog's `class_set`, bool of shape (N, C)."""
    found = [[f"|{name}|" in f"|{text}|" for name in taxonomy.classes] for text in texts]
    return np.array(found, dtype=bool).reshape(len(texts), len(taxonomy.classes))
