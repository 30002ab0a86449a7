"""A stream of images through decoding and the stages, each of which is kept busy with full batches.

Threads decode some batches ahead of the engines. A stage looks once at each image, and again, from the other
sides, at those that it is not sure of; what it routes on goes to a later stage. Both are gathered over as
many batches as fill one. So an engine waits only where input does not come fast enough, and how many images
come at a time makes no difference.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from hiwl_core.cutouts import ReadCutout
from hiwl_core.decoding import Cutout
from hiwl_core.engines import StageAnswer
from hiwl_core.looks import Gathered, Looks, Settled, Stage
from hiwl_core.statuses import NOT_FINITE, OK
from hiwl_core.taxonomy import FIRST_STAGE

__all__ = ["CascadeStream", "DecodedBatch", "Image", "SeenBatch"]

Image = bytes | Cutout | ReadCutout | None
"""An encoded cutout, or what was read of one, or None where there is none."""

# Images after which what is gathered goes on in batches that are not full, so that no part of a catalog waits
# for the rows of many others, and no pixels stay in memory.
MOST_WAITING = 1024
# What a `SeenBatch` says of each row, beside what the stages do.
ARRAYS = ("flags", "views", "disagree", "scores", "features")


@dataclass(frozen=True)
class DecodedBatch:
    """Images that go through stage 1 together.

    Parameters
    ----------
    statuses : list of str, length n
    pixels : dict of numpy.ndarray of uint8, shape (batch_size, H, W, 3)
        What each stage sees, under its name, with n <= batch_size; one array where stages see the same. Rows
        that are not OK hold anything.
    flags : numpy.ndarray of int32, shape (n,)
        What the pixels show; see `hiwl_core.flags`.
    """

    statuses: list[str]
    pixels: dict[str, np.ndarray]
    flags: np.ndarray


class SeenBatch:
    """What the cascade says of the images of a batch; rows that are not OK hold anything.

    Parameters
    ----------
    statuses : list of str, length n
    flags : numpy.ndarray of int32, shape (n,)
    classes : mapping of int
        How many each stage tells apart.
    num_features : int
        That are kept of each image.

    Attributes
    ----------
    outputs : dict of numpy.ndarray of float32, shape (n, K)
        See `hiwl_core.cascade.StageOutputs`.
    views : numpy.ndarray of int8, shape (n,)
        Views of the stage that took most.
    disagree : numpy.ndarray of bool, shape (n,)
        Whether the views of a stage do not all say the same class.
    scores : numpy.ndarray of float32, shape (n,)
        How unlike the training galaxies an image is; see `hiwl_core.unlikeness`.
    features : numpy.ndarray of float32, shape (n, num_features)
        What stage 1 saw in it, in few numbers.
    """

    def __init__(
        self, statuses: list[str], flags: np.ndarray, classes: Mapping[str, int], num_features: int = 0
    ) -> None:
        rows = len(statuses)
        self.statuses, self.flags, self._classes = statuses, flags, classes
        self.outputs = {stage: np.full((rows, kinds), np.nan, np.float32) for stage, kinds in classes.items()}
        self.views = np.ones(rows, np.int8)
        self.disagree = np.zeros(rows, bool)
        self.scores = np.full(rows, np.nan, np.float32)
        self.features = np.full((rows, num_features), np.nan, np.float32)
        # Stages that have yet to say something of a row, over all rows.
        self.waiting = sum(status == OK for status in statuses)

    def part(self, start: int, stop: int) -> SeenBatch:
        """Some of the rows, when all are settled."""
        rows = slice(start, stop)
        return self._of(
            self.statuses[rows],
            {name: getattr(self, name)[rows] for name in ARRAYS},
            {stage: values[rows] for stage, values in self.outputs.items()},
        )

    def joined(self, others: Sequence[SeenBatch]) -> SeenBatch:
        """These rows and those of others, when all are settled."""
        parts = [self, *others]
        return self._of(
            [status for part in parts for status in part.statuses],
            {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS},
            {stage: np.concatenate([part.outputs[stage] for part in parts]) for stage in self.outputs},
        )

    def _of(
        self, statuses: list[str], arrays: Mapping[str, np.ndarray], outputs: dict[str, np.ndarray]
    ) -> SeenBatch:
        batch = SeenBatch(statuses, arrays["flags"], self._classes)
        batch.outputs = outputs
        for name, values in arrays.items():
            setattr(batch, name, values)
        return batch


@dataclass(frozen=True)
class _Row:
    """An image on its way: where its results go, and what later stages are to see of it."""

    seen: SeenBatch
    index: int
    pixels: Mapping[str, np.ndarray]


class CascadeStream:
    """One pass of images through all stages.

    Parameters
    ----------
    decode : callable
        From up to ``batch_size`` images of stage 1's engine to a `DecodedBatch`; called in threads.
    threads : ThreadPoolExecutor
    num_threads : int
        Of `threads`.
    stages : mapping of Stage
        By name, stage 1 first.
    send_on : callable
        From a stage and its probabilities, shape (n, K), to which rows each later stage is to see: a dict of
        bool arrays of shape (n,), under the names of those that may see any.
    classes : mapping of int
        How many each stage tells apart.
    score : callable, optional
        From stage 1's features of images, shape (n, F), and their pixels, shape (n, H, W, 3), to how unlike
        the training galaxies they are, shape (n,).
    describe : callable, optional
        From stage 1's features, shape (n, F), to what is kept of them, shape (n, num_features).
    num_features : int
    """

    def __init__(
        self,
        decode: Callable[[Sequence[Image]], DecodedBatch],
        threads: ThreadPoolExecutor,
        num_threads: int,
        stages: Mapping[str, Stage],
        send_on: Callable[[str, np.ndarray], Mapping[str, np.ndarray]],
        classes: Mapping[str, int],
        score: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
        describe: Callable[[np.ndarray], np.ndarray] | None = None,
        num_features: int = 0,
    ) -> None:
        self._decode, self._threads = decode, threads
        self._send_on, self._score, self._describe = send_on, score, describe
        self._classes, self._num_features = classes, num_features
        engine = stages[FIRST_STAGE].engine
        self._batch_size = engine.batch_size
        self._most_waiting = max(2 * engine.in_flight + 4, MOST_WAITING // self._batch_size)
        # While each thread decodes a batch, the engine has its fill of others, and the next is ready.
        self._ahead = num_threads + engine.in_flight + 1
        self._looks = {
            name: Looks(
                stage,
                partial(self._settle, name),
                *([self._note_first_look] if name == FIRST_STAGE else []),
            )
            for name, stage in stages.items()
        }
        self._sent_on = {
            name: Gathered(stage.engine.batch_size, self._looks[name].look)
            for name, stage in stages.items()
            if name != FIRST_STAGE
        }

    def run(self, images: Iterable[Image]) -> Iterator[SeenBatch]:
        """Batches of all images, in order; each as soon as all stages have seen it and those before."""
        order: deque[SeenBatch] = deque()
        try:
            for decoded in self._decoded(images):
                seen = SeenBatch(decoded.statuses, decoded.flags, self._classes, self._num_features)
                order.append(seen)
                rows = [
                    _Row(seen, index, decoded.pixels) if status == OK else None
                    for index, status in enumerate(decoded.statuses)
                ]
                self._looks[FIRST_STAGE].look(decoded.pixels[FIRST_STAGE], rows)
                if len(order) > self._most_waiting and order[0].waiting:
                    self._finish()
                while order and order[0].waiting == 0:
                    yield order.popleft()
            self._finish()
            yield from order
        finally:
            # Whatever broke off, the engines must not still read arrays that are gone.
            for looks in self._looks.values():
                looks.abandon()

    def _finish(self) -> None:
        """Settle all rows that are on their way."""
        # A stage comes after the one that sends it its rows.
        for name, looks in self._looks.items():
            if name in self._sent_on:
                self._sent_on[name].send()
            looks.finish()

    def _decoded(self, images: Iterable[Image]) -> Iterator[DecodedBatch]:
        under_way: deque[Future[DecodedBatch]] = deque()
        source = iter(images)
        while batch := list(islice(source, self._batch_size)):
            under_way.append(self._threads.submit(self._decode, batch))
            if len(under_way) > self._ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()

    def _note_first_look(self, rows: Sequence[_Row], answer: StageAnswer, pixels: np.ndarray) -> None:
        if self._score is not None:
            for row, score in zip(rows, self._score(answer.features, pixels), strict=True):
                row.seen.scores[row.index] = score
        if self._describe is not None:
            for row, kept in zip(rows, self._describe(answer.features), strict=True):
                row.seen.features[row.index] = kept

    def _settle(self, stage: str, rows: Sequence[_Row], found: Settled) -> None:
        self._note_views(rows, found)
        sound = self._note_sound(rows, found)
        for row, values in zip(rows, found.probabilities, strict=True):
            row.seen.outputs[stage][row.index] = values
        for later, wanted in self._send_on(stage, found.probabilities).items():
            for place in np.flatnonzero(wanted & sound).tolist():
                row = rows[place]
                row.seen.waiting += 1
                self._sent_on[later].add(row.pixels[later][row.index], row)
        for row in rows:
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
