"""Engines agree with PyTorch's eager one, are chosen by what there is, and start from their cache."""

import importlib.metadata
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hiwl_core.bundle import load_bundle
from hiwl_core.cutouts import EvalTransform, Preprocessing, decode_cutout
from hiwl_core.device import ComputePlan
from hiwl_core.engines import EngineChoice, StageGraph, choose_engine, create_engine, probabilities
from hiwl_core.engines.torch_engine import TorchEngine
from hiwl_core.errors import UserError
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
    return np.stack([transform(decode_cutout(draw_galaxy(c, seed))) for c in CLASSES for seed in range(5)])


def graph_of(folder: Path, views: int = 1) -> StageGraph:
    stage = load_bundle(folder).stages["stage1"]
    return StageGraph(lambda: stage.network(4), stage.preprocessing, views)


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_openvino_says_what_pytorch_says(bundle_folder: Path, pixels: np.ndarray, views: int) -> None:
    graph = graph_of(bundle_folder, views)
    expected = probabilities(create_engine(graph, choose_engine("torch", compute=CPU)), pixels)
    got = probabilities(create_engine(graph, choose_engine("openvino", compute=CPU, threads=2)), pixels)
    assert np.abs(got - expected).max() < 1e-4
    assert len(set(expected.argmax(1))) > 1
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-5)


def test_bfloat16_is_near(bundle_folder: Path, pixels: np.ndarray) -> None:
    graph = graph_of(bundle_folder)
    exact = probabilities(create_engine(graph, choose_engine("torch", compute=CPU)), pixels)
    for engine in ("torch", "openvino"):
        choice = choose_engine(engine, "bfloat16", CPU)
        assert "bfloat16" in choice.describe()
        rough = probabilities(create_engine(graph, choice), pixels)
        # The drawn heads are steep: a real network's probabilities differ by less.
        assert 1e-4 < np.abs(rough - exact).mean() < 0.05


@pytest.mark.slow
def test_a_compiled_graph_says_the_same(bundle_folder: Path, pixels: np.ndarray) -> None:
    graph = graph_of(bundle_folder)
    eager = probabilities(TorchEngine(graph, CPU, 16), pixels)
    compiled = probabilities(TorchEngine(graph, CPU, 16, compiled=True), pixels)
    assert np.abs(compiled - eager).max() < 1e-4


def test_what_fills_a_batch_does_not_matter(bundle_folder: Path, pixels: np.ndarray) -> None:
    engine = create_engine(graph_of(bundle_folder), choose_engine(compute=CPU))
    one_by_one = np.concatenate([probabilities(engine, pixels[row : row + 1]) for row in range(len(pixels))])
    assert np.abs(probabilities(engine, pixels) - one_by_one).max() < 1e-6


def test_batches_under_way_keep_their_own_results(bundle_folder: Path, pixels: np.ndarray) -> None:
    engine = create_engine(graph_of(bundle_folder), choose_engine("openvino", compute=CPU, threads=2))
    batches = [np.ascontiguousarray(np.resize(pixels[i:], (engine.batch_size, 32, 32, 3))) for i in range(20)]
    expected = [probabilities(engine, batch) for batch in batches]
    for first in range(0, len(batches), engine.in_flight):
        pending = [engine.submit(batch) for batch in batches[first : first + engine.in_flight]]
        for result, wanted in zip(pending, expected[first:], strict=False):
            np.testing.assert_allclose(result(), wanted, atol=1e-6)


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
        ("auto", "int4", CPU, "--precision int4: there are auto, float32, bfloat16"),
        ("openvino", "auto", GPU, "--no-gpu"),
    ],
)
def test_mistakes(engine: str, precision: str, compute: ComputePlan, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_engine(engine, precision, compute)


def test_a_gpu_gets_large_batches_and_views_share_them(bundle_folder: Path) -> None:
    on_gpu, on_cpu = choose_engine(compute=GPU), choose_engine(compute=CPU)
    assert on_gpu.batch_size(graph_of(bundle_folder)) == 256
    assert on_gpu.batch_size(graph_of(bundle_folder, views=8)) == 32
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
    made = (place / "graph.xml").stat().st_mtime_ns
    again = openvino_with(tmp_path, "model-stage1", bundle_folder, pixels)
    assert (place / "graph.xml").stat().st_mtime_ns == made
    np.testing.assert_array_equal(first, again)

    (place / "graph.xml").write_text("<net")
    mended = openvino_with(tmp_path, "model-stage1", bundle_folder, pixels)
    np.testing.assert_array_equal(first, mended)
    assert (place / "graph.xml").stat().st_size > 1000


def test_a_cache_that_cannot_be_written_stops_nothing(
    bundle_folder: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    got = openvino_with(tmp_path / "file", "key", bundle_folder, pixels)
    assert got.shape == (25, 4)


def test_nothing_is_sent_home(bundle_folder: Path) -> None:
    code = (
        "import sys, torch\n"
        "from hiwl_core.inference import CascadeClassifier\n"
        "from hiwl_core.bundle import load_bundle\n"
        f"assert CascadeClassifier(load_bundle({str(bundle_folder)!r})).engine.name == 'openvino'\n"
        "print(sorted(n for n, m in sys.modules.items() if 'telemetry' in n and m))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "openvino_telemetry" not in done.stdout
    assert "openvino.tools.ovc.telemetry_stub" in done.stdout
