"""What comes after training, on the cluster: a task that holds the model and looks at its galaxies."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
import torch

from hiwl_core.bundle import ModelBundle
from hiwl_core.device import granted_compute
from hiwl_core.finishing import UNLIKENESS_GALAXIES, Galaxies, finish
from pipeline.cores import usable_cores
from pipeline.progress import say
from pipeline.retry_policy import FINISH_RETRIES
from pipeline.training.cutout_store import CutoutStore

__all__ = ["finished"]

MOST_VALIDATION_GALAXIES = 100_000


def finished(
    bundle: ModelBundle,
    train: CutoutStore,
    val: CutoutStore,
    gpu: bool,
    relay: Any,
    precisions: tuple[str, ...] | None = None,
) -> ModelBundle:
    """A trained bundle with all that is fitted to it; see `hiwl_core.finishing.finish`.

    Parameters
    ----------
    bundle : ModelBundle
    train, val : CutoutStore
    gpu : bool
        Whether to compute on a GPU.
    relay : ActorHandle or None
        Takes the lines of progress of a worker; see `pipeline.relay`.
    precisions : tuple of str, optional
        As `hiwl_core.finishing.finish`; a recipe that asks for calibration alone wants none.
    """
    if precisions is None and bundle.provenance.get("recipe", {}).get("finish") == "calibration":
        precisions = ()

    def work(bundle: ModelBundle) -> ModelBundle:
        threads = usable_cores()
        torch.set_num_threads(threads)
        compute = granted_compute(gpu)
        return finish(
            bundle,
            _galaxies(train, UNLIKENESS_GALAXIES),
            # A validation part that does not fit into memory has more than enough of them.
            _galaxies(val, None if val.blocks else MOST_VALIDATION_GALAXIES),
            say if relay is None else lambda line: ray.get(relay.add.remote(line)),
            compute,
            threads,
            precisions,
        )

    if val.here:
        return work(bundle)
    task = ray.remote(work).options(num_cpus=1, num_gpus=int(gpu), name="finish", max_retries=FINISH_RETRIES)
    # The weights go by reference: a task's own definition is to be small.
    made: ModelBundle = ray.get(task.remote(ray.put(bundle)))
    return made


def _galaxies(store: CutoutStore, most: int | None) -> Galaxies:
    """The cutouts of a store, or a random sample of them."""
    rows = store.rows
    if most is not None:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:most])
    return Galaxies(store.images(rows), store.codes[rows].astype(np.int64))
