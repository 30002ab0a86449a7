"""Progress on long work: lines for people, and a bar in a terminal where a log gets a line now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["lines_of", "progress", "say"]

SECONDS_BETWEEN_LINES = 10.0

_speaker: ContextVar[str] = ContextVar("speaker", default="")


def say(line: str) -> None:
    """A line of progress on standard error, after the name of who says it if several are at work."""
    speaker = _speaker.get()
    print(f"{speaker}: {line}" if speaker else line, file=sys.stderr, flush=True)


@contextmanager
def lines_of(speaker: str) -> Iterator[None]:
    """Put a name before all lines of this thread, and of its workers, for the length of a ``with`` block."""
    token = _speaker.set(speaker)
    try:
        yield
    finally:
        _speaker.reset(token)


@contextmanager
def progress(
    title: str, total: int | None, done: int = 0, unit: str = "images"
) -> Iterator[Callable[[int], None]]:
    """Show progress on standard error for the length of a ``with`` block.

    Parameters
    ----------
    title : str
        What is being done, such as ``"classifying"``.
    total : int or None
        Galaxies in all, if that is known.
    done : int
        Those of an earlier run, which do not count for the rate.
    unit : str
        What the rate counts, and the lines where it is not images, which are galaxies there.

    Yields
    ------
    callable
        Takes the number of galaxies done since its last call.
    """
    console = Console(stderr=True)
    started = last_line = time.monotonic()
    now_done = done
    counted = "galaxies" if unit == "images" else unit
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    # A terminal holds one bar: work in other threads, of which there may be several, prints lines.
    with_bar = console.is_terminal and threading.current_thread() is threading.main_thread()
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not with_bar)
    task = bar.add_task(title, total=total, completed=done, rate="")

    def advance(galaxies: int) -> None:
        nonlocal now_done, last_line
        now_done += galaxies
        now = time.monotonic()
        rate = f"{(now_done - done) / max(now - started, 1e-9):,.0f} {unit}/s"
        bar.update(task, completed=now_done, rate=rate)
        if not with_bar and (now - last_line >= SECONDS_BETWEEN_LINES or now_done == total):
            last_line = now
            of_all = f" of {total:,}" if total is not None else ""
            say(f"{title}: {now_done:,}{of_all} {counted}, {rate}")

    with bar:
        yield advance
