"""Galaxies in, classes out: a loaded cascade that takes encoded cutouts, in a notebook or in an actor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

import numpy as np
import torch

from hiwl_core.bundle import ModelBundle
from hiwl_core.cached_engine import cached_engine
from hiwl_core.cascade import CascadePrediction, combine_stages, routed
from hiwl_core.cascade_stream import CascadeStream, DecodedBatch, Image, SeenBatch
from hiwl_core.class_prior import move_prior
from hiwl_core.conformal import DEFAULT_COVERAGE
from hiwl_core.cutout_reader import CutoutReader
from hiwl_core.decoding import Scratch
from hiwl_core.engines import EngineChoice, choose_engine
from hiwl_core.fitted import ADAPTIVE, Setting, Views
from hiwl_core.flags import PART_MISSING, SCALE_EXTRAPOLATED, UNLIKE, VIEWS_DISAGREE
from hiwl_core.looks import Stage
from hiwl_core.statuses import OK
from hiwl_core.taxonomy import FIRST_STAGE
from hiwl_core.unobserved import FLAGGED_UNOBSERVED_SHARE
from hiwl_core.views import MOST_VIEWS

__all__ = ["CascadeClassifier"]

# A cutout that is magnified by more shows less than the galaxies that the model was trained on.
MOST_MAGNIFIED = 1.5


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
        Run the later stages on every galaxy, not only on those routed to them.
    views : {1, 2, 4, 8, "adaptive"}, optional
        Views averaged; default: the bundle's.
    prior : sequence of float, length C, optional
        Class shares to which the calibrated probabilities are moved; default: those that they were fitted at.
    coverage : float
        Promised by the sets of classes, where the bundle can promise any.
    features : bool
        Keep what stage 1 saw in each galaxy: the principal components of its features.

    Raises
    ------
    UserError
        If stage 2 is to run on every galaxy and the model has none, or the bundle lacks the calibration that
        the views or the prior need, or the axes of its features; see `hiwl_core.bundle.ModelBundle.check`.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        engine: EngineChoice | None = None,
        threads: int = 2,
        always_stage2: bool = False,
        views: Views | None = None,
        prior: Sequence[float] | None = None,
        coverage: float = DEFAULT_COVERAGE,
        features: bool = False,
    ) -> None:
        bundle.check(always_stage2, views, prior is not None)
        self._bundle, self._always, self._num_threads = bundle, always_stage2, threads
        self.engine = engine or choose_engine(threads=threads)
        views = bundle.views if views is None else views
        self._validated = bundle.validated(Setting(views, self.engine.precision))
        self._prior, self._coverage = prior, coverage
        self._unlikeness = bundle.fitted.unlikeness
        self._described = self._unlikeness if features else None
        self._stages = {name: self._stage(name, views) for name in bundle.taxonomy.stages}
        self._classes = {name: len(bundle.taxonomy.stage_classes(name)) for name in self._stages}
        self.reader = CutoutReader.of(bundle)
        self._pixels_of = {
            name: self.reader.preprocessings.index(stage.preprocessing)
            for name, stage in bundle.stages.items()
        }
        # Each decoding thread resizes by itself: PyTorch's own threads would only get in each other's way.
        self._threads = ThreadPoolExecutor(threads, "decode", torch.set_num_threads, (1,))
        self._of_thread = threading.local()

    def classify(self, images: Sequence[Image]) -> tuple[list[str], CascadePrediction]:
        """Classify encoded cutouts.

        Parameters
        ----------
        images : sequence of bytes, Cutout, ReadCutout or None, length N
            JPEG, PNG or FITS. A `Cutout` with a wanted scale is resampled to it; what `reader` has read
            elsewhere is taken as it is.

        Returns
        -------
        statuses : list of str, length N
            ``"ok"``, or why a cutout could not be read; see `hiwl_core.statuses.STATUSES`.
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

        kept = 0 if self._described is None else self._described.num_components
        stream = CascadeStream(
            self._decode,
            self._threads,
            self._num_threads,
            self._stages,
            self._send_on,
            self._classes,
            None if self._unlikeness is None else self._unlikeness.score,
            None if self._described is None else self._described.components,
            kept,
        )
        held = _Rows(SeenBatch([], np.empty(0, np.int32), self._classes, kept))
        for seen in stream.run(chain.from_iterable(noted())):
            held.add(seen)
            while lengths and len(held) >= lengths[0]:
                yield self._combined(held.take(lengths.popleft()))
        # Empty batches at the end, and a stream without any image.
        while lengths:
            yield self._combined(held.take(lengths.popleft()))

    def _stage(self, name: str, views: Views) -> Stage:
        bundle = self._bundle
        engine = cached_engine(bundle, name, self.engine)
        if views == ADAPTIVE:
            return Stage(engine, MOST_VIEWS, bundle.fitted.margins[name])
        return Stage(engine, int(views))

    def _send_on(self, stage: str, probabilities: np.ndarray) -> dict[str, np.ndarray]:
        taxonomy = self._bundle.taxonomy
        if self._always:
            everyone = np.ones(len(probabilities), dtype=bool)
            return dict.fromkeys(taxonomy.later_stages if stage == FIRST_STAGE else (), everyone)
        return {later: routed(probabilities, taxonomy, later) for later in taxonomy.sent_from(stage)}

    def _decode(self, images: Sequence[Image]) -> DecodedBatch:
        size = self._stages[FIRST_STAGE].engine.batch_size
        if not hasattr(self._of_thread, "scratch"):
            self._of_thread.scratch = Scratch()
        pixels = [np.zeros((size, side, side, 3), np.uint8) for side in self.reader.sides]
        statuses, flags = [], np.zeros(len(images), np.int32)
        first = self._pixels_of[FIRST_STAGE]
        for row, image in enumerate(images):
            read = self.reader.read(image, self._of_thread.scratch)
            statuses.append(read.status)
            if read.status != OK:
                continue
            for array, seen in zip(pixels, read.pixels, strict=True):
                array[row] = seen
            if self._unlikeness is not None:
                flags[row] = self._unlikeness.pixel_flags(read.pixels[first])
            if read.unobserved >= FLAGGED_UNOBSERVED_SHARE:
                flags[row] |= PART_MISSING
            if read.zoom * MOST_MAGNIFIED < 1:
                flags[row] |= SCALE_EXTRAPOLATED
        return DecodedBatch(statuses, {name: pixels[at] for name, at in self._pixels_of.items()}, flags)

    def _combined(self, seen: SeenBatch) -> tuple[list[str], CascadePrediction]:
        """What is said of a batch's images, calibrated where the bundle is."""
        taxonomy, validated = self._bundle.taxonomy, self._validated
        ok = np.array([status == OK for status in seen.statuses], dtype=bool)
        prediction = combine_stages(
            {name: values[ok] for name, values in seen.outputs.items()},
            self._bundle.member_frequencies,
            taxonomy,
            None if validated is None else validated.calibration.apply,
        )
        sets = None
        if validated is not None:
            # By the probabilities as they were fitted: the promise is one for each class, whatever the mix.
            sets = validated.conformal.sets(prediction.probabilities, self._coverage)
        probabilities = prediction.probabilities
        if self._prior is not None:
            moved = move_prior(probabilities, np.array(self._bundle.fitted.prior), np.array(self._prior))
            probabilities = moved.astype(np.float32)
        scores, flags = seen.scores[ok], seen.flags[ok] | seen.disagree[ok] * np.int32(VIEWS_DISAGREE)
        if self._unlikeness is not None:
            flags = flags | (scores > self._unlikeness.threshold) * np.int32(UNLIKE)
        return seen.statuses, replace(
            prediction,
            probabilities=probabilities,
            sets=sets,
            views=seen.views[ok],
            ood_scores=None if self._unlikeness is None else scores,
            flags=flags,
            features=None if self._described is None else seen.features[ok],
        )


class _Rows:
    """Rows of seen batches, to be taken in other numbers than they came in."""

    def __init__(self, nothing: SeenBatch) -> None:
        self._nothing = nothing
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

    def take(self, count: int) -> SeenBatch:
        """The first rows, as one batch."""
        parts = [self._nothing]
        self._length -= count
        while count:
            seen, start = self._held[0], self._taken
            stop = min(start + count, len(seen.statuses))
            parts.append(seen.part(start, stop))
            count -= stop - start
            self._taken = stop
            if stop == len(seen.statuses):
                self._held.popleft()
                self._taken = 0
        return parts[0].joined(parts[1:])
