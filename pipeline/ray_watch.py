"""A Ray that was started here, watched: when it dies under the work, the work ends with a line, and soon.

Ray itself waits a minute for a head that is gone, and then ends the process without a word.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.progress import log_event

__all__ = ["RayWatch", "own_process", "said"]

SECONDS_BETWEEN_LOOKS = 1.0
# For the work to end in order, which waits in vain where it asks a Ray that is gone for anything.
SECONDS_TO_END = 10.0
# Without which Ray does nothing, by Ray's names of them.
WATCHED = {"gcs_server": "head (gcs_server)", "raylet": "raylet"}
WAKE = getattr(signal, "SIGUSR2", signal.SIGINT)
WORDS = (
    "Ray's {} on this machine died, for lack of memory perhaps; what was written whole is kept: start the "
    "same command again to go on"
)

_own = threading.Event()
_codes: list[int] = []


@contextmanager
def own_process() -> Iterator[None]:
    """Let this process be ended where it is stuck in a Ray that is gone: a verb's, and no notebook's."""
    _codes.clear()
    _own.set()
    try:
        yield
    finally:
        _own.clear()


def said(code: int) -> None:
    """Note that a verb has said how it ended, and with which code it is about to."""
    _codes.append(code)


def _leave(words: str) -> None:
    """End this process, wherever it is stuck, and without the end of Ray's C++ side."""
    if not _codes:
        log_event(f"Error: {words}", error=words, exit_code=1)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(_codes[-1] if _codes else 1)


class RayWatch:
    """Interrupts the main thread when a process dies that Ray cannot be without; a context manager.

    Parameters
    ----------
    node : ray._private.node.Node
        Of a Ray that this process started.

    Attributes
    ----------
    abandoned : bool
        Whether it is to be ended like one that lost something: other threads are in the midst of calls to it,
        over which Ray's own end would end this process.
    """

    def __init__(self, node: Any) -> None:
        self._watched = [
            (words, one.process)
            for name, words in WATCHED.items()
            for one in node.all_processes.get(name, ())
        ]
        self._node = node
        self._stopped = threading.Event()
        self._lost = ""
        self.abandoned = False
        self._before: Any = None
        self._in_main = threading.current_thread() is threading.main_thread()

    @property
    def lost(self) -> str:
        """In words what is gone, and how to go on; empty if all is there."""
        gone = next((words for words, process in self._watched if process.poll() is not None), "")
        # What is killed after it is not the cause.
        if gone and not self._lost:
            self._lost = WORDS.format(gone)
        return self._lost

    def __enter__(self) -> RayWatch:
        if self._in_main:
            self._before = signal.signal(WAKE, self._interrupt)
        threading.Thread(target=self._look, name="ray-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._in_main and self._before is not None:
            signal.signal(WAKE, self._before)

    def end(self, done: bool = False) -> bool:
        """End what is left of a Ray that lost something; whether Ray's own end is to be left out.

        That asks for what is gone, and waits. A notebook has no other, and may begin another Ray after it; a
        verb ends without, at the latest after some seconds.

        Parameters
        ----------
        done : bool
            The work was done before, nevertheless.
        """
        with suppress(Exception):
            self._node.kill_all_processes(check_alive=False, allow_graceful=False)
        for pid in _of_session(self._node.get_session_dir_path()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not _own.is_set():
            return False
        if done:
            said(0)
        # Before what Ray has to do at the end, which was registered earlier.
        atexit.register(_leave, self.lost)
        timer = threading.Timer(SECONDS_TO_END, _leave, (self.lost,))
        timer.daemon = True
        timer.start()
        return True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._stopped.is_set():
            # Ray passes on no other from where it waits.
            raise KeyboardInterrupt

    def _look(self) -> None:
        while not self._stopped.wait(SECONDS_BETWEEN_LOOKS):
            lost = self.lost
            if not lost:
                continue
            if self._in_main:
                os.kill(os.getpid(), WAKE)
            if not self._stopped.wait(SECONDS_TO_END) and _own.is_set():
                self.end()
                _leave(lost)
            return


def _of_session(folder: str) -> Iterator[int]:
    """Other processes with files open in the folder of a Ray session: its own, whatever they call themselves.

    Those that a raylet started are nobody's children when it is gone, and may wait a minute for its head.
    """
    for place in Path("/proc").glob("[0-9]*/fd"):
        # Another user's, or one that has just ended.
        with suppress(OSError):
            names = [os.readlink(one) for one in place.iterdir()]
            pid = int(place.parent.name)
            if pid != os.getpid() and any(name.startswith(f"{folder}/") for name in names):
                yield pid
