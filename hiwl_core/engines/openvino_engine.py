"""OpenVINO as an engine: two to four times PyTorch's eager speed on CPUs in float32, more in int8."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hiwl_core.engines.engine import Pending, StageAnswer
from hiwl_core.engines.graph import QuantizedGraph, StageGraph
from hiwl_core.errors import UserError, if_missing
from hiwl_core.views import turned

__all__ = ["OpenVinoEngine", "exported_graph", "openvino_available", "openvino_package"]

# Graphs of before they gave features have another name.
FILE = "stage.xml"
# OpenVINO's names of the precisions that it computes in.
# What is not in int8 in an int8 graph stays in float32.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}


def openvino_available() -> bool:
    """Whether the package is installed."""
    try:
        importlib.metadata.version("openvino")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


class OpenVinoEngine:
    """A stage's graph compiled by OpenVINO for this machine's CPU.

    Parameters
    ----------
    graph : StageGraph
    batch_size : int
        Of an int8 graph its own.
    threads : int
    precision : {"float32", "bfloat16", "int8"}
        What the convolutions compute in; int8 takes the graph's quantized form.
    cache : Path, optional
        Folder for what was exported and compiled, which the next start takes up; it is found again by `key`.
    key : str
        What the graph's results depend on; the versions of the libraries and the batch size are added here.

    Raises
    ------
    UserError
        If the package is not installed, or the graph has no int8 form and is to compute in it.
    """

    def __init__(
        self,
        graph: StageGraph,
        batch_size: int,
        threads: int,
        precision: str = "float32",
        cache: Path | None = None,
        key: str = "",
    ) -> None:
        openvino = openvino_package()
        core = openvino.Core()
        settings: dict[str, Any] = {
            # Left to itself it computes in bfloat16 where the CPU has instructions for that.
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads,
            # A stream a thread: none waits for the others between two layers.
            "NUM_STREAMS": threads,
        }
        if precision == "int8":
            model = _quantized(core, graph)
        else:
            place = cache and cache / f"{key}-{_versions(openvino)}-{batch_size}"
            model = _cached(graph, batch_size, place)
        self.batch_size = int(model.input(0).shape[0])
        self._compiled = core.compile_model(model, "CPU", settings)
        self.in_flight = 2 * self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = itertools.cycle(
            enumerate([self._compiled.create_infer_request() for _ in range(self.in_flight)])
        )
        # What each request reads while it computes. Here, where a signal that breaks off whoever waits for it
        # does not free it; after the requests, which wait for themselves when they go.
        self._read: dict[int, np.ndarray] = {}
        self._tensor = openvino.Tensor

    def submit(self, pixels: np.ndarray, symmetry: int = 0) -> Pending:
        """As `Engine.submit`."""
        number, request = next(self._requests)
        self._read[number] = np.ascontiguousarray(turned(pixels, symmetry))
        request.set_input_tensor(self._tensor(self._read[number], shared_memory=True))
        request.start_async()

        def result() -> StageAnswer:
            request.wait()
            # Copies: the request's next batch writes to the same memory.
            return StageAnswer(*(np.array(request.get_output_tensor(index).data) for index in range(2)))

        return result


def openvino_package() -> Any:
    """The package, without the statistics of use that its converter would send home unasked."""
    if "openvino" not in sys.modules:
        # Makes the import of the sender fail, for which the converter has a stub.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    with if_missing("--engine openvino needs the package openvino: pip install openvino"):
        import openvino
    return openvino


def _versions(openvino: Any) -> str:
    return f"torch{torch.__version__}-openvino{openvino.__version__.split('-')[0]}".replace("+", "-")


def exported_graph(graph: StageGraph, batch_size: int) -> Any:
    """The graph as OpenVINO's model, for batches of one size."""
    pixels = torch.zeros((batch_size, *graph.pixel_shape), dtype=torch.uint8)
    # Traced by OpenVINO: `torch.export` comes to the same in twice or three times as long, and loads a
    # compiler.
    with torch.no_grad(), warnings.catch_warnings():
        # Of what is constant for one size, as all is here, and of the age of what it traces with.
        warnings.simplefilter("ignore")
        model = openvino_package().convert_model(graph.module(), example_input=pixels)
    # The conversion leaves the shape of its input open, and all others are fixed.
    model.reshape(list(pixels.shape))
    return model


def _quantized(core: Any, graph: StageGraph) -> Any:
    form: QuantizedGraph | None = graph.quantized
    if form is None:
        raise UserError(
            "--precision int8: this model has no int8 graphs; `hiwl optimize BUNDLE` makes them, or leave "
            "the option out"
        )
    return core.read_model(model=form.model, weights=form.weights)


def _cached(graph: StageGraph, batch_size: int, place: Path | None) -> Any:
    """The graph as OpenVINO's model, from the cache if it is there."""
    if place is not None and (saved := _read(place)) is not None:
        return saved
    model = exported_graph(graph, batch_size)
    if place is None:
        return model
    _save(model, place)
    # As the next start will find it: what was saved and read differs in the last digits from what was not.
    return _read(place) or model


def _read(place: Path) -> Any:
    """What was saved; None if there is nothing, or it is damaged."""
    if not (place / FILE).is_file():
        return None
    try:
        return openvino_package().Core().read_model(place / FILE)
    except RuntimeError:
        shutil.rmtree(place, ignore_errors=True)
        return None


def _save(model: Any, place: Path) -> None:
    """Save a model for the next start: whole or not at all, whoever else does the same."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(dir=place.parent))
        try:
            openvino_package().save_model(model, half / FILE, compress_to_fp16=False)
            os.rename(half, place)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    # A full or read-only disk, or another process that was first, costs the next start some seconds.
    except (OSError, RuntimeError):
        return
