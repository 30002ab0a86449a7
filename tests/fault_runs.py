"""A verb of `hiwl` in a process of its own that begins at once, and may be killed: for `tests.faults`."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from tempfile import mkstemp
from unittest.mock import patch

import psutil

__all__ = ["Run", "ready", "small_disk"]

# A process with all modules, of which each run is a copy: they take five seconds of a core to import.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["jobs.classify", "pipeline.classification.classify", "tests.fault_runs"])


@contextmanager
def ready() -> Iterator[None]:
    """Have the modules of all runs there, for the length of a ``with`` block."""
    multiprocessing.forkserver.ensure_running()
    try:
        yield
    finally:
        # Of a hundred megabytes or more; there is no public way to end it before this process.
        multiprocessing.forkserver._forkserver._stop()


class Run:
    """A verb at work, whose stage of a classification is `tests.stand_in_stages.LightCascadeStage`.

    Parameters
    ----------
    command : sequence of str
        As after ``hiwl``.
    work : Path
        Where its output goes.
    environment : mapping
        Variables that it is to have beside those that were there at the first run.

    Attributes
    ----------
    seconds : float
        From its beginning to where its end was awaited, or it was killed.
    """

    def __init__(self, command: Sequence[str], work: Path, environment: Mapping[str, str]) -> None:
        number, name = mkstemp(".log", "run-", work)
        os.close(number)
        self._log, self._killed = Path(name), False
        self._started, self.seconds = time.monotonic(), 0.0
        self._process = CONTEXT.Process(target=_verb, args=(command, name, dict(environment)), daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self._pid = self._process.pid

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    @property
    def code(self) -> int | None:
        """Its exit code, less than 0 if a signal ended it; None if it has not ended."""
        return self._process.exitcode

    @property
    def said(self) -> str:
        """All that it has printed."""
        return self._log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """Its exit code, once it has ended.

        Raises
        ------
        TimeoutError
            If it does not end.
        """
        self._process.join(seconds)
        if self.code is None:
            raise TimeoutError(f"no end after {seconds:.0f} s: {self.said}")
        self._ended()
        return self.code

    def kill(self) -> None:
        """End it by SIGKILL, if it has not ended."""
        if self.running:
            self._killed = True
            self._process.kill()
            self._process.join()
            self._ended()

    def _ended(self) -> None:
        self.seconds = self.seconds or time.monotonic() - self._started

    def ended_badly(self, refusals: Sequence[str]) -> str:
        """How it ended, if not as a verb should: with 0, or a line that says why; empty if it did.

        Parameters
        ----------
        refusals : sequence of str
            Words of lines with which it may end with the code 2.
        """
        said = self.said
        last = (said.splitlines() or [""])[-1]
        with_line = last.startswith("Error: ") and "Traceback" not in said
        well = {
            # Nor of what Ray's servers tell each other.
            0: not any(words in said for words in ("Traceback", "Raylet is terminated", "node with node id")),
            1: with_line,
            2: with_line and any(words in last for words in refusals),
            -signal.SIGKILL: self._killed,
        }
        return (
            "" if self.code is not None and well.get(self.code, False) else f"exit code {self.code}: {said}"
        )

    def left(self) -> list[psutil.Process]:
        """Processes that it started and that are still there."""
        found = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.Error):
                if os.getsid(process.pid) == self._pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def _verb(command: Sequence[str], log: str, environment: dict[str, str]) -> None:
    os.setsid()
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(file, number)
    # Here, since who only watches does without them.
    from jobs.cli import main
    from pipeline.classification.shard_stream import classify_shards
    from tests.stand_in_stages import LightCascadeStage, ask_slowly, hurry

    hurry()
    fed = "all-nodes" in command
    light = partial(classify_shards, stage=LightCascadeStage)
    with (
        patch("pipeline.classification.shard_stream.classify_shards", light),
        # Who only reads is done before it can be killed.
        patch("pipeline.classification.shard_stream.ask_to_read", ask_slowly) if fed else nullcontext(),
        # They are made to see that they can be, which takes longer than all the rest.
        patch("hiwl_core.bundle.StageModel.network"),
    ):
        main(command)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path | None]:
    """A filesystem of its own in memory for the length of a ``with`` block; None where that is not allowed.

    Parameters
    ----------
    place : Path
        Where it is mounted.
    size : str
        As ``mount`` takes it: ``"4m"``.
    """
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
