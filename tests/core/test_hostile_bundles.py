"""Bundles that were made to do harm, or by something that broke: one line each, and nothing is computed."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from hiwl_core.bundle import ModelBundle, bundle_files, bundle_from_files, load_bundle
from hiwl_core.device import choose_compute
from hiwl_core.engines import choose_engine
from hiwl_core.errors import UserError
from hiwl_core.inference import CascadeClassifier
from tests.drawings import draw_galaxy


@pytest.fixture(scope="module")
def bundle(calibrated_model: str) -> ModelBundle:
    return load_bundle(calibrated_model)


@pytest.fixture
def files(bundle: ModelBundle) -> dict[str, bytes]:
    return bundle_files(bundle)


def at(data: Any, path: str, value: Any) -> None:
    *way, last = path.split(".")
    for name in way:
        data = data[int(name) if isinstance(data, list) else name]
    data[int(last) if isinstance(data, list) else last] = value


SIZE = "stages.stage1.preprocessing.input_size"
DESCRIPTIONS = [
    ("views", 0, "views"),
    ("views", 10**9, "views"),
    (SIZE, -5, SIZE),
    (SIZE, 10**7, SIZE),
    ("stages.stage2.preprocessing.center_crop", 0, "center_crop"),
    ("stages.stage1.preprocessing.std", [0.0, 1.0, 1.0], "std"),
    ("stages.stage1.preprocessing.mean", [float("nan"), 1.0, 1.0], "mean"),
    ("stages.stage1.weights", "../../secretfile", "the weights of stage1 are in stage1.safetensors"),
    ("stages.stage1.weights", "/etc/passwd", "the weights of stage1 are in stage1.safetensors"),
    ("stages.stage1.sha256", "../x", "sha256"),
    ("stages.stage1.backbone", "../../net", "no backbone"),
    ("stages", {}, "the stages are"),
    ("member_frequencies", [float("nan"), 0.5], "member_frequencies"),
    ("member_frequencies", [1e308, 1e308], "member_frequencies"),
    ("member_frequencies", [0.0, 0.0], "member_frequencies must be 2 shares that sum to 1"),
    ("member_frequencies", [1.0], "member_frequencies must be 2 shares"),
    ("taxonomy.classes", ["CRS", "CRS", "IBS", "CSS", "EO"], "class names repeat"),
    ("taxonomy.classes", [f"c{number}" for number in range(2000)], "taxonomy.classes"),
    ("taxonomy", 5, "taxonomy"),
    ("fitted", {"../../secretfile": "0" * 64}, "'../../secretfile' is no file of a bundle"),
    ("rgb.stretch", float("inf"), "rgb"),
    ("format_version", [2] * 10**5, "has format"),
]


@pytest.mark.parametrize(("path", "value", "words"), DESCRIPTIONS)
def test_a_description_that_cannot_be_is_refused_in_a_line(
    files: dict[str, bytes], path: str, value: Any, words: str
) -> None:
    data = json.loads(files["bundle.json"])
    at(data, path, value)
    asked: list[str] = []
    files["bundle.json"] = json.dumps(data).encode()

    def read(name: str) -> bytes:
        asked.append(name)
        return files[name]

    with pytest.raises(UserError, match=words) as refused:
        CascadeClassifier(bundle_from_files(read, "elsewhere"))
    assert len(str(refused.value)) < 700
    assert len(str(refused.value).splitlines()) == 1
    assert set(asked) <= files.keys()


@pytest.mark.parametrize(
    "content", [b"[" * 10**5, b'{"a":' * 10**5, b"\xff\xfe", b"", b"null", b"[]", b"5", b'"bundle"']
)
def test_a_description_that_is_none_is_refused(files: dict[str, bytes], content: bytes) -> None:
    for name in ("bundle.json", "calibration.json"):
        changed = {**files, name: content}
        if name == "calibration.json":
            data = json.loads(files["bundle.json"])
            data["fitted"][name] = hashlib.sha256(content).hexdigest()
            changed["bundle.json"] = json.dumps(data).encode()
        with pytest.raises(UserError, match=r"is not JSON|has format|not whole"):
            bundle_from_files(changed.__getitem__, "elsewhere")


FITTED = [
    ("prior", [float("nan")] * 5, "prior"),
    ("prior", [0.5, 0.5], "prior"),
    ("margins", {"stage1": float("inf"), "stage2": 0.0}, "margins"),
    ("margins", {"stage1": 0.1}, "margins"),
    ("settings.1/float32.calibration.stages.stage1.temperature", -1.0, "temperature"),
    ("settings.1/float32.calibration.stages.stage1.biases", [0.0], "of other classes"),
    ("settings.1/float32.confusion", [[1]], "confusion"),
    ("settings.1/float32.confusion", [[10**30] * 5] * 5, "not whole"),
    ("settings.1/float32.conformal.classes", ["a", "b", "c", "d", "e"], "of other classes"),
    ("settings", {"../x": None}, "not whole"),
]


@pytest.mark.parametrize(("path", "value", "words"), FITTED)
def test_what_was_fitted_and_cannot_be_is_refused_in_a_line(
    files: dict[str, bytes], path: str, value: Any, words: str
) -> None:
    data, description = json.loads(files["calibration.json"]), json.loads(files["bundle.json"])
    at(data, path, value)
    files["calibration.json"] = json.dumps(data).encode()
    description["fitted"]["calibration.json"] = hashlib.sha256(files["calibration.json"]).hexdigest()
    files["bundle.json"] = json.dumps(description).encode()
    with pytest.raises(UserError, match=words):
        bundle_from_files(files.__getitem__, "elsewhere")


def with_weights(files: dict[str, bytes], stage: str, change: Callable[[torch.Tensor], None]) -> None:
    """Change the head's bias of a stage, with the right hash."""
    name = f"{stage}.safetensors"
    weights = load(files[name])
    change(weights["head.bias"])
    files[name] = save(weights)
    data = json.loads(files["bundle.json"])
    data["stages"][stage]["sha256"] = hashlib.sha256(files[name]).hexdigest()
    files["bundle.json"] = json.dumps(data).encode()


def test_weights_that_are_not_finite_are_refused(files: dict[str, bytes]) -> None:
    with_weights(files, "stage2", lambda bias: bias.fill_(float("nan")))
    with pytest.raises(UserError, match=r"stage2\.safetensors: head\.bias has what is no finite number"):
        bundle_from_files(files.__getitem__, "elsewhere")


@pytest.mark.parametrize("content", [b"\x80\x04cos\nsystem\n.", b"PK\x03\x04", b"", b"\xff" * 100])
def test_weights_in_a_pickle_are_no_weights(files: dict[str, bytes], content: bytes) -> None:
    data = json.loads(files["bundle.json"])
    data["stages"]["stage1"]["sha256"] = hashlib.sha256(content).hexdigest()
    changed = {**files, "stage1.safetensors": content, "bundle.json": json.dumps(data).encode()}
    with pytest.raises(UserError, match="is not safetensors"):
        bundle_from_files(changed.__getitem__, "elsewhere")


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_an_answer_that_is_no_number_is_no_class(bundle: ModelBundle, stage: str, tmp_path: Path) -> None:
    """Weights that are finite and too large: the network overflows on the way."""
    images = [draw_galaxy(label, 0) for label in bundle.taxonomy.classes]
    weights = {name: tensor.clone() for name, tensor in bundle.stages[stage].weights.items()}
    weights["head.weight"].fill_(3e38)
    broken = replace(bundle.stages[stage], weights=weights)
    changed = replace(bundle, stages={**bundle.stages, stage: broken}, model_id="", views=1)
    choice = choose_engine("torch", compute=choose_compute(torch.device("cpu")), threads=1)
    statuses, prediction = CascadeClassifier(changed, choice, always_stage2=True).classify([*images, None])
    assert statuses == ["not_finite"] * len(images) + ["missing"]
    assert prediction.probabilities.shape == (0, 5)
    # Where stage 2 is not asked its weights do no harm.
    if stage == "stage2":
        assert set(CascadeClassifier(changed, choice).classify(images)[0]) <= {"ok", "not_finite"}
    assert np.isfinite(CascadeClassifier(bundle, choice).classify(images)[1].probabilities).all()
