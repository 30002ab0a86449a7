"""How a stage looks at images: once, and from the other sides at those that one look leaves in doubt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hiwl_core.engines import Engine, Pending, StageAnswer
from hiwl_core.views import mean_over_views, symmetries

__all__ = ["Gathered", "Looks", "Settled", "Stage"]


@dataclass(frozen=True)
class Stage:
    """A stage's engine, and how it looks at an image.

    Parameters
    ----------
    engine : Engine
    views : int
        See `hiwl_core.views.symmetries`.
    margin : float
        Only images whose two largest probabilities differ by less after one view are seen in the others;
        2 or more: all are.
    """

    engine: Engine
    views: int = 1
    margin: float = 2.0

    @property
    def others(self) -> tuple[int, ...]:
        """The symmetries of the further views."""
        return symmetries(self.views)[1:]

    def unsure(self, probabilities: np.ndarray) -> np.ndarray:
        """Which images are to be seen again, bool of shape (n,), by the probabilities of shape (n, K)."""
        if not self.others:
            return np.zeros(len(probabilities), dtype=bool)
        largest = np.partition(probabilities, -2, axis=1)[:, -2:]
        return largest[:, 1] - largest[:, 0] < self.margin


class Settled(NamedTuple):
    """What a stage says of n images that it has seen often enough.

    Parameters
    ----------
    probabilities : numpy.ndarray of float32, shape (n, K)
    views : int
        Over which they are averaged.
    disagree : numpy.ndarray of bool, shape (n,)
        Whether the views do not all say the same class.
    """

    probabilities: np.ndarray
    views: int
    disagree: np.ndarray


class Looks:
    """A stage at work: a first look at each image, further ones at those that it is not sure of.

    Parameters
    ----------
    stage : Stage
    settle : callable
        Takes rows and what the stage says of them, when it has seen enough of them.
    note : callable, optional
        Takes rows, the stage's answer at the first look, and the pixels of which it is.
    """

    def __init__(
        self,
        stage: Stage,
        settle: Callable[[Sequence[Any], Settled], None],
        note: Callable[[Sequence[Any], StageAnswer, np.ndarray], None] | None = None,
    ) -> None:
        self._stage, self._settle, self._note = stage, settle, note
        self._line = _Line(stage.engine)
        self._again = Gathered(stage.engine.batch_size, self._look_again)

    def look(self, pixels: np.ndarray, rows: Sequence[Any]) -> None:
        """See a batch for the first time.

        Parameters
        ----------
        pixels : numpy.ndarray of uint8, shape (batch_size, H, W, 3)
        rows : sequence, length n
            Who the images are, with n <= batch_size; None for what is not an image.
        """

        def take(answer: StageAnswer) -> None:
            there = [index for index, row in enumerate(rows) if row is not None]
            found = [row for row in rows if row is not None]
            answer = StageAnswer(*(values[there] for values in answer))
            if self._note is not None and found:
                self._note(found, answer, pixels[there])
            unsure = self._stage.unsure(answer.probabilities)
            settled = np.flatnonzero(~unsure)
            if settled.size:
                sure = answer.probabilities[settled]
                self._settle([found[index] for index in settled], Settled(sure, 1, np.zeros(len(sure), bool)))
            for index in np.flatnonzero(unsure):
                self._again.add(pixels[there[index]], (found[index], answer.probabilities[index]))

        self._line.submit(pixels, 0, take)

    def _look_again(self, pixels: np.ndarray, notes: Sequence[tuple[Any, np.ndarray]]) -> None:
        rows = [row for row, _ in notes]
        views = [np.stack([first for _, first in notes])]

        def take(answer: StageAnswer) -> None:
            views.append(answer.probabilities[: len(rows)])
            if len(views) > len(self._stage.others):
                seen = np.stack(views)
                said = seen.argmax(axis=2)
                disagree = (said != said[0]).any(axis=0)
                self._settle(rows, Settled(mean_over_views(seen), self._stage.views, disagree))

        for symmetry in self._stage.others:
            self._line.submit(pixels, symmetry, take)

    def finish(self) -> None:
        """Settle all rows."""
        self._line.drain()
        self._again.send()
        self._line.drain()

    def abandon(self) -> None:
        """Wait for the engine, and let the results go."""
        self._line.abandon()


class Gathered:
    """Single images, gathered until they are a batch."""

    def __init__(self, batch_size: int, full: Callable[[np.ndarray, Sequence[Any]], None]) -> None:
        self._batch_size, self._full = batch_size, full
        self._pixels: np.ndarray | None = None
        self._notes: list[Any] = []

    def add(self, pixels: np.ndarray, note: Any) -> None:
        """Add an image; a full batch is handed on."""
        if self._pixels is None:
            self._pixels = np.zeros((self._batch_size, *pixels.shape), np.uint8)
        # A copy, lest one row keep its whole batch in memory.
        self._pixels[len(self._notes)] = pixels
        self._notes.append(note)
        if len(self._notes) == self._batch_size:
            self.send()

    def send(self) -> None:
        """Hand on what there is, full or not."""
        if self._pixels is not None:
            pixels, notes = self._pixels, self._notes
            self._pixels, self._notes = None, []
            self._full(pixels, notes)


class _Line:
    """Batches under way in an engine: first in, first out."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._under_way: deque[tuple[Callable[[StageAnswer], None], np.ndarray, Pending]] = deque()

    def submit(self, pixels: np.ndarray, symmetry: int, take: Callable[[StageAnswer], None]) -> None:
        """Hand a batch to the engine, once it has room; `take` gets the answer."""
        while len(self._under_way) >= self._engine.in_flight:
            self._take_one()
        # The pixels are kept, since the engine may read them until the result is there.
        self._under_way.append((take, pixels, self._engine.submit(pixels, symmetry)))

    def drain(self) -> None:
        """Wait for all, and for what they lead to."""
        while self._under_way:
            self._take_one()

    def abandon(self) -> None:
        """Wait for all, and let the results go."""
        while self._under_way:
            self._under_way.popleft()[2]()

    def _take_one(self) -> None:
        take, _, pending = self._under_way.popleft()
        take(pending())
