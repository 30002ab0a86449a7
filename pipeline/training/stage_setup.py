"""How many workers train the stages of a run, and on what."""

from __future__ import annotations

from dataclasses import dataclass

from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe
from pipeline.cluster import ClusterResources
from pipeline.progress import say
from pipeline.training.checks import check_workers, default_workers
from pipeline.training.feed import FEED_CPUS

__all__ = ["StageSetup", "stage_setup"]


@dataclass(frozen=True)
class StageSetup:
    """How many workers train, and on what."""

    workers: int
    gpu: bool

    @property
    def resources(self) -> dict[str, float]:
        """What each takes, by Ray's names."""
        return {"CPU": 1.0, **({"GPU": 1.0} if self.gpu else {})}


def stage_setup(
    recipe: Recipe, counts: dict[str, int], cluster: ClusterResources, workers: int | None, gpu: bool | None
) -> StageSetup:
    """How many workers train a recipe, and whether on GPUs.

    Parameters
    ----------
    recipe : Recipe
    counts : dict of int
        Training galaxies of each class.
    cluster : ClusterResources
    workers, gpu
        As asked for.

    Raises
    ------
    UserError
        If there are too few CPUs, or images in a batch, for so many.
    """
    gpu = cluster.gpus > 0 if gpu is None else gpu
    if not workers:
        workers = default_workers(recipe, cluster.gpus if gpu else 0)
        if gpu and workers < cluster.gpus:
            say(
                f"{workers} of {cluster.gpus} GPUs: more would have too few images of each batch for batch "
                "normalization; a larger batch_size uses more, or --workers"
            )
    check_workers(recipe, counts, workers)
    # A cluster that has nothing yet is an autoscaled one, which will start what is asked for.
    if 0 < cluster.cpus < workers + FEED_CPUS:
        raise UserError(
            f"{workers} workers and the decoding of their images need {workers + 1} CPUs, the cluster has "
            f"{cluster.cpus}: give fewer --workers"
        )
    return StageSetup(workers, gpu)
