"""Reading the next things while the last ones are worked on."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

__all__ = ["read_ahead", "with_pauses"]

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """The same items, drawn from their source by a thread before they are asked for.

    Parameters
    ----------
    items : iterable
        What it raises is raised here, in its place.
    depth : int
        Items that are held at most, beside the one that is handed out.
    """
    source, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="read") as thread:
        ahead = deque(thread.submit(next, source, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(thread.submit(next, source, end))
            yield item  # type: ignore[misc]


def with_pauses(items: Iterable[Item], seconds: float) -> Iterator[Item | None]:
    """The same items, and None each time that there was none for so long.

    Parameters
    ----------
    items : iterable
        Drawn by a thread that ends with the process; what it raises is raised here.
    seconds : float
    """
    waiting: queue.Queue[tuple[Item | None, BaseException | None, bool]] = queue.Queue(1)

    def draw() -> None:
        try:
            for item in items:
                waiting.put((item, None, False))
            waiting.put((None, None, True))
        except BaseException as error:
            waiting.put((None, error, True))

    # A thread does not inherit who speaks.
    threading.Thread(target=copy_context().run, args=(draw,), daemon=True).start()
    while True:
        try:
            item, error, ended = waiting.get(timeout=seconds)
        except queue.Empty:
            yield None
            continue
        if error is not None:
            raise error
        if ended:
            return
        yield item
