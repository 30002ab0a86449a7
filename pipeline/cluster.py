"""The Ray cluster that a verb runs on: the one that ``RAY_ADDRESS`` names, or one started on this machine."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hiwl_core.errors import IncompleteError, UserError
from pipeline.cores import usable_cores
from pipeline.mistakes import user_error_in
from pipeline.named_cluster import named_cluster
from pipeline.own_ray import join_ray, start_ray
from pipeline.ray_watch import RayWatch

if TYPE_CHECKING:
    from ray.data import DataContext

__all__ = [
    "CPUS_AN_ACTOR",
    "ClusterResources",
    "abandon_own_ray",
    "beside_driver",
    "connected",
    "ordered_streams",
    "quiet_streams",
    "resources_now",
    "starts_here",
]

CPUS_AN_ACTOR = 2
# With a GPU, beside which decoding is the limit; the bound was not measured.
MOST_CPUS_A_GPU = 12


@dataclass(frozen=True)
class ClusterResources:
    """What the cluster has at the moment; an autoscaled one can grow.

    Parameters
    ----------
    cpus, gpus : int
    cpus_a_gpu : int
        Of the node with GPUs that has the fewest; 0 if there is none.
    grows : bool
        Whether nodes may join, which cannot be on a Ray that was started here and will end with us.
    cpus_without_gpu : int
        Of the nodes without GPUs.
    """

    cpus: int
    gpus: int
    cpus_a_gpu: int = 0
    grows: bool = True
    cpus_without_gpu: int = 0

    def takes_gpus(self, asked: bool | None) -> bool:
        """Whether workers take GPUs: as is asked for, or else if there are any."""
        return self.gpus > 0 if asked is None else asked

    def run(self, function: Callable[..., Any], argument: Any, cpus: int, gpus: int) -> Any:
        """What a function gives for an argument, in a task that is granted so much."""
        task = ray.remote(function).options(num_cpus=cpus, num_gpus=gpus)
        return ray.get(task.remote(ray.put(argument)))

    def cpus_an_actor(self, use_gpu: bool) -> int:
        """Logical CPUs of an actor that classifies."""
        if use_gpu and self.cpus_a_gpu:
            return min(self.cpus_a_gpu, MOST_CPUS_A_GPU)
        # A cluster that has nothing yet is an autoscaled one, which will start what is asked for.
        return min(CPUS_AN_ACTOR, self.cpus) or CPUS_AN_ACTOR


def ordered_streams(share: float = 1.0) -> DataContext:
    """A context for Ray Data streams that keep their rows in order, and are quiet.

    Batches are cut from such streams by count, so their order is part of the contract. The context of the
    process, which others may use, stays as it is.

    Parameters
    ----------
    share : float
        What a stream may take of the cluster's CPUs and of its object store, where several run at once.
    """
    # Here, since it takes a second, which verbs without such streams should not wait for.
    from ray.data import DataContext, ExecutionOptions, ExecutionResources

    context = DataContext.get_current().copy()
    context.execution_options = ExecutionOptions(preserve_order=True)
    if share < 1:
        there = ray.cluster_resources()
        context.execution_options.resource_limits = ExecutionResources.for_limits(
            # The least that two operators need.
            cpu=max(1.0, share * there.get("CPU", 0)),
            object_store_memory=share * there.get("object_store_memory", 0) / 2,
        )
    quiet_streams(context)
    return context


def quiet_streams(context: DataContext) -> None:
    """Have the Ray Data streams of a context keep quiet, and not watch what they take."""
    # Progress is printed by the verbs in the words of the user; Ray's own bars and banners stay out.
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Walking all pages of a worker once a second holds up the threads that compute in it.
    context.memory_usage_poll_interval_s = None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Ray 2.60 warns of the only way to bound the retries of an actor; its successor has yet to come.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")


def beside_driver() -> NodeAffinitySchedulingStrategy:
    """Where a small actor belongs that is to end with the driver, and with no other node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def resources_now(grows: bool = True) -> ClusterResources:
    """What the cluster has at this moment."""
    total = ray.cluster_resources()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    shares = [int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU")]
    without = sum(node.get("CPU", 0) for node in nodes if not node.get("GPU"))
    cpus, gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    return ClusterResources(cpus, gpus, min(shares, default=0), grows, int(without))


_watches: set[RayWatch] = set()


def abandon_own_ray() -> None:
    """Have `connected` end a Ray of this process's own without its leave: other threads still call it."""
    for watch in _watches:
        watch.abandoned = True


def starts_here() -> bool:
    """Whether `connected` would start a Ray on this machine: none is connected, and none is named."""
    return not ray.is_initialized() and named_cluster() is None


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

    Raises
    ------
    UserError
        What a worker raised as such, and Ray as something else.
    IncompleteError
        If a Ray that was started here died.
    """
    started, here = not ray.is_initialized(), starts_here()
    if started:
        if here:
            start_ray(max(min_cpus, usable_cores()))
        else:
            join_ray()
    watch = RayWatch(ray._private.worker._global_node) if here else None
    if watch is not None:
        _watches.add(watch)
    done = False
    try:
        with watch or nullcontext():
            yield resources_now(grows=not here)
        done = True
    except BaseException as error:
        if watch is not None and watch.lost and not isinstance(error, UserError):
            raise IncompleteError(watch.lost) from error
        mistake = None if type(error) is UserError else user_error_in(error)
        if mistake is None:
            raise
        raise mistake from error
    finally:
        if watch is not None:
            _watches.discard(watch)
        left_out = watch is not None and (bool(watch.lost) or watch.abandoned) and watch.end(done)
        if started and not left_out:
            ray.shutdown()
