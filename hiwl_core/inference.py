"""Galaxies in, classes out: a loaded cascade that takes encoded cutouts, in a notebook or in an actor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from hiwl_core.bundle import ModelBundle
from hiwl_core.cascade import CascadePrediction, average_views, run_cascade
from hiwl_core.cutouts import OK, Cutout, EvalTransform, Preprocessing, normalize, read_cutout
from hiwl_core.device import ComputePlan, choose_compute

__all__ = ["CascadeClassifier", "StageNetwork"]


class StageNetwork:
    """A trained network that answers with probabilities.

    Parameters
    ----------
    network : Module
        From images to logits.
    preprocessing : Preprocessing
    views : int
        Flips and quarter turns to average; see `average_views`.
    compute : ComputePlan
    batch_size : int
        Images that go through the network at once.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        views: int,
        compute: ComputePlan,
        batch_size: int = 64,
    ) -> None:
        self._network = network.eval().to(compute.device).to(memory_format=torch.channels_last)
        self._preprocessing, self._views = preprocessing, views
        self._compute, self._batch_size = compute, batch_size

    @torch.inference_mode()
    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Class probabilities.

        Parameters
        ----------
        pixels : numpy.ndarray of uint8, shape (N, H, W, 3)
            From the stage's eval transform.

        Returns
        -------
        numpy.ndarray of float32, shape (N, K)
        """
        parts = []
        for start in range(0, len(pixels), self._batch_size):
            batch = torch.from_numpy(pixels[start : start + self._batch_size]).to(self._compute.device)
            parts.append(average_views(self._logits, batch, self._views).cpu().numpy())
        return np.concatenate(parts)

    def _logits(self, pixels: torch.Tensor) -> torch.Tensor:
        with self._compute.autocast():
            logits: torch.Tensor = self._network(
                normalize(pixels, self._preprocessing.mean, self._preprocessing.std)
            )
        return logits


class CascadeClassifier:
    """A model bundle at work.

    Parameters
    ----------
    bundle : ModelBundle
    compute : ComputePlan, optional
        Default: the best this process has.
    threads : int
        Threads that decode; Pillow leaves the interpreter free while it does.
    always_stage2 : bool
        Run stage 2 on every galaxy, not only on those routed to it.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        compute: ComputePlan | None = None,
        threads: int = 2,
        always_stage2: bool = False,
    ) -> None:
        self._bundle, self._always = bundle, always_stage2
        compute = compute or choose_compute()
        self._stages = {
            name: StageNetwork(
                stage.network(len(bundle.taxonomy.stage_classes(name))),
                stage.preprocessing,
                bundle.views,
                compute,
            )
            for name, stage in bundle.stages.items()
        }
        # Stages that see the same pixels share them.
        different = list(dict.fromkeys(stage.preprocessing for stage in bundle.stages.values()))
        self._transforms = tuple(map(EvalTransform, different))
        self._view_of = {name: different.index(stage.preprocessing) for name, stage in bundle.stages.items()}
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def classify(self, images: Sequence[bytes | Cutout | None]) -> tuple[list[str], CascadePrediction]:
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
        self, batches: Iterable[Sequence[bytes | Cutout | None]]
    ) -> Iterator[tuple[list[str], CascadePrediction]]:
        """As `classify`, batch by batch; the next batch is decoded while the networks see this one."""
        decoded = (list(map(self._submit, batch)) for batch in batches)
        for reads, _ in pairwise(_with_end(decoded)):
            results = [read.result() for read in reads]
            yield (
                [status for status, _ in results],
                self._predict([pixels for status, pixels in results if status == OK]),
            )

    def _submit(self, image: bytes | Cutout | None):  # type: ignore[no-untyped-def]
        smallest, rgb = self._bundle.smallest_cutout, self._bundle.rgb
        return self._threads.submit(read_cutout, image, self._transforms, smallest, rgb)

    def _predict(self, pixels: list[tuple[np.ndarray, ...]]) -> CascadePrediction:
        taxonomy = self._bundle.taxonomy

        def probabilities(stage: str, rows: np.ndarray) -> np.ndarray:
            if not rows.size:
                return np.empty((0, len(taxonomy.stage_classes(stage))), dtype=np.float32)
            view = self._view_of[stage]
            return self._stages[stage].probabilities(np.stack([pixels[row][view] for row in rows]))

        return run_cascade(
            lambda rows: probabilities("stage1", rows),
            lambda rows: probabilities("stage2", rows),
            len(pixels),
            self._bundle.member_frequencies,
            taxonomy,
            self._always,
        )


def _with_end(batches):  # type: ignore[no-untyped-def]
    """The batches and a last None: `pairwise` then begins to decode a batch before it hands on the last."""
    yield from batches
    yield None
