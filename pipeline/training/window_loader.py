"""An actor that reads the windows of a large training set, one ahead, for all workers of a training.

The workers go through an epoch in step, so each window is read once, not once a worker. What a window is,
they know by themselves: the actor keeps nothing that it could not read again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import ray

from pipeline.cluster import beside_driver
from pipeline.retry_policy import LOADER_RESTARTS
from pipeline.training.cutout_blocks import CutoutBlocks, LabeledSource, read_blocks

__all__ = ["start_loader"]

# The one that is drawn from and the next; a worker that is a little behind holds its own.
WINDOWS_HELD = 2
# Workers may all wait at once.
MAX_CALLS = 1000


class _WindowLoader:
    def __init__(self, source: LabeledSource, wanted: np.ndarray) -> None:
        self._source, self._wanted = source, wanted
        self._held: OrderedDict[tuple[int, ...], Future[CutoutBlocks]] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(WINDOWS_HELD, thread_name_prefix="window")

    def load(self, shards: tuple[int, ...], following: tuple[int, ...] | None) -> CutoutBlocks:
        """The images of a window, once they are read; those of the next one are begun."""
        with self._lock:
            blocks = self._begin(shards)
            if following is not None:
                self._begin(following)
        try:
            return blocks.result()
        except Exception:
            # It may be readable the next time.
            with self._lock:
                self._held.pop(shards, None)
            raise

    def _begin(self, shards: tuple[int, ...]) -> Future[CutoutBlocks]:
        if shards not in self._held:
            self._held[shards] = self._threads.submit(
                read_blocks, self._source, np.array(shards), self._wanted
            )
        self._held.move_to_end(shards)
        while len(self._held) > WINDOWS_HELD:
            self._held.popitem(last=False)
        return self._held[shards]


def start_loader(source: LabeledSource, wanted: np.ndarray) -> Any:
    """The actor, beside the driver; it ends with its last handle.

    Parameters
    ----------
    source, wanted
        See `pipeline.training.cutout_blocks.read_blocks`.
    """
    return (
        ray.remote(_WindowLoader)
        .options(
            num_cpus=0,
            scheduling_strategy=beside_driver(),
            max_concurrency=MAX_CALLS,
            max_restarts=LOADER_RESTARTS,
            max_task_retries=LOADER_RESTARTS,
        )
        .remote(source, wanted)
    )
