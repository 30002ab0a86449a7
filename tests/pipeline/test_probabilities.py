"""What is said of a catalog's probabilities is never of galaxies that what is judged was fitted on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.special import expit, softmax

from hiwl_core.bundle import ModelBundle
from hiwl_core.calibration import cross_fitted, fit_calibration
from hiwl_core.cascade import combine_stages, route
from hiwl_core.class_prior import move_prior
from hiwl_core.conformal import ConformalScores, coverage_table
from hiwl_core.finishing import prior_log_ratios
from hiwl_core.fitted import Fitted, ValidatedSetting
from hiwl_core.metrics import class_table, confusion_matrix
from hiwl_core.probability_scores import cross_fitted_sets
from hiwl_core.reliability import negative_log_likelihood, probability_table
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy
from pipeline.catalog.catalog_schema import TRUE_LABEL
from pipeline.catalog.parts import part_table
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.evaluation.page import render_page
from pipeline.evaluation.probabilities import ProbabilityEvaluation, evaluate_probabilities
from pipeline.evaluation.shown_galaxies import ShownGalaxies
from tests.page_reader import Reader
from tests.stages import FREQUENCIES, both

SHARES = np.array([0.29, 0.28, 0.03, 0.14, 0.26])
COUNTS = dict(zip(GALAXY_ZOO.classes, (8434, 8069, 578, 3903, 7806), strict=True))
SETTINGS = CatalogContents(views=1, precision="float32", coverage=0.9)
VAL = "0123456789abcdef"
NOTHING_SHOWN = ShownGalaxies([], {}, "", [])


def said(count: int, seed: int, taxonomy: Taxonomy) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What two smoothed networks say, the second trained on as many of each class; and the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(5, size=count, p=SHARES)
    logits = rng.normal(size=(count, len(taxonomy.stage_classes("stage1"))))
    logits[np.arange(count), taxonomy.stage_targets("stage1", truth)] += 2.5
    stage1 = softmax(0.5 * logits, axis=1).astype(np.float32)
    if not taxonomy.groups:
        return {"stage1": stage1}, truth
    feature = rng.normal(size=count) + np.where(truth == 2, -0.75, 0.75)
    stage2 = np.column_stack([expit(-1.5 * feature), expit(1.5 * feature)])
    return route(both(stage1, stage2), taxonomy), truth


def model(taxonomy: Taxonomy = GALAXY_ZOO, calibrated: bool = True) -> ModelBundle:
    """A model of no networks, calibrated on the first galaxies."""
    sampling = {"stage1": {"sampling": "plain"}, "stage2": {"sampling": "weighted"}}
    bundle = ModelBundle(
        taxonomy=taxonomy,
        stages={},
        member_frequencies={stage: FREQUENCIES[stage] for stage in taxonomy.later_stages},
        views=1,
        provenance={"val": [VAL], "recipe": sampling, "class_counts": COUNTS},
        model_id="model",
    )
    if not calibrated:
        return bundle
    outputs, truth = said(600, 0, taxonomy)
    ratios = prior_log_ratios(bundle)
    held_out = cross_fitted(outputs, truth, bundle.member_frequencies, taxonomy, ratios)
    validated = ValidatedSetting(
        fit_calibration(outputs, truth, taxonomy, ratios),
        ConformalScores.from_held_out(held_out, truth, taxonomy.classes),
        confusion_matrix(truth, held_out.argmax(axis=1), 5),
    )
    shares = np.bincount(truth, minlength=5) / 600
    fitted = Fitted(settings={"1/float32": validated}, prior=tuple(shares.tolist()))
    return replace(bundle, fitted=fitted)


def catalog(
    bundle: ModelBundle, settings: CatalogContents = SETTINGS, count: int = 600, seed: int = 0
) -> pd.DataFrame:
    """Scored rows, as they are classified and written."""
    outputs, truth = said(count, seed, bundle.taxonomy)
    own = bundle.fitted.settings.get("1/float32")
    prediction = combine_stages(
        outputs, bundle.member_frequencies, bundle.taxonomy, None if own is None else own.calibration.apply
    )
    if own is not None:
        sets = own.conformal.sets(prediction.probabilities, settings.coverage)
        prediction = replace(prediction, sets=sets)
    if isinstance(settings.prior, tuple):
        moved = move_prior(prediction.probabilities, np.array(bundle.fitted.prior), np.array(settings.prior))
        prediction = replace(prediction, probabilities=moved.astype(np.float32))
    rows = pa.table(
        {
            "object_id": np.arange(count),
            "ra": np.zeros(count),
            "dec": np.zeros(count),
            "label": np.array(bundle.taxonomy.classes)[truth],
        }
    )
    table = part_table(rows, ["ok"] * count, prediction, bundle.taxonomy, bundle.model_id, keep_truth=True)
    return table.to_pandas()


def figures(table: pd.DataFrame, side: str) -> list[float]:
    return table[[side, f"{side}_low", f"{side}_high"]].to_numpy().ravel().tolist()


@pytest.mark.parametrize("taxonomy", [GALAXY_ZOO, GALAXY_ZOO.flat()], ids=["cascade", "flat"])
def test_galaxies_of_other_shards_are_judged_by_the_catalog(taxonomy: Taxonomy) -> None:
    bundle = model(taxonomy)
    rows = catalog(bundle, seed=1)
    found = evaluate_probabilities(rows, bundle, SETTINGS, ["other", "shards"])
    outputs, truth = said(600, 1, taxonomy)
    before = combine_stages(outputs, bundle.member_frequencies, taxonomy).probabilities
    after = rows[["p_crs", "p_ibs", "p_css", "p_eo", "p_spi"]].to_numpy(dtype=np.float64)
    expected = probability_table(before, after, truth, taxonomy.classes)
    assert found.basis == "catalog"
    assert "Calibrated on 600 galaxies of other shards" in found.words
    assert found.scores is not None
    for side in ("before", "after"):
        assert figures(found.scores.table, side) == pytest.approx(figures(expected, side), abs=1e-4)
    # The networks were smoothed: calibration is worth something.
    nll = found.scores.table.set_index("metric").loc["nll"]
    assert nll["after"] < nll["before"] - 0.05
    assert [taxonomy.classes[index] for index in found.most_probable] == rows["label_map"].tolist()
    (validated,) = bundle.fitted.settings.values()
    sets = validated.conformal.sets(after, 0.9)
    assert found.coverage == 0.9
    assert found.scores.coverage is not None
    assert found.scores.coverage.equals(coverage_table(sets, truth, taxonomy.classes))
    assert set(found.tables()) == {"probabilities", "reliability", "coverage", "thresholds"}


@pytest.mark.parametrize("taxonomy", [GALAXY_ZOO, GALAXY_ZOO.flat()], ids=["cascade", "flat"])
def test_the_galaxies_of_the_calibration_are_judged_by_what_was_fitted_on_others(taxonomy: Taxonomy) -> None:
    bundle = model(taxonomy)
    rows = catalog(bundle)
    found = evaluate_probabilities(rows, bundle, SETTINGS, [VAL])
    outputs, truth = said(600, 0, taxonomy)
    held_out = cross_fitted(outputs, truth, bundle.member_frequencies, taxonomy, prior_log_ratios(bundle))
    assert found.basis == "cross-fitted"
    assert "fitted on these shards. So that no figure is of galaxies that it was fitted on" in found.words
    assert found.scores is not None
    nll = found.scores.table.set_index("metric").loc["nll", "after"]
    assert nll == pytest.approx(negative_log_likelihood(held_out, truth), abs=1e-4)
    columns = ["p_crs", "p_ibs", "p_css", "p_eo", "p_spi"]
    assert nll > negative_log_likelihood(rows[columns].to_numpy(), truth)
    assert (found.most_probable == held_out.argmax(axis=1)).mean() > 0.995
    sets = cross_fitted_sets(held_out, truth, taxonomy.classes, 0.9)
    expected = coverage_table(sets, truth, taxonomy.classes)
    assert found.scores.coverage is not None
    for column in ("coverage", "mean_size"):
        assert found.scores.coverage[column].to_numpy() == pytest.approx(
            expected[column].to_numpy(), abs=0.01
        )


def test_some_of_the_shards_are_enough_to_judge_by_others() -> None:
    bundle = model()
    found = evaluate_probabilities(catalog(bundle), bundle, SETTINGS, ["other", VAL])
    assert found.basis == "cross-fitted"
    assert "fitted on some of these shards" in found.words


def test_a_model_that_is_not_calibrated_has_one_side_alone() -> None:
    bundle = model(calibrated=False)
    rows = catalog(bundle, seed=1)
    # Whatever it was selected by.
    found = evaluate_probabilities(rows, bundle, SETTINGS, [VAL])
    assert found.basis == "not calibrated"
    assert "not calibrated" in found.words
    assert found.coverage is None
    assert found.scores is not None
    truth = GALAXY_ZOO.encode(rows[TRUE_LABEL].to_numpy())
    given = rows[["p_crs", "p_ibs", "p_css", "p_eo", "p_spi"]].to_numpy()
    nll = found.scores.table.set_index("metric").loc["nll"]
    assert nll["before"] == pytest.approx(negative_log_likelihood(given, truth))
    assert np.isnan(nll["after"])
    assert set(found.tables()) == {"probabilities", "reliability"}


@pytest.mark.parametrize("shards", [["other"], [VAL]])
def test_another_prior_moves_what_comes_after_and_not_what_was_before(shards: list[str]) -> None:
    bundle, seed = model(), 0 if shards == [VAL] else 1
    moved = replace(SETTINGS, prior=(0.1, 0.1, 0.4, 0.3, 0.1))
    natural = evaluate_probabilities(catalog(bundle, seed=seed), bundle, SETTINGS, shards)
    found = evaluate_probabilities(catalog(bundle, moved, seed=seed), bundle, moved, shards)
    assert found.basis == natural.basis
    assert found.words.endswith("moved to the prior CRS 0.1, IBS 0.1, CSS 0.4, EO 0.3, SPI 0.1.")
    assert found.scores is not None
    assert natural.scores is not None
    before, as_before = (figures(one.scores.table, "before") for one in (found, natural))
    assert before == pytest.approx(as_before, abs=1e-4)
    # These galaxies do not have the other shares.
    nll, better = (one.scores.table.set_index("metric").loc["nll", "after"] for one in (found, natural))
    assert nll > better + 0.05
    # The promise is one for each class, whatever the mix.
    assert found.scores.coverage is not None
    assert natural.scores.coverage is not None
    assert found.scores.coverage["coverage"].to_numpy() == pytest.approx(
        natural.scores.coverage["coverage"].to_numpy(), abs=0.01
    )


def test_what_a_prior_without_a_class_took_away_is_not_made_up() -> None:
    bundle = model()
    without = replace(SETTINGS, prior=(0.3, 0.3, 0.0, 0.2, 0.2))
    found = evaluate_probabilities(catalog(bundle, without, seed=1), bundle, without, ["other"])
    assert found.basis == "catalog"
    assert "is lost with the classes to which the prior gives no share" in found.words
    assert found.scores is not None
    assert found.scores.table["before"].isna().all()
    assert found.scores.table["after"].notna().all()
    # Nor can it be fitted on others.
    found = evaluate_probabilities(catalog(bundle, without), bundle, without, [VAL])
    assert (found.basis, found.scores, found.coverage) == ("unknown", None, None)
    assert "its figures flatter it" in found.words
    assert found.tables() == {}


def test_few_galaxies_cannot_be_judged_by_others() -> None:
    bundle = model()
    found = evaluate_probabilities(catalog(bundle, count=4), bundle, SETTINGS, [VAL])
    assert found.basis == "unknown"
    assert found.scores is not None
    assert found.scores.table["after"].isna().all()
    assert found.scores.table["before"].notna().all()


def shown_page(bundle: ModelBundle, shards: list[str]) -> tuple[Reader, ProbabilityEvaluation]:
    rows = catalog(bundle, seed=1)
    truth, labels = (GALAXY_ZOO.encode(rows[name].to_numpy()) for name in (TRUE_LABEL, "label"))
    found = evaluate_probabilities(rows, bundle, SETTINGS, shards)
    tables = [confusion_matrix(truth, called, 5) for called in (labels, found.most_probable)]
    metrics = [class_table(matrix, GALAXY_ZOO.classes, resamples=20) for matrix in tables]
    confusion = pd.DataFrame(tables[0], index=list(GALAXY_ZOO.classes), columns=list(GALAXY_ZOO.classes))
    return Reader(render_page("Scores", [], [], confusion, *metrics, found, NOTHING_SHOWN)), found


def test_a_page_shows_both_sides_the_sets_and_a_curve_of_each_class() -> None:
    page, found = shown_page(model(), ["other"])
    assert found.words in page.text
    assert found.scores is not None
    assert found.scores.coverage is not None
    table = found.scores.table.set_index("metric")
    metrics = {row[0]: row[1:] for row in page.table("Metric", "Before calibration", "After")}
    assert list(metrics)[:3] == ["Negative log likelihood, nats", "Brier score", "Calibration error (ECE)"]
    nll = table.loc["nll"]
    assert metrics["Negative log likelihood, nats"] == [
        f"{nll[side]:.4f} {nll[f'{side}_low']:.4f}–{nll[f'{side}_high']:.4f}" for side in ("before", "after")
    ]
    assert metrics["ECE of CSS"][1].split()[0] == f"{table.loc['ece_CSS', 'after']:.4f}"
    sets = {row[0]: row[1:] for row in page.table("Class", "Coverage", "Mean size")}
    covered = found.scores.coverage.set_index("class")
    assert list(sets) == [*GALAXY_ZOO.classes, "all"]
    for name, (share, size, count) in sets.items():
        assert share.split()[0] == f"{covered.loc[name, 'coverage']:.4f}"
        assert size == f"{covered.loc[name, 'mean_size']:.2f}"
        assert count == str(covered.loc[name, "count"])
    promised = "promised are 90 % of each class"
    assert any(promised in text for text in page.text)
    # The bins with galaxies, as dots.
    assert page.tags.count("circle") == (found.scores.curves["count"] > 0).sum()
    assert page.tags.count("svg") == 6
    assert f"{table.loc['ece_EO', 'before']:.4f} → {table.loc['ece_EO', 'after']:.4f}" in page.text


def test_a_page_says_that_a_model_is_not_calibrated() -> None:
    page, found = shown_page(model(calibrated=False), ["other"])
    assert found.words in page.text
    metrics = {row[0]: row[1:] for row in page.table("Metric", "Before calibration", "Not calibrated")}
    assert {cells[1] for cells in metrics.values()} == {"–"}
    assert "Sets of classes" not in page.text
    assert found.scores is not None
    assert page.tags.count("circle") == (found.scores.curves["count"] > 0).sum()
