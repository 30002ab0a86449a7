"""A stage's graph in int8, by post-training quantization: half to a third of the time on CPUs that have VNNI.

Weights and activations are scaled to eight bits by what some hundred galaxies of the training part let them
be (Nagel et al. 2021, arXiv:2106.08295); NNCF, OpenVINO's own package, does it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hiwl_core.engines.graph import QuantizedGraph, StageGraph
from hiwl_core.engines.openvino_engine import exported_graph, openvino_package
from hiwl_core.errors import UserError, if_missing

__all__ = ["quantization_available", "quantize"]


def quantization_available() -> bool:
    """Whether the packages are installed."""
    try:
        _nncf()
    except UserError:
        return False
    return True


def quantize(graph: StageGraph, pixels: np.ndarray, batch_size: int) -> QuantizedGraph:
    """The graph in int8.

    The first convolution, whose inputs are pixels, and the head, whose outputs are the logits, stay in
    float32: they are a hundredth of the work and most of the error.

    Parameters
    ----------
    graph : StageGraph
    pixels : numpy.ndarray of uint8, shape (N, H, W, 3)
        Training galaxies as the stage sees them; some 300 are enough, and a batch is least.
    batch_size : int
        Images that go through at once; it is part of the graph.

    Raises
    ------
    UserError
        If NNCF or OpenVINO is not installed.
    """
    nncf, openvino = _nncf(), openvino_package()
    model = exported_graph(graph, batch_size)
    batches = [
        pixels[start : start + batch_size] for start in range(0, len(pixels) - batch_size + 1, batch_size)
    ]
    # Its bars of progress would stand among our lines.
    with contextlib.redirect_stdout(io.StringIO()):
        quantized = nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(batches),
            # The slower correction of biases runs the graph once a layer, and leaves fewer labels changed.
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope(names=_first_and_last(model)),
        )
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("graph.xml", "graph.bin")]
        openvino.serialize(quantized, *files)
        return QuantizedGraph(*(file.read_bytes() for file in files))


def _first_and_last(model: Any) -> list[str]:
    """Names of the first convolution and of the head's product."""
    kinds = ("Convolution", "GroupConvolution", "MatMul")
    names = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_type_name() in kinds]
    return [names[0], names[-1]]


def _nncf() -> Any:
    openvino_package()
    with if_missing("int8 graphs are made by the package nncf: pip install 'hiwl[int8]'"):
        import nncf
    nncf.set_log_level(logging.ERROR)
    return nncf
