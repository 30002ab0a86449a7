import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hiwl_core.backbones import create_backbone
from hiwl_core.bundle import ModelBundle, StageModel, bundle_files, load_bundle
from hiwl_core.cutouts import Preprocessing
from hiwl_core.decoding import Cutout
from hiwl_core.engines import choose_engine
from hiwl_core.errors import UserError
from hiwl_core.fits_cutouts import rgb_from_fits
from hiwl_core.inference import CascadeClassifier
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.taxonomy import GALAXY_ZOO
from tests.broken_inputs import encode, fits_file
from tests.bundles import random_bundle
from tests.drawings import draw_galaxy
from tests.stages import FREQUENCIES

# Each export for OpenVINO takes seconds.
classifier_of = partial(CascadeClassifier, engine=choose_engine("torch"))
PREPROCESSING = Preprocessing(64, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def make_bundle() -> ModelBundle:
    torch.manual_seed(0)
    stages = {
        name: StageModel(
            "efficientnet_lite0",
            PREPROCESSING,
            0.05,
            create_backbone(
                "efficientnet_lite0", len(GALAXY_ZOO.stage_classes(name)), input_size=32
            ).state_dict(),
        )
        for name in ("stage1", "stage2")
    }
    return ModelBundle(GALAXY_ZOO, stages, FREQUENCIES, views=2, metrics={"accuracy": 0.5})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in bundle_files(make_bundle()).items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_a_saved_bundle_is_the_same_model(folder: Path) -> None:
    images = [draw_galaxy(label, 0) for label in GALAXY_ZOO.classes]
    loaded = load_bundle(folder)
    _, before = classifier_of(make_bundle()).classify(images)
    _, after = classifier_of(loaded).classify(images)
    assert np.array_equal(before.probabilities, after.probabilities)
    assert loaded.taxonomy == GALAXY_ZOO
    assert len(loaded.model_id) == 16


def test_the_bundle_keeps_the_colors_of_fits_and_uses_them(folder: Path) -> None:
    flux = np.random.default_rng(0).gamma(1, 2, (3, 64, 64)).astype(np.float32)
    image = fits_file(flux, BANDS="grz")
    assert classifier_of(load_bundle(folder)).classify([image])[0] == ["missing_band"]
    rgb = RgbSettings(bands=("z", "r", "g"), stretch=2)
    for name, content in bundle_files(replace(make_bundle(), rgb=rgb)).items():
        (folder / name).write_bytes(content)
    loaded = load_bundle(folder)
    assert loaded.rgb == rgb
    statuses, got = classifier_of(loaded).classify([image])
    # The same pixels as a PNG are the same galaxy.
    png = encode(rgb_from_fits(image, rgb).image, "PNG")
    _, expected = classifier_of(loaded).classify([png])
    assert statuses == ["ok"]
    assert np.array_equal(got.probabilities, expected.probabilities)


def test_a_bundle_from_before_fits_has_the_default_colors(folder: Path) -> None:
    path = folder / "bundle.json"
    data = json.loads(path.read_text())
    assert data["format_version"] == 2
    del data["rgb"], data["fitted"]
    data["format_version"] = 1
    path.write_text(json.dumps(data))
    assert load_bundle(folder).rgb == RgbSettings()
    path.write_text(json.dumps({**data, "rgb": {"q": -1}}))
    with pytest.raises(UserError, match=r"bundle\.json: rgb\.q: Input should be greater than 0"):
        load_bundle(folder)


def test_cutouts_with_and_without_a_wanted_scale_go_together(folder: Path) -> None:
    image = draw_galaxy("SPI", 1, size=80)
    classifier = classifier_of(load_bundle(folder))
    cutouts = [image, None, Cutout(image, 0.2, 0.2), Cutout(image, None, 0.2), Cutout(image, 0.1, 0.2), b"?"]
    statuses, prediction = classifier.classify(cutouts)
    assert statuses == ["ok", "missing", "ok", "no_scale", "too_small", "undecodable"]
    assert prediction.probabilities.shape == (2, 5)


def test_three_files_and_no_pickle(folder: Path) -> None:
    assert sorted(file.name for file in folder.iterdir()) == [
        "bundle.json",
        "stage1.safetensors",
        "stage2.safetensors",
    ]
    # Every pickle of protocol 2 and later, and every zip of torch.save, begins with one of these.
    assert not any(
        file.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK") for file in folder.iterdir()
    )


def test_a_flat_bundle_has_one_network(tmp_path: Path) -> None:
    folder = Path(random_bundle(tmp_path / "flat", taxonomy=GALAXY_ZOO.flat()))
    assert sorted(file.name for file in folder.iterdir()) == ["bundle.json", "stage1.safetensors"]
    bundle = load_bundle(folder)
    assert bundle.taxonomy == GALAXY_ZOO.flat()
    images = [draw_galaxy(label, seed) for label in GALAXY_ZOO.classes for seed in range(8)]
    statuses, prediction = classifier_of(bundle).classify([*images, None])
    assert statuses == ["ok"] * 40 + ["missing"]
    assert (prediction.class_indices == prediction.probabilities.argmax(axis=1)).all()
    assert len(np.unique(prediction.class_indices)) > 2
    assert list(prediction.stages) == ["stage1"]
    assert classifier_of(bundle).classify([None])[1].probabilities.shape == (0, 5)
    with pytest.raises(UserError, match="--stage2 always: this model has no stage 2"):
        classifier_of(bundle, always_stage2=True)


def test_the_model_id_changes_with_the_weights(folder: Path) -> None:
    first = load_bundle(folder).model_id
    bundle = make_bundle()
    bundle.stages["stage2"].weights["head.bias"] += 1
    for name, content in bundle_files(bundle).items():
        (folder / name).write_bytes(content)
    assert load_bundle(folder).model_id != first


def test_changed_weights_are_refused(folder: Path) -> None:
    path = folder / "stage2.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"stage2\.safetensors has sha256"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["bundle.json", "stage1.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_bundle(folder)


def test_a_future_format_is_refused(folder: Path) -> None:
    description = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**description, "format_version": 3}))
    with pytest.raises(UserError, match="has format 3, this HIWL reads 1 and 2"):
        load_bundle(folder)


def test_a_description_that_lacks_something_is_refused(folder: Path) -> None:
    (folder / "bundle.json").write_text('{"format_version": 2}')
    with pytest.raises(UserError, match="lacks 'stages'"):
        load_bundle(folder)


def test_statuses_keep_the_order_of_the_images(folder: Path) -> None:
    images = [draw_galaxy("CRS", 0), None, b"text", draw_galaxy("EO", 1, size=40), draw_galaxy("SPI", 2)]
    classifier = classifier_of(load_bundle(folder))
    statuses, prediction = classifier.classify(images)
    assert statuses == ["ok", "missing", "undecodable", "too_small", "ok"]
    assert prediction.probabilities.shape == (2, 5)
    alone = classifier.classify([images[4]])[1].probabilities[0]
    assert prediction.probabilities[1] == pytest.approx(alone, abs=1e-5)
