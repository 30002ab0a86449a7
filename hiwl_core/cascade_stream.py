"""A stream of images through decoding, stage 1 and stage 2, each of which is kept busy with full batches.

Threads decode some batches ahead of the engines. What stage 1 routes on is gathered over as many of its
batches as fill one of stage 2. So an engine waits only where input does not come fast enough, and how many
images come at a time makes no difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from hiwl_core.decoding import Cutout
from hiwl_core.engines import Engine, Pending
from hiwl_core.statuses import OK

__all__ = ["CascadeStream", "DecodedBatch", "Image", "SeenBatch"]

Image = bytes | Cutout | None
"""An encoded cutout, or None where there is none."""

NOT_SEEN = -1


@dataclass(frozen=True)
class DecodedBatch:
    """Images that go through stage 1 together.

    Parameters
    ----------
    statuses : list of str, length n
    stage1, stage2 : numpy.ndarray of uint8, shape (batch_size, H, W, 3)
        What each stage sees, with n <= batch_size; one array where they see the same. Rows that are not OK
        hold anything.
    """

    statuses: list[str]
    stage1: np.ndarray
    stage2: np.ndarray


class SeenBatch:
    """What the cascade says of the images of a batch.

    Parameters
    ----------
    statuses : list of str, length n
    num_members : int

    Attributes
    ----------
    stage1 : numpy.ndarray of float32, shape (n, K)
        Rows that are not OK hold anything.
    stage2 : numpy.ndarray of float32, shape (n, num_members)
        NaN where stage 2 did not run.
    """

    def __init__(self, statuses: list[str], num_members: int) -> None:
        self.statuses = statuses
        self.stage1 = np.empty((0, 0), np.float32)
        self.stage2 = np.full((len(statuses), num_members), np.nan, np.float32)
        # Rows that stage 2 has yet to see.
        self.waiting = NOT_SEEN


class CascadeStream:
    """One pass of images through both stages.

    Parameters
    ----------
    decode : callable
        From up to ``stage1.batch_size`` images to a `DecodedBatch`; called in threads.
    threads : ThreadPoolExecutor
    num_threads : int
        Of `threads`.
    stage1, stage2 : Engine
    send_on : callable
        From stage 1's probabilities, shape (n, K), to which rows stage 2 is to see, bool of shape (n,).
    num_members : int
        Classes of stage 2.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[Image]], DecodedBatch],
        threads: ThreadPoolExecutor,
        num_threads: int,
        stage1: Engine,
        stage2: Engine,
        send_on: Callable[[np.ndarray], np.ndarray],
        num_members: int,
    ) -> None:
        self._decode, self._threads = decode, threads
        self._send_on, self._num_members = send_on, num_members
        self._batch_size = stage1.batch_size
        # While each thread decodes a batch, the engine has its fill of others, and the next is ready.
        self._ahead = num_threads + stage1.in_flight + 1
        self._stage1 = _Line(stage1, self._take_stage1)
        self._stage2 = _Line(stage2, self._take_stage2)
        self._gathered: list[tuple[SeenBatch, int]] = []
        self._gathered_pixels: np.ndarray | None = None
        self._gathered_most = stage2.batch_size

    def run(self, images: Iterable[Image]) -> Iterator[SeenBatch]:
        """Batches of all images, in order; each as soon as both stages have seen it and those before."""
        order: deque[SeenBatch] = deque()
        try:
            for decoded in self._decoded(images):
                seen = SeenBatch(decoded.statuses, self._num_members)
                order.append(seen)
                self._stage1.submit(decoded.stage1, (seen, decoded.stage2))
                while order and order[0].waiting == 0:
                    yield order.popleft()
            self._stage1.drain()
            self._send_gathered()
            self._stage2.drain()
            yield from order
        finally:
            # Whatever broke off, the engines must not still read arrays that are gone.
            self._stage1.abandon()
            self._stage2.abandon()

    def _decoded(self, images: Iterable[Image]) -> Iterator[DecodedBatch]:
        under_way: deque[Future[DecodedBatch]] = deque()
        source = iter(images)
        while batch := list(islice(source, self._batch_size)):
            under_way.append(self._threads.submit(self._decode, batch))
            if len(under_way) > self._ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

    def _take_stage1(self, note: tuple[SeenBatch, np.ndarray], probabilities: np.ndarray) -> None:
        seen, pixels = note
        ok = np.array([status == OK for status in seen.statuses], dtype=bool)
        seen.stage1 = probabilities[: len(ok)]
        rows = np.flatnonzero(ok & self._send_on(seen.stage1))
        seen.waiting = len(rows)
        for row in rows:
            if self._gathered_pixels is None:
                self._gathered_pixels = np.zeros((self._gathered_most, *pixels.shape[1:]), np.uint8)
            # A copy, lest one row keep its whole batch in memory.
            self._gathered_pixels[len(self._gathered)] = pixels[row]
            self._gathered.append((seen, int(row)))
            if len(self._gathered) == self._gathered_most:
                self._send_gathered()

    def _send_gathered(self) -> None:
        if self._gathered_pixels is not None:
            pixels, rows = self._gathered_pixels, self._gathered
            self._gathered_pixels, self._gathered = None, []
            self._stage2.submit(pixels, rows)

    def _take_stage2(self, rows: list[tuple[SeenBatch, int]], probabilities: np.ndarray) -> None:
        for (seen, row), values in zip(rows, probabilities, strict=False):
            seen.stage2[row] = values
            seen.waiting -= 1


class _Line:
    """Batches under way in an engine: first in, first out."""

    def __init__(self, engine: Engine, take: Callable[[Any, np.ndarray], None]) -> None:
        self._engine, self._take = engine, take
        self._under_way: deque[tuple[Any, np.ndarray, Pending]] = deque()

    def submit(self, pixels: np.ndarray, note: Any) -> None:
        """Hand a batch to the engine, once it has room; `take` gets the note with the probabilities."""
        if len(self._under_way) == self._engine.in_flight:
            self._take_one()
        # The pixels are kept, since the engine may read them until the result is there.
        self._under_way.append((note, pixels, self._engine.submit(pixels)))

    def drain(self) -> None:
        """Wait for all."""
        while self._under_way:
            self._take_one()

    def abandon(self) -> None:
        """Wait for all, and let the results go."""
        while self._under_way:
            self._under_way.popleft()[2]()

    def _take_one(self) -> None:
        note, _, pending = self._under_way.popleft()
        self._take(note, pending())
