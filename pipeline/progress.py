"""Progress on long work: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Advance", "progress"]

SECONDS_BETWEEN_LINES = 10.0


class Advance(Protocol):
    """Say that some more of the work is done, with a note for the reader."""

    def __call__(self, done: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Show progress on standard error for the length of a ``with`` block.

    Parameters
    ----------
    title : str
        What is being done.
    total : int
        How much there is of it.

    Yields
    ------
    Advance
        Call it with the amount done since the last call.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda done, note="": bar.update(task, advance=done, note=note)
        return
    state = {"done": 0, "line": time.monotonic()}

    def advance(done: int, note: str = "") -> None:
        state["done"] += done
        now = time.monotonic()
        if now - state["line"] >= SECONDS_BETWEEN_LINES or state["done"] >= total:
            state["line"] = now
            print(f"{title}: {state['done']} of {total}{f', {note}' if note else ''}", file=sys.stderr, flush=True)

    yield advance
