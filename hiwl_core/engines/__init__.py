"""Engines: what runs a stage's graph, chosen by what the machine has.

A stage becomes one graph, from uint8 pixels to probabilities (`StageGraph`), which an `Engine` computes:
PyTorch on GPUs, OpenVINO on CPUs where it is installed. What they say agrees within 1e-4 in float32. The
precision is not theirs to choose: a catalog has one, whichever nodes compute its rows.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hiwl_core.device import ComputePlan, choose_compute
from hiwl_core.engines.engine import Engine, Pending, StageAnswer, answers, probabilities
from hiwl_core.engines.graph import QuantizedGraph, StageGraph
from hiwl_core.engines.openvino_engine import OpenVinoEngine, openvino_available
from hiwl_core.engines.torch_engine import TorchEngine
from hiwl_core.errors import UserError

__all__ = [
    "ENGINES",
    "PRECISIONS",
    "Engine",
    "EngineChoice",
    "Pending",
    "QuantizedGraph",
    "StageAnswer",
    "StageGraph",
    "answers",
    "choose_engine",
    "create_engine",
    "openvino_available",
    "probabilities",
]

ENGINES = ("auto", "torch", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16", "int8")

# Images of a batch on a GPU, which wants many, and at most on a CPU.
GPU_BATCH = 256
LARGEST_CPU_BATCH = 64
# A CPU is fastest while a layer's input and output stay in its caches.
CPU_BATCH_PIXELS = 8 * 96 * 96
SMALLEST_CPU_BATCH = 4


@dataclass(frozen=True)
class EngineChoice:
    """An engine and how it computes.

    Parameters
    ----------
    name : {"torch", "openvino"}
    precision : {"float32", "bfloat16", "int8"}
    compute : ComputePlan
    threads : int
        Of a CPU.
    """

    name: str
    precision: str
    compute: ComputePlan
    threads: int

    def describe(self) -> str:
        """For people and for the footers of catalogs: ``openvino 2026.4.1, cpu float32``."""
        version = importlib.metadata.version(self.name).split("+")[0]
        return f"{self.name} {version}, {self.compute.device.type} {self.precision}"

    def batch_size(self, graph: StageGraph) -> int:
        """Images that go through at once."""
        if self.compute.device.type == "cuda":
            return GPU_BATCH
        if self.name == "torch":
            return LARGEST_CPU_BATCH
        fitting = CPU_BATCH_PIXELS // graph.preprocessing.input_size**2
        return min(max(fitting, SMALLEST_CPU_BATCH), LARGEST_CPU_BATCH)


def choose_engine(
    engine: str = "auto", precision: str = "auto", compute: ComputePlan | None = None, threads: int = 1
) -> EngineChoice:
    """The best engine that this process has, or the one asked for.

    Left to itself a GPU computes in bfloat16 where it can, and a CPU in float32.

    Parameters
    ----------
    engine : {"auto", "torch", "openvino"}
    precision : {"auto", "float32", "bfloat16", "int8"}
    compute : ComputePlan, optional
        Default: the best this process has.
    threads : int
        For an engine on a CPU.

    Raises
    ------
    UserError
        If there is no such engine or precision, OpenVINO is asked for and is not installed or there is a GPU
        to use, or int8 is asked for without it.
    """
    compute = compute or choose_compute()
    for option, value, known in (("engine", engine, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise UserError(f"--{option} {value}: there are {', '.join(known)}")
    on_cpu = compute.device.type == "cpu"
    if engine == "openvino" and not on_cpu:
        raise UserError("--engine openvino computes on CPUs: add --no-gpu, or leave the engine out")
    if engine == "openvino" and not openvino_available():
        raise UserError("--engine openvino: the package openvino is not installed; pip install openvino")
    if engine == "auto":
        engine = "openvino" if on_cpu and openvino_available() else "torch"
    if precision == "int8" and engine != "openvino":
        raise UserError("--precision int8 is for OpenVINO on CPUs: add --no-gpu, or leave the precision out")
    if precision == "auto":
        precision = "bfloat16" if compute.autocast_dtype is torch.bfloat16 else "float32"
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    return EngineChoice(engine, precision, replace(compute, autocast_dtype=dtype), threads)


def create_engine(
    graph: StageGraph, choice: EngineChoice, cache: Path | None = None, key: str = ""
) -> Engine:
    """A stage's graph, ready to run.

    Parameters
    ----------
    graph : StageGraph
    choice : EngineChoice
    cache : Path, optional
        Folder in which exported graphs are kept for the next start.
    key : str
        Of the graph in the cache: what its weights are.
    """
    size = choice.batch_size(graph)
    if choice.name == "openvino":
        return OpenVinoEngine(graph, size, choice.threads, choice.precision, cache, key)
    return TorchEngine(graph, choice.compute, size)
