"""Galaxies in, classes out: a loaded cascade that takes encoded cutouts, in a notebook or in an actor."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from hiwl_core.bundle import ModelBundle
from hiwl_core.cascade import CascadePrediction, combine_stages, routed
from hiwl_core.cascade_stream import CascadeStream, DecodedBatch, Image, SeenBatch
from hiwl_core.cutouts import OK, EvalTransform, read_cutout
from hiwl_core.decoding import Scratch
from hiwl_core.engines import Engine, EngineChoice, StageGraph, choose_engine, create_engine

__all__ = ["CascadeClassifier", "default_cache"]


def default_cache() -> Path:
    """Where exported graphs are kept: ``$HIWL_CACHE``, else ``hiwl`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HIWL_CACHE") or Path(home) / "hiwl")


class CascadeClassifier:
    """A model bundle at work.

    Parameters
    ----------
    bundle : ModelBundle
    engine : EngineChoice, optional
        Default: the best this process has.
    threads : int
        Threads that decode; the decoders leave the interpreter free meanwhile.
    always_stage2 : bool
        Run stage 2 on every galaxy, not only on those routed to it.

    Raises
    ------
    UserError
        If stage 2 is to run on every galaxy and the model has none.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        engine: EngineChoice | None = None,
        threads: int = 2,
        always_stage2: bool = False,
    ) -> None:
        bundle.check_stage2(always_stage2)
        self._bundle, self._always, self._num_threads = bundle, always_stage2, threads
        self.engine = engine or choose_engine(threads=threads)
        self._stages: dict[str, Engine] = {name: self._compiled(name) for name in bundle.taxonomy.stages}
        # A flat model sends nothing on: its only stage stands where a second one would, and is never asked.
        self._last = bundle.taxonomy.stages[-1]
        # Stages that see the same pixels share them.
        different = list(dict.fromkeys(stage.preprocessing for stage in bundle.stages.values()))
        self._transforms = tuple(map(EvalTransform, different))
        self._view_of = {name: different.index(stage.preprocessing) for name, stage in bundle.stages.items()}
        # Each decoding thread resizes by itself: PyTorch's own threads would only get in each other's way.
        self._threads = ThreadPoolExecutor(threads, "decode", torch.set_num_threads, (1,))
        self._of_thread = threading.local()

    def classify(self, images: Sequence[Image]) -> tuple[list[str], CascadePrediction]:
        """Classify encoded cutouts.

        Parameters
        ----------
        images : sequence of bytes, Cutout or None, length N
            JPEG, PNG or FITS. A `Cutout` with a wanted scale is resampled to it.

        Returns
        -------
        statuses : list of str, length N
            ``"ok"``, or why a cutout could not be read; see `hiwl_core.cutouts.STATUSES`.
        prediction : CascadePrediction
            Of the n cutouts with status ``"ok"``, in order.
        """
        return next(self.classify_batches([images]))

    def classify_batches(
        self, batches: Iterable[Sequence[Image]]
    ) -> Iterator[tuple[list[str], CascadePrediction]]:
        """As `classify`, batch by batch; later ones are decoded while the engines see the earlier ones.

        The batches may be of any size: the engines get full batches of their own.
        """
        lengths: deque[int] = deque()

        def noted() -> Iterator[Sequence[Image]]:
            for batch in batches:
                lengths.append(len(batch))
                yield batch

        stream = CascadeStream(
            self._decode,
            self._threads,
            self._num_threads,
            self._stages["stage1"],
            self._stages[self._last],
            self._send_on,
            len(self._bundle.taxonomy.stage2_classes),
        )
        held = _Rows()
        for seen in stream.run(chain.from_iterable(noted())):
            held.add(seen)
            while lengths and len(held) >= lengths[0]:
                yield self._combined(*held.take(lengths.popleft()))
        # Empty batches at the end, and a stream without any image.
        while lengths:
            yield self._combined(*held.take(lengths.popleft()))

    def _compiled(self, stage: str) -> Engine:
        bundle, model = self._bundle, self._bundle.stages[stage]
        classes = len(bundle.taxonomy.stage_classes(stage))
        graph = StageGraph(lambda: model.network(classes), model.preprocessing, bundle.views)
        # A bundle that was never saved has no name to be found again by.
        cache = default_cache() if bundle.model_id else None
        return create_engine(graph, self.engine, cache, f"{bundle.model_id}-{stage}")

    def _send_on(self, stage1: np.ndarray) -> np.ndarray:
        if self._always:
            return np.ones(len(stage1), dtype=bool)
        return routed(stage1, self._bundle.taxonomy)

    def _decode(self, images: Sequence[Image]) -> DecodedBatch:
        size = self._stages["stage1"].batch_size
        if not hasattr(self._of_thread, "scratch"):
            self._of_thread.scratch = Scratch()
        sides = [transform.preprocessing.input_size for transform in self._transforms]
        pixels = [np.zeros((size, side, side, 3), np.uint8) for side in sides]
        statuses = []
        for row, image in enumerate(images):
            status, views = read_cutout(
                image,
                self._transforms,
                self._bundle.smallest_cutout,
                self._bundle.rgb,
                self._of_thread.scratch,
            )
            statuses.append(status)
            for array, view in zip(pixels, views or (), strict=False):
                array[row] = view
        return DecodedBatch(statuses, pixels[self._view_of["stage1"]], pixels[self._view_of[self._last]])

    def _combined(
        self, statuses: list[str], stage1: np.ndarray, stage2: np.ndarray
    ) -> tuple[list[str], CascadePrediction]:
        taxonomy = self._bundle.taxonomy
        ok = np.array([status == OK for status in statuses], dtype=bool)
        if not ok.any():
            stage1 = np.empty((len(statuses), len(taxonomy.stage1_classes)), np.float32)
            stage2 = np.empty((len(statuses), len(taxonomy.stage2_classes)), np.float32)
        return statuses, combine_stages(stage1[ok], stage2[ok], self._bundle.member_frequencies, taxonomy)


class _Rows:
    """Rows of seen batches, to be taken in other numbers than they came in."""

    def __init__(self) -> None:
        self._held: deque[SeenBatch] = deque()
        # Rows of the first batch that were taken already.
        self._taken = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, seen: SeenBatch) -> None:
        """Add a batch's rows."""
        self._held.append(seen)
        self._length += len(seen.statuses)

    def take(self, count: int) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Statuses and both stages' probabilities of the first rows."""
        statuses: list[str] = []
        stage1, stage2 = [], []
        self._length -= count
        while count:
            seen, start = self._held[0], self._taken
            stop = min(start + count, len(seen.statuses))
            statuses += seen.statuses[start:stop]
            stage1.append(seen.stage1[start:stop])
            stage2.append(seen.stage2[start:stop])
            count -= stop - start
            self._taken = stop
            if stop == len(seen.statuses):
                self._held.popleft()
                self._taken = 0
        nothing = np.empty((0, 0), np.float32)
        return statuses, np.concatenate(stage1 or [nothing]), np.concatenate(stage2 or [nothing])
