"""What comes after training: margins of views, calibration in each setting, all of it kept in the bundle."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hiwl_core.bundle import ModelBundle, bundle_files, bundle_from_files, load_bundle
from hiwl_core.engines import choose_engine
from hiwl_core.errors import UserError
from hiwl_core.fitted import Setting
from hiwl_core.inference import CascadeClassifier
from hiwl_core.seen_galaxies import margin_of_views
from hiwl_core.views import mean_over_views
from tests.drawings import CLASSES, draw_galaxy

# Each export for OpenVINO takes seconds.
classifier_of = partial(CascadeClassifier, engine=choose_engine("torch"))
IMAGES = [draw_galaxy(CLASSES[i % 5], 500 + i) for i in range(40)]


@pytest.fixture(scope="module")
def bundle(calibrated_model: str) -> ModelBundle:
    return load_bundle(calibrated_model)


def test_the_margin_leaves_as_many_labels_changed_as_it_may() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (1, 4000, 4)) + generator.normal(0, 0.5, (8, 4000, 4))
    seen = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    best = mean_over_views(seen).argmax(1)
    largest = np.sort(seen[0], axis=1)
    margins = largest[:, -1] - largest[:, -2]
    for share in (0.0, 0.001, 0.01):
        margin = margin_of_views(seen, 4000, share)
        adaptive = np.where(margins < margin, best, seen[0].argmax(1))
        changed = (adaptive != best).sum()
        assert changed == int(share * 4000)
        # With a smaller one there would be one more.
        assert (np.where(margins < margin - 1e-9, best, seen[0].argmax(1)) != best).sum() == changed + 1
    assert margin_of_views(np.tile(seen[:1], (8, 1, 1)), 4000, 0.0) == 0.0


def test_a_bundle_keeps_what_was_fitted(bundle: ModelBundle) -> None:
    files = bundle_files(bundle)
    assert set(files) == {
        "stage1.safetensors",
        "stage2.safetensors",
        "calibration.json",
        "unlikeness.safetensors",
        "bundle.json",
    }
    again = bundle_from_files(files.__getitem__, "memory")
    assert again.model_id == bundle.model_id
    assert again.views == "adaptive"
    assert again.fitted.margins == bundle.fitted.margins
    assert again.fitted.precisions == ("float32",)
    assert sum(again.fitted.prior) == pytest.approx(1)
    (_, first), (_, second) = (classifier_of(one).classify(IMAGES) for one in (bundle, again))
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    np.testing.assert_array_equal(first.ood_scores, second.ood_scores)


@pytest.mark.parametrize("name", ["calibration.json", "unlikeness.safetensors"])
def test_a_file_that_was_changed_is_refused(bundle: ModelBundle, name: str) -> None:
    files = bundle_files(bundle)
    files[name] = files[name][:-1] + b"?"
    with pytest.raises(UserError, match=rf"{name} has sha256 \w{{12}}\.\.\., not .*copy the bundle again"):
        bundle_from_files(files.__getitem__, "memory")


def test_a_bundle_without_any_still_classifies_and_says_what_it_cannot(bundle: ModelBundle) -> None:
    files = bundle_files(bundle)
    data = json.loads(files["bundle.json"])
    del data["fitted"]
    files["bundle.json"] = json.dumps({**data, "format_version": 1, "views": 8, "calibration": None}).encode()
    old = bundle_from_files(files.__getitem__, "memory")
    assert old.validated(Setting(8, "float32")) is None
    statuses, prediction = classifier_of(old).classify(IMAGES)
    assert set(statuses) == {"ok"}
    assert prediction.sets is None
    assert prediction.ood_scores is None
    # The labels are the same, since calibration does not touch the routing.
    _, calibrated = classifier_of(bundle, views=8).classify(IMAGES)
    np.testing.assert_array_equal(prediction.class_indices, calibrated.class_indices)
    assert np.abs(prediction.probabilities - calibrated.probabilities).max() > 0.01
    with pytest.raises(UserError, match=r"--prior: this model's probabilities are not calibrated.*optimize"):
        classifier_of(old, prior=[0.2] * 5)
    with pytest.raises(UserError, match=r"--views adaptive: this model does not hold the margin"):
        classifier_of(old, views="adaptive")


def test_adaptive_views_are_eight_where_one_is_not_sure(bundle: ModelBundle) -> None:
    settings = ("adaptive", 1, 8)
    adaptive, one, eight = (classifier_of(bundle, views=views).classify(IMAGES)[1] for views in settings)
    assert set(adaptive.views) == {1, 8}
    assert set(one.views) == {1}
    assert set(eight.views) == {8}
    # The stages' own numbers are those of eight views or of one, to the last bit.
    seen, of_one, of_eight = (prediction.stages["stage1"] for prediction in (adaptive, one, eight))
    assert ((seen == of_one) | (seen == of_eight)).all()


def test_another_prior_moves_the_probabilities_and_not_the_label(bundle: ModelBundle) -> None:
    _, plain = classifier_of(bundle).classify(IMAGES)
    prior = np.array([0.1, 0.1, 0.6, 0.1, 0.1])
    _, moved = classifier_of(bundle, prior=prior).classify(IMAGES)
    np.testing.assert_array_equal(moved.class_indices, plain.class_indices)
    np.testing.assert_array_equal(moved.sets, plain.sets)
    expected = plain.probabilities * prior / np.array(bundle.fitted.prior)
    np.testing.assert_allclose(
        moved.probabilities, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-7
    )
    assert (moved.probabilities[:, 2] > plain.probabilities[:, 2]).all()


def test_the_weights_may_be_kept_in_half_the_bytes(bundle: ModelBundle) -> None:
    whole, half = bundle, bundle.in_half()
    sizes = [len(bundle_files(one)["stage1.safetensors"]) for one in (whole, half)]
    assert sizes[1] < 0.52 * sizes[0]
    (_, exact), (_, rounded) = (classifier_of(one, views=1).classify(IMAGES) for one in (whole, half))
    assert 0 < np.abs(exact.probabilities - rounded.probabilities).max() < 0.02


def test_files_are_few_and_none_is_a_pickle(calibrated_model: str) -> None:
    for file in Path(calibrated_model).iterdir():
        assert file.read_bytes()[:2] not in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK")
