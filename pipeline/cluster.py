"""The Ray cluster that a verb runs on: the one that ``RAY_ADDRESS`` names, or one started on this machine."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hiwl_core.errors import UserError
from pipeline.mistakes import user_error_in

if TYPE_CHECKING:
    from ray.data import DataContext

__all__ = [
    "CPUS_AN_ACTOR",
    "ClusterResources",
    "beside_driver",
    "connected",
    "ordered_streams",
    "quiet_streams",
    "resources_now",
    "usable_cores",
]

CPUS_AN_ACTOR = 2
# With a GPU, beside which decoding is the limit; the bound was not measured.
MOST_CPUS_A_GPU = 12
# Linux takes 107 bytes as the name of a socket. This is what Ray adds to the folder for temporary files.
LONGEST_SOCKET = 103
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"
# Of a Ray that is started here.
OWN_RAY = {
    # Ray ends workers that were idle for a second, and starting one takes five of a core: a training that
    # decodes for each epoch would wait for them again and again.
    "idle_worker_killing_time_threshold_ms": 600_000,
    # Started ahead of need, they take the cores from the driver and from the actors, which start processes
    # of their own; and each takes a hundredth of a core while it does nothing.
    "prestart_worker_first_driver": False,
    # There is no dashboard to show them.
    "enable_metrics_collection": False,
}


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
    """

    cpus: int
    gpus: int
    cpus_a_gpu: int = 0
    grows: bool = True

    def cpus_an_actor(self, use_gpu: bool) -> int:
        """Logical CPUs of an actor that classifies."""
        if use_gpu and self.cpus_a_gpu:
            return min(self.cpus_a_gpu, MOST_CPUS_A_GPU)
        # A cluster that has nothing yet is an autoscaled one, which will start what is asked for.
        return min(CPUS_AN_ACTOR, self.cpus) or CPUS_AN_ACTOR


def usable_cores() -> int:
    """Cores that this process may use: a container or a batch queue often grants fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    return ClusterResources(int(total.get("CPU", 0)), int(total.get("GPU", 0)), min(shares, default=0), grows)


@contextmanager
def _quiet_backend() -> Iterator[None]:
    """Start Ray without what its C++ side prints, unless the user has set how much that is.

    Ray 2.60 calls it an error, on the terminal, that Ray Data's actors are as Ray Data makes them. Of a level
    that is set it says so, with a line that is held back here.
    """
    if LOG_LEVEL in os.environ:
        yield
        return
    os.environ[LOG_LEVEL] = "fatal"
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            del os.environ[LOG_LEVEL]
            os.dup2(terminal, 2)
            os.close(terminal)
            said.seek(0)
            for line in said:
                if LOG_LEVEL.encode() not in line:
                    os.write(2, line)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Start Ray without its own way with SIGTERM, which ends in a stack of its C++ side."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # Of the system's own way there is nothing that Python could put back.
        if callable(before):
            signal.signal(signal.SIGTERM, before)


def _short_temp_dir() -> str | None:
    """Where Ray is to keep its sockets: None for its usual place, unless their names would be too long there.

    Raises
    ------
    UserError
        If the user asked for such a place.
    """
    asked = os.environ.get("RAY_TMPDIR")
    usual = asked or os.environ.get("TMPDIR") or "/tmp"
    if len(f"{usual}{RAY_SOCKET}".encode()) <= LONGEST_SOCKET:
        return None
    if asked:
        raise UserError(
            f"RAY_TMPDIR {asked!r} is too long a path for the sockets that Ray keeps in it: at most "
            f"{LONGEST_SOCKET - len(RAY_SOCKET)} characters"
        )
    return f"/tmp/ray-{os.getuid()}"


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
    """
    started = not ray.is_initialized()
    here = started and not os.environ.get("RAY_ADDRESS")
    if started:
        with _quiet_backend(), _own_signals():
            ray.init(
                address="local" if here else None,
                num_cpus=max(min_cpus, usable_cores()) if here else None,
                include_dashboard=False if here else None,
                logging_level=logging.ERROR,
                # What workers have to say to people comes through `pipeline.relay`; what they raise, anyway.
                log_to_driver=False,
                _system_config=OWN_RAY if here else None,
                _temp_dir=_short_temp_dir() if here else None,
            )
    try:
        yield resources_now(grows=not here)
    except Exception as error:
        mistake = None if type(error) is UserError else user_error_in(error)
        if mistake is None:
            raise
        raise mistake from error
    finally:
        if started:
            ray.shutdown()
