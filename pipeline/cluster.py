"""The Ray cluster that a verb runs on: the one that ``RAY_ADDRESS`` names, or one started on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

__all__ = ["ClusterResources", "connected", "usable_cores"]


@dataclass(frozen=True)
class ClusterResources:
    """What the cluster has at the moment; an autoscaled one can grow."""

    cpus: int
    gpus: int


def usable_cores() -> int:
    """Cores that this process may use: a container or a batch queue often grants fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def connected(min_cpus: int = 1) -> Iterator[ClusterResources]:
    """Connect to Ray for the length of a ``with`` block; what is started here is stopped here.

    An open connection, as in a notebook or a submitted job's driver, is used and left open.

    Parameters
    ----------
    min_cpus : int
        Logical CPUs that a Ray started here has at least, though the machine may have fewer cores: Ray's
        CPUs are slots for scheduling, not threads.

    Yields
    ------
    ClusterResources
    """
    started = not ray.is_initialized()
    if started:
        # Progress is printed by the verbs in the words of the user; Ray's own bars and banners stay out.
        os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
        here = "RAY_ADDRESS" not in os.environ
        ray.init(
            num_cpus=max(min_cpus, usable_cores()) if here else None,
            include_dashboard=False if here else None,
            logging_level=logging.WARNING,
            runtime_env={"env_vars": {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"}},
        )
    try:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        total = ray.cluster_resources()
        yield ClusterResources(cpus=int(total.get("CPU", 0)), gpus=int(total.get("GPU", 0)))
    finally:
        if started:
            ray.shutdown()
