"""What long work waits for, said once a minute: a cluster may be asked for nodes that never come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context

from ray.exceptions import RayError

from pipeline.progress import say

__all__ = ["waiting_lines"]

SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def waiting_lines(look: Callable[[], Sequence[str] | None]) -> Iterator[None]:
    """Say now and then what is waited for, for the length of a ``with`` block.

    Parameters
    ----------
    look : callable
        Gives the lines; None when there is nothing to look for any more.
    """
    stopped = threading.Event()

    def watch() -> None:
        # A line less is no reason to end the work.
        with suppress(RayError):
            while not stopped.wait(SECONDS_BETWEEN_LINES) and (lines := look()) is not None:
                for line in lines:
                    say(line)

    # A thread does not inherit who speaks.
    thread = threading.Thread(target=copy_context().run, args=(watch,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        # It may be asking a head that does not answer any more.
        thread.join(timeout=1)
