"""Progress on long work: lines for people, and a bar in a terminal where a log gets a line now and then.

For programs that read the log each line is an object in JSON instead, once `log_as_json` was called.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["event_line", "lines_of", "log_as_json", "log_event", "logs_as_json", "progress", "say"]

SECONDS_BETWEEN_LINES = 10.0

_as_json = False
_speaker: ContextVar[str] = ContextVar("speaker", default="")


def log_as_json(enabled: bool) -> None:
    """Choose between lines for people and objects in JSON, a line each, for all of this process."""
    global _as_json
    _as_json = enabled


def logs_as_json() -> bool:
    """Whether lines are objects in JSON."""
    return _as_json


def event_line(line: str, **facts: Any) -> str:
    """A line for people, or in JSON an object with ``time``, ``message`` and the facts.

    Parameters
    ----------
    line : str
        For people.
    **facts
        What a program would read out of it.
    """
    if not _as_json:
        return line
    time_now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time_now, "message": line, **facts}, default=str)


def log_event(line: str, **facts: Any) -> None:
    """Write an `event_line` to standard error."""
    print(event_line(line, **facts), file=sys.stderr, flush=True)


def say(line: str, **facts: Any) -> None:
    """A line of progress on standard error, after the name of who says it if several are at work."""
    if speaker := _speaker.get():
        log_event(f"{speaker}: {line}", speaker=speaker, **facts)
    else:
        log_event(line, **facts)


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
    in_main_thread = threading.current_thread() is threading.main_thread()
    with_bar = console.is_terminal and in_main_thread and not _as_json
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not with_bar)
    task = bar.add_task(title, total=total, completed=done, rate="")

    def advance(galaxies: int) -> None:
        nonlocal now_done, last_line
        now_done += galaxies
        now = time.monotonic()
        per_second = (now_done - done) / max(now - started, 1e-9)
        rate = f"{per_second:,.0f} {unit}/s"
        bar.update(task, completed=now_done, rate=rate)
        if not with_bar and (now - last_line >= SECONDS_BETWEEN_LINES or now_done == total):
            last_line = now
            of_all = f" of {total:,}" if total is not None else ""
            say(
                f"{title}: {now_done:,}{of_all} {counted}, {rate}",
                work=title,
                done=now_done,
                total=total,
                per_second=round(per_second, 1),
            )

    with bar:
        yield advance
