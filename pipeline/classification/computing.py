"""How rows are computed: by what, on how many workers, on which nodes. None of it changes a catalog."""

from __future__ import annotations

from dataclasses import dataclass

from hiwl_core.errors import UserError

__all__ = ["ALL_NODES", "AUTO", "GPU_NODES", "WHATEVER_THERE_IS", "Computing"]

AUTO, GPU_NODES, ALL_NODES = "auto", "gpu-nodes", "all-nodes"


@dataclass(frozen=True)
class Computing:
    """What a user says of the machines.

    Parameters
    ----------
    engine : {"auto", "torch", "openvino"}
        What runs the networks; see `hiwl_core.engines.choose_engine`.
    workers : int, optional
        Actors at most; default: as many as the cluster has room for now, and none for little work where no
        cluster is named.
    gpu : bool, optional
        Whether each actor takes a GPU; default: if the cluster has any now.
    decode_on : {"auto", "gpu-nodes", "all-nodes"}
        Whether workers with GPUs read and decode for themselves, or all nodes do for them; default: these, if
        the nodes without GPUs have as many CPUs as the workers leave idle then.

    Raises
    ------
    UserError
        For less than one worker.
    """

    engine: str = "auto"
    workers: int | None = None
    gpu: bool | None = None
    decode_on: str = AUTO

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"--workers {self.workers}: one worker is least")


WHATEVER_THERE_IS = Computing()
