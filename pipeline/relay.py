"""What workers say, on the terminal of whoever waits for them.

Ray can forward all output of all processes, its own chatter among it. Here a small actor takes the lines that
are meant for people, and the driver prints them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.progress import say

__all__ = ["relayed_lines"]

SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def relayed_lines() -> Iterator[Any]:
    """Print what workers say for the length of a ``with`` block.

    Yields
    ------
    ActorHandle
        A worker calls its ``add.remote(line)``, which does not wait.
    """
    relay = ray.remote(num_cpus=0)(_Lines).remote()
    stopped = threading.Event()

    def pump() -> None:
        last = False
        while not last:
            last = stopped.wait(SECONDS_BETWEEN_LOOKS)
            # Progress must not end the work: a relay that died is silent.
            with suppress(RayError):
                for line in ray.get(relay.take.remote()):
                    say(line)

    # A thread does not inherit who speaks.
    thread = threading.Thread(target=copy_context().run, args=(pump,), daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        stopped.set()
        thread.join()
        ray.kill(relay)


class _Lines:
    """Lines that wait to be printed."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines
