"""Reading ahead."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.read_ahead import read_ahead


def test_items_are_read_ahead_in_order_and_not_too_far() -> None:
    drawn: list[int] = []

    def source() -> Iterator[int]:
        for item in range(20):
            drawn.append(item)
            yield item

    taken = []
    for item in read_ahead(source(), 3):
        time.sleep(0.01)
        taken.append(item)
        assert len(drawn) <= len(taken) + 4
        assert len(drawn) >= min(20, len(taken) + 2)
    assert taken == drawn == list(range(20))


def test_what_the_source_raises_comes_in_its_place() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    items = read_ahead(source(), 2)
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_who_stops_early_leaves_no_thread_behind() -> None:
    items = read_ahead(iter(range(10**9)), 2)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]
