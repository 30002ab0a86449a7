"""What a user says of a reproduction, beside its data and its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hiwl_core.errors import UserError
from pipeline.shards.cutout_shards import CONTRACT_NAMES, Columns
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale

__all__ = ["AS_THE_RECIPE_SAYS", "ReproduceOptions"]


@dataclass(frozen=True)
class ReproduceOptions:
    """How galaxies are read, which trainings there are, and how they are run.

    Parameters
    ----------
    test : str, optional
        Labeled shards to score on; default: those to select checkpoints by, which flatter all models alike.
    columns : Columns
        What the columns of the shards are called.
    scale : WantedScale
        At which all models are to see galaxies.
    overrides : sequence of str
        Changes of the recipe.
    seeds : sequence of int
    backbones : sequence of str
        In the place of the recipe's own, and of those of Table 7; empty: those.
    at_once : int, optional
        Trainings at once; default: one a GPU, or one a node without GPUs, whose cores one takes all.
    workers : int, optional
        Data-parallel workers of each training; default: one.
    gpu : bool, optional
        Whether each takes a GPU; default: if the cluster has any.

    Raises
    ------
    UserError
        For less than one training at once, or less than one worker.
    """

    test: str | None = None
    columns: Columns = CONTRACT_NAMES
    scale: WantedScale = AS_IT_IS
    overrides: Sequence[str] = ()
    seeds: Sequence[int] = (0,)
    backbones: Sequence[str] = ()
    at_once: int | None = None
    workers: int | None = None
    gpu: bool | None = None

    def __post_init__(self) -> None:
        for name, value in (("--at-once", self.at_once), ("--workers", self.workers)):
            if value is not None and value < 1:
                raise UserError(f"{name} {value}: give 1 or more")


AS_THE_RECIPE_SAYS = ReproduceOptions()
"""One training of each kind, with the recipe's own backbone and scale."""
