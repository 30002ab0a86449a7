"""How Ray is begun: one that is joined, or one of our own on this machine, which nobody else can reach."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain
from typing import Any

import psutil
import ray
import ray._private.node
from ray._private import ray_constants, services
from ray._private.utils import detect_fate_sharing_support_linux

from hiwl_core.errors import IncompleteError, UserError, last_line
from pipeline.ray_messages import in_lines
from pipeline.storage.disk_faults import room_at

__all__ = ["OWN_RAY", "bare_node", "join_ray", "short_temp_dir", "start_ray"]

# Linux takes 107 bytes as the name of a socket. This is what Ray adds to the folder for temporary files.
LONGEST_SOCKET = 103
RAY_SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
# Ray's own usual place too.
SHORT_PLACE = "/tmp"  # noqa: S108
# It takes a tenth of it to begin.
LEAST_FREE = 1_000_000
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


def join_ray() -> None:
    """Connect to the Ray that ``RAY_ADDRESS`` names."""
    in_lines()
    with _quiet_backend(), _own_signals():
        ray.init(logging_level=logging.ERROR, log_to_driver=False)


def start_ray(num_cpus: int) -> None:
    """Start a Ray on this machine, and connect to it.

    Parameters
    ----------
    num_cpus : int
        Logical: slots for scheduling.

    Raises
    ------
    UserError
        If there is no place for its sockets.
    IncompleteError
        If it does not start, or there is no room for its logs.
    """
    temp_dir = short_temp_dir()
    place = temp_dir or _usual_place()
    free = shutil.disk_usage(place).free if os.path.isdir(place) else LEAST_FREE
    if free < LEAST_FREE:
        # It would try for a minute.
        raise IncompleteError(
            f"Ray has no room for its logs and sockets: free are {room_at([place])}; make room, or set TMPDIR"
        )
    in_lines(alone=True)
    try:
        with _quiet_backend(), _own_signals(), _loopback(), _own_group(), bare_node():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                logging_level=logging.ERROR,
                # What workers have to say to people comes through `pipeline.relay`; what they raise, anyway.
                log_to_driver=False,
                _system_config=OWN_RAY,
                _temp_dir=temp_dir,
            )
    except Exception as error:
        raise IncompleteError(
            f"Ray could not be started on this machine ({last_line(error)}); free are "
            f"{room_at([place])}: start the same command again"
        ) from error


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


@contextmanager
def _loopback() -> Iterator[None]:
    """Start Ray on 127.0.0.1, which nobody reaches from elsewhere, as it does by itself on macOS and Windows.

    Of an address that it is given it makes that of the machine.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _own_group() -> Iterator[None]:
    """Start Ray's processes outside of this one's process group, as Ray does it by itself on Windows.

    What is sent to a group, as by `timeout`, would end them first; and a call to a raylet that is gone ends
    this process with 1 and without a word, before it can end in order. They end with it, by the kernel.
    """
    before = services.ConsolePopen
    if detect_fate_sharing_support_linux():
        services.ConsolePopen = partial(before, process_group=0)
    try:
        yield
    finally:
        services.ConsolePopen = before


class _BareNode(ray._private.node.Node):
    """Ray's processes on this machine, but for three: each takes most of a second of a core to begin.

    What is interrupted while they begin ends those that have, of which nobody else knows yet. Left to the
    kernel, a raylet would leave its agents behind for a minute.
    """

    def __init__(self, ray_params: Any, *how: Any, **settings: Any) -> None:
        # Any that is free: what another Ray of this machine has is tried for more than three seconds.
        ray_params.dashboard_agent_listen_port = 0
        try:
            super().__init__(ray_params, *how, **settings)
        except BaseException:
            for begun in chain.from_iterable(getattr(self, "all_processes", {}).values()):
                _kill_with_children(begun.process.pid)
            raise

    def start_monitor(self) -> None:
        """No node will join."""

    def start_log_monitor(self) -> None:
        """Nobody reads what workers print."""

    def start_api_server(self, **_: object) -> None:
        """Nobody looks at a dashboard."""
        self._webui_url = None


def _kill_with_children(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.kill()


@contextmanager
def bare_node() -> Iterator[None]:
    """Start Ray without what only clusters and dashboards want, for the length of a ``with`` block."""
    before = ray._private.node.Node
    ray._private.node.Node = _BareNode
    try:
        yield
    finally:
        ray._private.node.Node = before


def short_temp_dir() -> str | None:
    """Where Ray is to keep its sockets: None for its usual place, unless their names would be too long there.

    Raises
    ------
    UserError
        If the user asked for such a place.
    """
    asked, usual = os.environ.get("RAY_TMPDIR"), _usual_place()
    if len(f"{usual}{RAY_SOCKET}".encode()) <= LONGEST_SOCKET:
        return None
    if asked:
        raise UserError(
            f"RAY_TMPDIR {asked!r} is too long a path for the sockets that Ray keeps in it: at most "
            f"{LONGEST_SOCKET - len(RAY_SOCKET)} characters"
        )
    return _own_folder(f"{SHORT_PLACE}/ray-{os.getuid()}")


def _usual_place() -> str:
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or SHORT_PLACE


def _own_folder(place: str) -> str:
    """A folder where everybody may write that nobody else writes to: who came first could reach our sockets.

    Raises
    ------
    UserError
        If it is somebody else's.
    """
    with suppress(FileExistsError):
        os.mkdir(place, 0o700)
    state = os.lstat(place)
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise UserError(f"{place}, for Ray's sockets, is not this user's alone: remove it, or set RAY_TMPDIR")
    return place
