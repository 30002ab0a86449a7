"""Reading the next things while the last ones are worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["read_ahead"]

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
