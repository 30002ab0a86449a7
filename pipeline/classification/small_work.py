"""Small work is done in this process: it is over before Ray and a worker would have begun.

Only where nobody asks for workers or names a cluster, and only once: what this process did not end goes to
Ray the next time, where a shard that kills its worker is found and set aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, TypeVar

import ray
import torch

from hiwl_core.errors import IncompleteError, UserError, words_of
from pipeline import storage
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.manifest import PlannedShard
from pipeline.classification.shard_classifier import ShardClassifier
from pipeline.classification.shard_work import CatalogWork
from pipeline.cluster import ClusterResources, connected
from pipeline.cores import usable_cores
from pipeline.named_cluster import named_cluster
from pipeline.shards.shard_groups import ShardToRead, group_shards

__all__ = [
    "MOST_BYTES",
    "Beside",
    "ThisMachine",
    "ThisProcess",
    "WhereComputed",
    "broken_off",
    "classify_here",
    "is_small",
    "may_be_here",
]

# Some five thousand JPEG cutouts, which the model in the box takes as long to classify on two cores as Ray
# takes to begin.
MOST_BYTES = 32 * 2**20
# In a group, about: the progress goes on after each.
ROWS_AT_ONCE = 1024
SECONDS_A_WAIT = 0.2

Result = TypeVar("Result")


class ThisMachine(ClusterResources):
    """What this machine has for actors, in the place of a cluster."""

    def __init__(self, gpus: int) -> None:
        cpus = usable_cores()
        super().__init__(cpus, gpus, cpus // gpus if gpus else 0, grows=False)

    def run(self, function: Callable[..., Any], argument: Any, cpus: int, gpus: int) -> Any:
        """Call a function here, for which see `Beside`."""
        with Beside() as thread:
            return thread.run(function, argument)


class ThisProcess(ThisMachine):
    """The same for work that this process does itself."""

    def __init__(self) -> None:
        super().__init__(0)

    def cpus_an_actor(self, use_gpu: bool) -> int:
        """All of them."""
        return self.cpus


class WhereComputed:
    """Where rows are computed: in this process, or on a cluster that is connected when it is asked for.

    Parameters
    ----------
    stack : ExitStack
        At whose end the cluster is left.

    Attributes
    ----------
    here : bool
        Whether in this process; to be settled before the cluster is asked for.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self.here = stack, False

    @cached_property
    def cluster(self) -> ClusterResources:
        """What there is to compute with."""
        return ThisProcess() if self.here else self._stack.enter_context(connected())


def is_small(shards: Sequence[storage.Entry], workers: int | None, gpu: bool | None) -> bool:
    """Whether shards are to be classified in this process.

    Parameters
    ----------
    shards : sequence of Entry
    workers, gpu
        As asked for.
    """
    return may_be_here(workers, gpu) and sum(shard.size for shard in shards) <= MOST_BYTES


def may_be_here(workers: int | None, gpu: bool | None) -> bool:
    """Whether work of any kind may be done in this process, if it is small.

    Parameters
    ----------
    workers, gpu
        As asked for.
    """
    if workers is not None or gpu or named_cluster() or torch.cuda.is_available():
        return False
    # That of a notebook, say: the precision would be chosen for another machine than those of later nights.
    return not (ray.is_initialized() and ray.cluster_resources().get("GPU"))


def classify_here(work: CatalogWork, shards: Sequence[PlannedShard], cpus: int) -> Iterator[LedgerEntry]:
    """Classify shards one after the other.

    Parameters
    ----------
    work : CatalogWork
    shards : sequence of PlannedShard
    cpus : int
        Threads that decode and compute.

    Yields
    ------
    LedgerEntry
        One for each shard.

    Raises
    ------
    IncompleteError
        If the networks fail; whole parts are kept.
    """
    to_read = [ShardToRead(one.shard, one.size, one.rows, one.fingerprint) for one in shards]
    rows = sum(shard.rows or 0 for shard in shards)
    # Damage of shards ends nothing: it comes back as entries.
    with broken_off("classification", "whole parts are kept"), Beside() as thread:
        classifier = thread.run(ShardClassifier, work, cpus)
        for group in group_shards(to_read, max(1, rows // ROWS_AT_ONCE)):
            tasks = [work.task(shard.path, shard.fingerprint, None) for shard in group]
            yield from thread.run(classifier.classify, tasks)


@contextmanager
def broken_off(work: str, kept: str) -> Iterator[None]:
    """Say of what ends a ``with`` block, and is foreseen nowhere, that Ray's workers take it the next time.

    Parameters
    ----------
    work : str
        What is done, such as ``"classification"``.
    kept : str
        What of it stays, as a clause.

    Raises
    ------
    IncompleteError
    """
    try:
        yield
    except (UserError, IncompleteError, storage.StoreError):
        raise
    except Exception as error:
        reason = words_of(error, 300)
        raise IncompleteError(
            f"the {work} broke off ({type(error).__name__}: {reason}); {kept}: start the same command again, "
            "which then takes Ray's workers"
        ) from error


class Beside(ThreadPoolExecutor):
    """A thread for the networks.

    So Ctrl-C comes to a thread that waits: what is under way ends in order, and no engine is broken off. Some
    kernels also end a process when a signal comes to a thread that has used the matrix registers of its CPU.
    And how many threads PyTorch takes is each thread's own, and stays what a notebook has set.
    """

    def __init__(self) -> None:
        super().__init__(1, thread_name_prefix="networks")

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What a function gives that is called in the thread."""
        future = self.submit(function, *arguments)
        # In steps: a signal that came just before, or to another thread, ends no wait that has no end.
        while not wait([future], SECONDS_A_WAIT).done:
            pass
        return future.result()
