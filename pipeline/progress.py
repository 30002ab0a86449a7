"""Progress on long work: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["progress"]

SECONDS_BETWEEN_LINES = 10.0


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
        What the rate counts.

    Yields
    ------
    callable
        Takes the number of galaxies done since its last call.
    """
    console = Console(stderr=True)
    started = last_line = time.monotonic()
    now_done = done
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    task = bar.add_task(title, total=total, completed=done, rate="")

    def advance(galaxies: int) -> None:
        nonlocal now_done, last_line
        now_done += galaxies
        now = time.monotonic()
        rate = f"{(now_done - done) / max(now - started, 1e-9):,.0f} {unit}/s"
        bar.update(task, completed=now_done, rate=rate)
        if not console.is_terminal and (now - last_line >= SECONDS_BETWEEN_LINES or now_done == total):
            last_line = now
            of_all = f" of {total:,}" if total is not None else ""
            print(f"{title}: {now_done:,}{of_all} galaxies, {rate}", file=sys.stderr, flush=True)

    with bar:
        yield advance
