"""Progress of an ingest on stderr: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["IngestProgress"]

SECONDS_PER_LINE = 10.0


class IngestProgress:
    """Counts objects and shards in a ``with`` block.

    Parameters
    ----------
    objects : int
        Objects in all shards.
    done : int
        Those of shards that an earlier run wrote.
    """

    def __init__(self, objects: int, done: int = 0) -> None:
        self._objects, self._done = objects, done
        self._started, self._at_start = time.monotonic(), done
        self._stopped = threading.Event()
        self._bar: Progress | None = None
        self._lines: threading.Thread | None = None

    def __enter__(self) -> IngestProgress:
        if sys.stderr.isatty():
            columns = (TextColumn("ingest"), BarColumn(), MofNCompleteColumn(), TextColumn("objects"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
            self._task = self._bar.add_task("ingest", total=self._objects, completed=self._done)
            self._bar.start()
        else:
            self._lines = threading.Thread(target=self._print_lines, daemon=True)
            self._lines.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._bar is not None:
            self._bar.stop()
        if self._lines is not None:
            self._lines.join()

    def advance(self, objects: int) -> None:
        """Count the objects of a shard that is done."""
        self._done += objects
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)

    def _print_lines(self) -> None:
        while not self._stopped.wait(SECONDS_PER_LINE):
            seconds = time.monotonic() - self._started
            rate = (self._done - self._at_start) / seconds
            print(f"ingest: {self._done:,} of {self._objects:,} objects, {rate:,.0f}/s", file=sys.stderr, flush=True)
