"""PyTorch as an engine: eager on a CPU, compiled with CUDA graphs on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hiwl_core.device import ComputePlan
from hiwl_core.engines.engine import Pending, StageAnswer
from hiwl_core.engines.graph import StageGraph
from hiwl_core.views import turned

__all__ = ["TorchEngine"]


class TorchEngine:
    """A stage's graph in PyTorch, with copies to and from the device beside the computing.

    Parameters
    ----------
    graph : StageGraph
    compute : ComputePlan
    batch_size : int
    compiled : bool, optional
        Whether to compile the graph; default: on a GPU that can. There Inductor folds the batch
        normalization into the convolutions and records the kernels as CUDA graphs. On a CPU it takes a
        minute at each start, for less than OpenVINO gives.

    Attributes
    ----------
    pieces : int
        In which a batch is computed: one, until the device has no memory for it, then twice as many.
    """

    def __init__(
        self, graph: StageGraph, compute: ComputePlan, batch_size: int, compiled: bool | None = None
    ) -> None:
        self.batch_size, self.pieces = batch_size, 1
        self._compute = compute
        self._cuda = compute.device.type == "cuda"
        # On a CPU a batch is computed when it is submitted; on a GPU the next is copied meanwhile.
        self.in_flight = 2 if self._cuda else 1
        if self._cuda and compute.autocast_dtype is None:
            # Convolutions would round to TensorFloat-32, ten bits, by themselves; the footer says float32.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        # The same calls on either device: those of torch.cpu do nothing.
        self._streams: Any = torch.cuda if self._cuda else torch.cpu
        self._copies = self._streams.Stream()
        self._graph = graph.module().to(compute.device).to(memory_format=torch.channels_last)
        if compute.can_compile and self._cuda if compiled is None else compiled:
            options: dict[str, Any] = {"freezing": True, "triton.cudagraphs": self._cuda}
            self._graph = torch.compile(self._graph, dynamic=False, options=options)  # type: ignore[assignment]

    def submit(self, pixels: np.ndarray, symmetry: int = 0) -> Pending:
        """As `Engine.submit`.

        Raises
        ------
        torch.OutOfMemoryError
            If the device has no memory for a single image.
        """
        while True:
            try:
                pending = [self._submit(piece, symmetry) for piece in np.array_split(pixels, self.pieces)]
                break
            except torch.OutOfMemoryError:
                if self.pieces >= len(pixels):
                    raise
            # What is held of the batch is let go here, after the exception, and then by the device.
            pending = []
            self.pieces = min(2 * self.pieces, len(pixels))
            torch.cuda.empty_cache()

        def result() -> StageAnswer:
            parts = [piece() for piece in pending]
            return StageAnswer(*(np.concatenate(values) for values in zip(*parts, strict=True)))

        return pending[0] if len(pending) == 1 else result

    @torch.inference_mode()
    def _submit(self, pixels: np.ndarray, symmetry: int) -> Pending:
        batch = torch.from_numpy(pixels)
        computing = self._streams.current_stream()
        with self._streams.stream(self._copies):
            if self._cuda:
                # Only from pinned memory does a copy run beside the kernels.
                batch = batch.pin_memory().to(self._compute.device, non_blocking=True)
                batch.record_stream(computing)
        computing.wait_stream(self._copies)
        with self._compute.autocast():
            # Turned on the device, which is quick at it; the graph is compiled for one layout in memory.
            answer = self._graph(turned(batch, symmetry).contiguous())
        # Copies: the next replay of a CUDA graph writes to the same memory.
        hosts = [_host_copy(values.float().clone(), self._cuda) for values in answer]
        done = self._streams.Event()
        done.record()

        def result() -> StageAnswer:
            done.synchronize()
            return StageAnswer(*(host.numpy() for host in hosts))

        return result


def _host_copy(values: Tensor, pinned: bool) -> Tensor:
    """The values in the host's memory, once what was asked of the device is done."""
    host = torch.empty(values.shape, dtype=torch.float32, pin_memory=pinned)
    return host.copy_(values, non_blocking=True)
