"""Which of the precisions that a model was validated in is the fastest here: known only by trying."""

from __future__ import annotations

import time

import numpy as np

from hiwl_core.bundle import ModelBundle
from hiwl_core.cached_engine import cached_engine
from hiwl_core.device import ComputePlan, cpu_has_bfloat16
from hiwl_core.engines import Engine, choose_engine, openvino_available
from hiwl_core.seen_galaxies import stage_graph
from hiwl_core.taxonomy import FIRST_STAGE

__all__ = ["quickest_precision"]

SECONDS_OF_A_TRIAL = 0.25
ROUNDS = 4
# Less is noise, for which float32 is not given up.
LEAST_GAIN = 1.05


def quickest_precision(
    bundle: ModelBundle, compute: ComputePlan, threads: int
) -> tuple[str, dict[str, float]]:
    """The precision in which stage 1 sees most images a second.

    On a GPU that is bfloat16 where it has the instructions. On a CPU those are tried that the bundle was
    validated in, by turns, some three seconds in all.

    Parameters
    ----------
    bundle : ModelBundle
    compute : ComputePlan
    threads : int
        Of a CPU.

    Returns
    -------
    precision : str
    rates : dict of float
        Images/s of each that was tried; empty where there was no choice.
    """
    if compute.device.type != "cpu":
        return "float32" if compute.autocast_dtype is None else "bfloat16", {}
    worth_trying = {
        "float32": True,
        "bfloat16": openvino_available() and cpu_has_bfloat16(),
        "int8": openvino_available() and bool(bundle.fitted.quantized),
    }
    candidates = [name for name in bundle.fitted.precisions if worth_trying[name]]
    if len(candidates) < 2:
        return "float32", {}
    # Of the graph that they have in common the first exports it, and who classifies then has it too.
    engines = {
        name: cached_engine(
            bundle, FIRST_STAGE, choose_engine(precision=name, compute=compute, threads=threads)
        )
        for name in candidates
    }
    most = max(engine.batch_size for engine in engines.values())
    pixels = np.zeros((most, *stage_graph(bundle, FIRST_STAGE).pixel_shape), np.uint8)
    # By turns, so that what else the machine does falls on all alike; the first round warms up.
    rounds = [{name: _rate(engine, pixels) for name, engine in engines.items()} for _ in range(1 + ROUNDS)]
    rates = {name: float(np.median([taken[name] for taken in rounds[1:]])) for name in candidates}
    best = max(rates, key=rates.__getitem__)
    return best if rates[best] > LEAST_GAIN * rates["float32"] else "float32", rates


def _rate(engine: Engine, pixels: np.ndarray) -> float:
    """Images/s with as many batches under way as the engine takes."""
    batch, done = pixels[: engine.batch_size], 0
    started = time.perf_counter()
    while time.perf_counter() - started < SECONDS_OF_A_TRIAL:
        for pending in [engine.submit(batch) for _ in range(engine.in_flight)]:
            pending()
        done += engine.in_flight * engine.batch_size
    return done / (time.perf_counter() - started)
