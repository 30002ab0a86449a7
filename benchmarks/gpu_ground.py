"""What the sections of `benchmarks/gpu_acceptance.py` stand on, and how their checks are judged."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hiwl_core.backbones import spec
from hiwl_core.cutouts import Preprocessing
from hiwl_core.device import ComputePlan
from tests.bundles import random_bundle

__all__ = ["ROOT", "THREADS", "Ground", "Note", "goal", "rates", "verdict"]

ROOT = Path(__file__).resolve().parents[1]
# Not by `pipeline.cluster`: it needs Ray.
THREADS = len(os.sched_getaffinity(0))
ROUNDS = 5
CROP = 240

Note = Callable[[str, str, str], None]
"""Takes a check's name, its verdict and its figures."""


@dataclass
class Ground:
    """What the sections stand on.

    Parameters
    ----------
    compute : ComputePlan or None
        None if the GPU cannot be used.
    backbone : str
    size : int
        Input size of both stages, pixels.
    galaxies : list of tuple
        Class and JPEG of each.
    folder : Path
        For bundles, shards and runs.
    """

    compute: ComputePlan | None
    backbone: str
    size: int
    galaxies: list[tuple[str, bytes]]
    folder: Path

    @property
    def images(self) -> list[bytes]:
        """The galaxies' JPEGs."""
        return [image for _, image in self.galaxies]

    @cached_property
    def bundle(self) -> str:
        """Folder of a bundle with random heads that sends a sixth of the galaxies on to stage 2."""
        seen = self.images[:100]
        return random_bundle(self.folder / "bundle", 0, CROP, self.size, self.backbone, seen, routed=1 / 6)

    @property
    def preprocessing(self) -> Preprocessing:
        """Of the backbone."""
        entry = spec(self.backbone)
        return Preprocessing(CROP, self.size, entry.mean, entry.std)

    @property
    def on_gpu(self) -> bool:
        """Whether there are goals to be reached."""
        return self.compute is not None and self.compute.device.type == "cuda"

    def wait(self) -> None:
        """Until the device has done all that it was asked."""
        if self.on_gpu:
            torch.cuda.synchronize()


def verdict(passed: bool) -> str:
    """A check's, for the report."""
    return "PASS" if passed else "FAIL"


def goal(ground: Ground, reached: float, wanted: float) -> str:
    """A speed's; on a CPU, which is shared with what feeds it, there is no goal."""
    return verdict(reached >= wanted) if ground.on_gpu else "INFO"


def rates(ground: Ground, subjects: dict[str, tuple[Callable[[], Any], int]]) -> dict[str, float]:
    """Images/s of each subject, a call and its images, by turns; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(1 + ROUNDS):
        for name, (call, _) in subjects.items():
            ground.wait()
            started = time.perf_counter()
            call()
            ground.wait()
            taken[name].append(time.perf_counter() - started)
    return {name: images / statistics.median(taken[name][1:]) for name, (_, images) in subjects.items()}
