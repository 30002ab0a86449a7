"""A stream of images through decoding, stage 1 and stage 2, each of which is kept busy with full batches.

Threads decode some batches ahead of the engines. A stage looks once at each image, and again, from the other
sides, at those that it is not sure of; what stage 1 routes on goes to stage 2. Both are gathered over as many
batches as fill one. So an engine waits only where input does not come fast enough, and how many images come
at a time makes no difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from hiwl_core.cutouts import ReadCutout
from hiwl_core.decoding import Cutout
from hiwl_core.engines import Answer
from hiwl_core.looks import Gathered, Looks, Settled, Stage
from hiwl_core.statuses import NOT_FINITE, OK

__all__ = ["CascadeStream", "DecodedBatch", "Image", "SeenBatch"]

Image = bytes | Cutout | ReadCutout | None
"""An encoded cutout, or what was read of one, or None where there is none."""

# Images after which what is gathered goes on in batches that are not full, so that no part of a catalog waits
# for the rows of many others, and no pixels stay in memory.
MOST_WAITING = 1024
# What a `SeenBatch` says of each row.
ARRAYS = ("stage1", "stage2", "views", "disagree", "scores", "flags")


@dataclass(frozen=True)
class DecodedBatch:
    """Images that go through stage 1 together.

    Parameters
    ----------
    statuses : list of str, length n
    stage1, stage2 : numpy.ndarray of uint8, shape (batch_size, H, W, 3)
        What each stage sees, with n <= batch_size; one array where they see the same. Rows that are not OK
        hold anything.
    flags : numpy.ndarray of int32, shape (n,)
        What the pixels show; see `hiwl_core.flags`.
    """

    statuses: list[str]
    stage1: np.ndarray
    stage2: np.ndarray
    flags: np.ndarray


class SeenBatch:
    """What the cascade says of the images of a batch; rows that are not OK hold anything.

    Parameters
    ----------
    statuses : list of str, length n
    flags : numpy.ndarray of int32, shape (n,)
    num_classes, num_members : int
        Classes of stage 1 and of stage 2.

    Attributes
    ----------
    stage1 : numpy.ndarray of float32, shape (n, num_classes)
    stage2 : numpy.ndarray of float32, shape (n, num_members)
        NaN where stage 2 did not run.
    views : numpy.ndarray of int8, shape (n,)
        Views of the stage that took most.
    disagree : numpy.ndarray of bool, shape (n,)
        Whether the views of a stage do not all say the same class.
    scores : numpy.ndarray of float32, shape (n,)
        How unlike the training galaxies an image is; see `hiwl_core.unlikeness`.
    """

    def __init__(self, statuses: list[str], flags: np.ndarray, num_classes: int, num_members: int) -> None:
        rows = len(statuses)
        self.statuses, self.flags = statuses, flags
        self.stage1 = np.full((rows, num_classes), np.nan, np.float32)
        self.stage2 = np.full((rows, num_members), np.nan, np.float32)
        self.views = np.ones(rows, np.int8)
        self.disagree = np.zeros(rows, bool)
        self.scores = np.full(rows, np.nan, np.float32)
        # Rows that are not settled.
        self.waiting = sum(status == OK for status in statuses)

    def part(self, start: int, stop: int) -> SeenBatch:
        """Some of the rows, when all are settled."""
        return self._of(self.statuses[start:stop], [getattr(self, name)[start:stop] for name in ARRAYS])

    def joined(self, others: Sequence[SeenBatch]) -> SeenBatch:
        """These rows and those of others, when all are settled."""
        parts = [self, *others]
        statuses = [status for part in parts for status in part.statuses]
        return self._of(
            statuses, [np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS]
        )

    @staticmethod
    def _of(statuses: list[str], arrays: Sequence[np.ndarray]) -> SeenBatch:
        of_them = dict(zip(ARRAYS, arrays, strict=True))
        batch = SeenBatch(statuses, of_them["flags"], of_them["stage1"].shape[1], of_them["stage2"].shape[1])
        for name, values in of_them.items():
            setattr(batch, name, values)
        return batch


@dataclass(frozen=True)
class _Row:
    """An image on its way: where its results go, and what stage 2 is to see of it."""

    seen: SeenBatch
    index: int
    stage2_pixels: np.ndarray


class CascadeStream:
    """One pass of images through both stages.

    Parameters
    ----------
    decode : callable
        From up to ``stage1.engine.batch_size`` images to a `DecodedBatch`; called in threads.
    threads : ThreadPoolExecutor
    num_threads : int
        Of `threads`.
    stage1, stage2 : Stage
    send_on : callable
        From stage 1's probabilities, shape (n, K), to which rows stage 2 is to see, bool of shape (n,).
    num_classes, num_members : int
        Classes of stage 1 and of stage 2.
    score : callable, optional
        From stage 1's features of images, shape (n, F), and their pixels, shape (n, H, W, 3), to how unlike
        the training galaxies they are, shape (n,).
    """

    def __init__(
        self,
        decode: Callable[[Sequence[Image]], DecodedBatch],
        threads: ThreadPoolExecutor,
        num_threads: int,
        stage1: Stage,
        stage2: Stage,
        send_on: Callable[[np.ndarray], np.ndarray],
        num_classes: int,
        num_members: int,
        score: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self._decode, self._threads = decode, threads
        self._send_on, self._score = send_on, score
        self._num_classes, self._num_members = num_classes, num_members
        self._batch_size = stage1.engine.batch_size
        self._most_waiting = max(2 * stage1.engine.in_flight + 4, MOST_WAITING // self._batch_size)
        # While each thread decodes a batch, the engine has its fill of others, and the next is ready.
        self._ahead = num_threads + stage1.engine.in_flight + 1
        self._stage1 = Looks(stage1, self._settle_stage1, self._note_first_look)
        self._stage2 = Looks(stage2, self._settle_stage2)
        self._sent_on = Gathered(stage2.engine.batch_size, self._stage2.look)

    def run(self, images: Iterable[Image]) -> Iterator[SeenBatch]:
        """Batches of all images, in order; each as soon as both stages have seen it and those before."""
        order: deque[SeenBatch] = deque()
        try:
            for decoded in self._decoded(images):
                seen = SeenBatch(decoded.statuses, decoded.flags, self._num_classes, self._num_members)
                order.append(seen)
                rows = [
                    _Row(seen, index, decoded.stage2[index]) if status == OK else None
                    for index, status in enumerate(decoded.statuses)
                ]
                self._stage1.look(decoded.stage1, rows)
                if len(order) > self._most_waiting and order[0].waiting:
                    self._finish()
                while order and order[0].waiting == 0:
                    yield order.popleft()
            self._finish()
            yield from order
        finally:
            # Whatever broke off, the engines must not still read arrays that are gone.
            self._stage1.abandon()
            self._stage2.abandon()

    def _finish(self) -> None:
        """Settle all rows that are on their way."""
        self._stage1.finish()
        self._sent_on.send()
        self._stage2.finish()

    def _decoded(self, images: Iterable[Image]) -> Iterator[DecodedBatch]:
        under_way: deque[Future[DecodedBatch]] = deque()
        source = iter(images)
        while batch := list(islice(source, self._batch_size)):
            under_way.append(self._threads.submit(self._decode, batch))
            if len(under_way) > self._ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

    def _note_first_look(self, rows: Sequence[_Row], answer: Answer, pixels: np.ndarray) -> None:
        if self._score is not None:
            for row, score in zip(rows, self._score(answer.features, pixels), strict=True):
                row.seen.scores[row.index] = score

    def _settle_stage1(self, rows: Sequence[_Row], found: Settled) -> None:
        self._note_views(rows, found)
        sound = self._note_sound(rows, found)
        sent_on = self._send_on(found.probabilities) & sound
        for row, values, goes_on in zip(rows, found.probabilities, sent_on, strict=True):
            row.seen.stage1[row.index] = values
            if goes_on:
                self._sent_on.add(row.stage2_pixels, row)
            else:
                row.seen.waiting -= 1

    def _settle_stage2(self, rows: Sequence[_Row], found: Settled) -> None:
        self._note_views(rows, found)
        self._note_sound(rows, found)
        for row, values in zip(rows, found.probabilities, strict=True):
            row.seen.stage2[row.index] = values
            row.seen.waiting -= 1

    @staticmethod
    def _note_sound(rows: Sequence[_Row], found: Settled) -> np.ndarray:
        """Which rows have an answer that can be used; the others are not OK any more."""
        sound = np.isfinite(found.probabilities).all(axis=1)
        for row, is_sound in zip(rows, sound, strict=True):
            if not is_sound:
                row.seen.statuses[row.index] = NOT_FINITE
        return sound

    @staticmethod
    def _note_views(rows: Sequence[_Row], found: Settled) -> None:
        for row, disagree in zip(rows, found.disagree, strict=True):
            row.seen.views[row.index] = max(found.views, row.seen.views[row.index])
            row.seen.disagree[row.index] |= disagree
