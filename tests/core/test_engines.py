"""Engines agree with PyTorch's eager one, are chosen by what there is, and start from their cache."""

import importlib.metadata
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hiwl_core.backbones import ImageClassifier
from hiwl_core.bundle import load_bundle
from hiwl_core.cached_engine import cached_engine
from hiwl_core.cutouts import EvalTransform, Preprocessing
from hiwl_core.decoding import decode_image
from hiwl_core.device import ComputePlan
from hiwl_core.engines import EngineChoice, StageGraph, answers, choose_engine, create_engine, probabilities
from hiwl_core.engines.openvino_engine import exported_graph
from hiwl_core.engines.quantization import quantize
from hiwl_core.engines.torch_engine import TorchEngine
from hiwl_core.errors import UserError
from hiwl_core.quickest_precision import quickest_precision
from hiwl_core.views import seen_views, symmetries, turned
from tests.bundles import random_bundle
from tests.drawings import CLASSES, draw_galaxy

CPU = ComputePlan(torch.device("cpu"), None, can_compile=True)
GPU = ComputePlan(torch.device("cuda", 0), torch.bfloat16, can_compile=True)
OLD_GPU = ComputePlan(torch.device("cuda", 0), None, can_compile=False)
SMALL = Preprocessing(64, 32, (0.05, 0.04, 0.03), (0.1, 0.1, 0.1))


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(random_bundle(tmp_path_factory.mktemp("engines") / "bundle"))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    transform = EvalTransform(SMALL)
    return np.stack(
        [transform(decode_image(draw_galaxy(c, seed)).image) for c in CLASSES for seed in range(5)]
    )


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of exported graphs: an export takes seconds."""
    return tmp_path_factory.mktemp("cache")


def graph_of(folder: Path) -> StageGraph:
    stage = load_bundle(folder).stages["stage1"]
    return StageGraph(lambda: stage.network(4), stage.preprocessing)


@pytest.mark.parametrize("views", [1, 8])
def test_openvino_says_what_pytorch_says(
    bundle_folder: Path, exports: Path, pixels: np.ndarray, views: int
) -> None:
    graph = graph_of(bundle_folder)
    expected = probabilities(
        create_engine(graph, choose_engine("torch", compute=CPU), exports, "small"), pixels, views
    )
    openvino = create_engine(graph, choose_engine("openvino", compute=CPU, threads=2), exports, "small")
    got = probabilities(openvino, pixels, views)
    assert np.abs(got - expected).max() < 1e-4
    assert len(set(expected.argmax(1))) > 1
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_eight_views_say_the_same_of_an_image_however_it_lies(
    bundle_folder: Path, exports: Path, pixels: np.ndarray, engine: str
) -> None:
    """To the last bit; one view does not."""
    compiled = create_engine(
        graph_of(bundle_folder), choose_engine(engine, compute=CPU, threads=2), exports, "small"
    )
    as_it_is = probabilities(compiled, pixels, 8)
    one_view = probabilities(compiled, pixels)
    for symmetry in range(1, 8):
        lying = np.ascontiguousarray(turned(pixels, symmetry))
        np.testing.assert_array_equal(probabilities(compiled, lying, 8), as_it_is)
        assert np.abs(probabilities(compiled, lying) - one_view).max() > 1e-3


def test_the_eight_symmetries_are_different_and_the_same_for_tensors_and_arrays() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(1, 4, 4, 3)
    seen = [turned(image, symmetry) for symmetry in symmetries(8)]
    assert len({one.tobytes() for one in seen}) == 8
    for one, tensor in zip(seen, seen_views(torch.from_numpy(image), 8), strict=True):
        np.testing.assert_array_equal(one, tensor.numpy())
    np.testing.assert_array_equal(turned(image, 1)[0, :, :, 0], np.rot90(image[0, :, :, 0]))
    assert [len(symmetries(views)) for views in (1, 2, 4, 8)] == [1, 2, 4, 8]


def test_features_come_beside_the_probabilities(
    bundle_folder: Path, exports: Path, pixels: np.ndarray
) -> None:
    """They are those of the layer before the head, which makes the probabilities of them."""
    head = load_bundle(bundle_folder).stages["stage1"].network(4).head
    for name in ("torch", "openvino"):
        engine = create_engine(graph_of(bundle_folder), choose_engine(name, compute=CPU), exports, "small")
        answer = answers(engine, pixels)
        with torch.inference_mode():
            again = torch.softmax(head(torch.from_numpy(answer.features)), dim=1).numpy()
        np.testing.assert_allclose(answer.probabilities, again, atol=1e-5)


@pytest.mark.slow
def test_int8_is_near_and_comes_from_the_two_files_of_the_bundle(
    bundle_folder: Path, pixels: np.ndarray
) -> None:
    graph = graph_of(bundle_folder)
    with pytest.raises(UserError, match="--precision int8: this model has no int8 graphs; `hiwl optimize"):
        create_engine(graph, choose_engine("openvino", "int8", CPU))
    made = quantize(graph, pixels, 5)
    int8 = create_engine(replace(graph, quantized=made), choose_engine("openvino", "int8", CPU, threads=2))
    exact = probabilities(create_engine(graph, choose_engine("openvino", compute=CPU)), pixels)
    assert int8.batch_size == 5
    rough = probabilities(int8, pixels)
    assert rough.shape == exact.shape
    # The drawn heads are steep: a real network's probabilities differ by less.
    assert 1e-4 < np.abs(rough - exact).mean() < 0.3
    assert np.corrcoef(rough.ravel(), exact.ravel())[0, 1] > 0.5
    # A quarter of float32's weights.
    assert len(made.weights) < 0.3 * (bundle_folder / "stage1.safetensors").stat().st_size


def test_bfloat16_is_near(bundle_folder: Path, exports: Path, pixels: np.ndarray) -> None:
    graph = graph_of(bundle_folder)
    exact = probabilities(create_engine(graph, choose_engine("torch", compute=CPU), exports, "small"), pixels)
    for engine in ("torch", "openvino"):
        choice = choose_engine(engine, "bfloat16", CPU)
        assert "bfloat16" in choice.describe()
        rough = probabilities(create_engine(graph, choice, exports, "small"), pixels)
        # The drawn heads are steep: a real network's probabilities differ by less.
        assert 1e-4 < np.abs(rough - exact).mean() < 0.05


def one_layer() -> ImageClassifier:
    """A network of one block of a backbone's layers: to compile each takes a second or so."""
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    return ImageClassifier(trunk, 8, 4, dropout=0.0)


@pytest.mark.slow
def test_a_compiled_graph_says_the_same(pixels: np.ndarray) -> None:
    graph = StageGraph(one_layer, SMALL)
    eager = probabilities(TorchEngine(graph, CPU, 16), pixels)
    compiled = probabilities(TorchEngine(graph, CPU, 16, compiled=True), pixels)
    assert np.abs(compiled - eager).max() < 1e-4


class Cramped(nn.Module):
    """A network on a device with no memory for more than some images."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most = network, most

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.network(pixels)


def test_a_batch_without_memory_for_it_is_computed_in_pieces(pixels: np.ndarray) -> None:
    whole = TorchEngine(StageGraph(one_layer, SMALL), CPU, 16)
    engine, hopeless = (TorchEngine(StageGraph(one_layer, SMALL), CPU, 16) for _ in range(2))
    engine._graph = Cramped(whole._graph, 5)
    np.testing.assert_allclose(probabilities(engine, pixels), probabilities(whole, pixels), atol=1e-6)
    assert engine.pieces == 4
    hopeless._graph = Cramped(whole._graph, 0)
    with pytest.raises(torch.OutOfMemoryError):
        probabilities(hopeless, pixels)


def test_what_fills_a_batch_does_not_matter(bundle_folder: Path, exports: Path, pixels: np.ndarray) -> None:
    engine = create_engine(graph_of(bundle_folder), choose_engine(compute=CPU), exports, "small")
    one_by_one = np.concatenate([probabilities(engine, pixels[row : row + 1]) for row in range(len(pixels))])
    assert np.abs(probabilities(engine, pixels) - one_by_one).max() < 1e-6


def test_batches_under_way_keep_their_own_results(
    bundle_folder: Path, exports: Path, pixels: np.ndarray
) -> None:
    engine = create_engine(
        graph_of(bundle_folder), choose_engine("openvino", compute=CPU, threads=2), exports, "small"
    )
    batches = [np.ascontiguousarray(np.resize(pixels[i:], (engine.batch_size, 32, 32, 3))) for i in range(20)]
    expected = [probabilities(engine, batch) for batch in batches]
    for first in range(0, len(batches), engine.in_flight):
        pending = [engine.submit(batch) for batch in batches[first : first + engine.in_flight]]
        for result, wanted in zip(pending, expected[first:], strict=False):
            np.testing.assert_allclose(result().probabilities, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("engine", "precision", "compute", "expected"),
    [
        ("auto", "auto", CPU, ("openvino", "float32")),
        ("torch", "auto", CPU, ("torch", "float32")),
        ("auto", "bfloat16", CPU, ("openvino", "bfloat16")),
        ("auto", "auto", GPU, ("torch", "bfloat16")),
        ("auto", "float32", GPU, ("torch", "float32")),
        ("auto", "auto", OLD_GPU, ("torch", "float32")),
    ],
)
def test_the_choice(engine: str, precision: str, compute: ComputePlan, expected: tuple[str, str]) -> None:
    choice = choose_engine(engine, precision, compute)
    assert (choice.name, choice.precision) == expected
    assert (choice.compute.autocast_dtype is torch.bfloat16) == (expected[1] == "bfloat16")


def test_without_openvino_it_is_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "openvino":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    assert choose_engine(compute=CPU).name == "torch"
    with pytest.raises(UserError, match="pip install openvino"):
        choose_engine("openvino", compute=CPU)


@pytest.mark.parametrize(
    ("engine", "precision", "compute", "message"),
    [
        ("tensorrt", "auto", CPU, "--engine tensorrt: there are auto, torch, openvino"),
        ("auto", "int4", CPU, "--precision int4: there are auto, float32, bfloat16, int8"),
        ("openvino", "auto", GPU, "--no-gpu"),
        ("auto", "int8", GPU, "--precision int8 is for OpenVINO on CPUs: add --no-gpu"),
        ("torch", "int8", CPU, "--precision int8 is for OpenVINO"),
    ],
)
def test_mistakes(engine: str, precision: str, compute: ComputePlan, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_engine(engine, precision, compute)


def test_a_gpu_gets_large_batches(bundle_folder: Path) -> None:
    on_gpu, on_cpu = choose_engine(compute=GPU), choose_engine(compute=CPU)
    assert on_gpu.batch_size(graph_of(bundle_folder)) == 256
    large = replace(graph_of(bundle_folder), preprocessing=replace(SMALL, input_size=240))
    assert on_cpu.batch_size(large) < on_cpu.batch_size(graph_of(bundle_folder))


def openvino_with(cache: Path, key: str, folder: Path, pixels: np.ndarray) -> np.ndarray:
    choice: EngineChoice = choose_engine("openvino", compute=CPU)

    engine = create_engine(graph_of(folder), choice, cache, key)
    return probabilities(engine, pixels)


def test_the_exported_graph_is_cached_and_a_damaged_one_is_made_anew(
    bundle_folder: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    first = openvino_with(tmp_path, "model-stage1", bundle_folder, pixels)
    (place,) = tmp_path.iterdir()
    assert place.name.startswith("model-stage1-")
    made = (place / "stage.xml").stat().st_mtime_ns
    again = openvino_with(tmp_path, "model-stage1", bundle_folder, pixels)
    assert (place / "stage.xml").stat().st_mtime_ns == made
    np.testing.assert_array_equal(first, again)

    (place / "stage.xml").write_text("<net")
    mended = openvino_with(tmp_path, "model-stage1", bundle_folder, pixels)
    np.testing.assert_array_equal(first, mended)
    assert (place / "stage.xml").stat().st_size > 1000


def test_a_trial_of_precisions_exports_once_for_all_and_for_who_classifies(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def exported(graph: StageGraph, batch_size: int) -> Any:
        made.append(batch_size)
        return exported_graph(graph, batch_size)

    monkeypatch.setenv("HIWL_CACHE", str(tmp_path))
    monkeypatch.setattr("hiwl_core.engines.openvino_engine.exported_graph", exported)
    monkeypatch.setattr("hiwl_core.quickest_precision.cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr("hiwl_core.quickest_precision.SECONDS_OF_A_TRIAL", 0.01)
    bundle = load_bundle(bundle_folder)
    validated: Any = SimpleNamespace()
    both = {f"1/{precision}": validated for precision in ("float32", "bfloat16")}
    bundle = replace(bundle, fitted=replace(bundle.fitted, settings=both))
    precision, rates = quickest_precision(bundle, CPU, 1)
    assert set(rates) == {"float32", "bfloat16"}
    cached_engine(bundle, "stage1", choose_engine("openvino", precision, CPU))
    assert len(made) == 1
    (place,) = tmp_path.iterdir()
    assert place.name.startswith(f"{bundle.model_id}-stage1-")


def test_a_cache_that_cannot_be_written_stops_nothing(
    bundle_folder: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    got = openvino_with(tmp_path / "file", "key", bundle_folder, pixels)
    assert got.shape == (25, 4)


def test_nothing_is_sent_home() -> None:
    code = (
        "import sys\n"
        "from hiwl_core.engines.graph import StageGraph\n"
        "from hiwl_core.engines.openvino_engine import exported_graph\n"
        "from tests.core.test_engines import SMALL, one_layer\n"
        "exported_graph(StageGraph(one_layer, SMALL), 1)\n"
        "print(sorted(n for n, m in sys.modules.items() if 'telemetry' in n and m))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "openvino_telemetry" not in done.stdout
    assert "openvino.tools.ovc.telemetry_stub" in done.stdout
