"""Shards in groups, and reading ahead."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.catalog.plan import PlannedShard
from pipeline.classification.actor_pool import group_shards
from pipeline.read_ahead import read_ahead


def shards(*rows: int | None) -> list[PlannedShard]:
    return [PlannedShard(f"/{i}", f"{i}.parquet", n, 1, "", "") for i, n in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "actors", "sizes"),
    [
        ([], 1, []),
        ([0], 1, [1]),
        ([500] * 12, 1, [8, 4]),
        ([0, 0, 5], 2, [2, 1]),
        ([4096] * 8, 1, [1] * 8),
        ([100] * 400, 1, [40] * 10),
        ([100] * 400, 10, [10] * 40),
        # Few rows are shared among the actors, four groups each.
        ([10] * 80, 2, [10] * 8),
        ([5000, 10, 10, 5000], 1, [1, 2, 1]),
        ([None, 10, None], 1, [1, 1, 1]),
    ],
)
def test_small_shards_go_together(rows: list[int | None], actors: int, sizes: list[int]) -> None:
    groups = group_shards(shards(*rows), actors)
    assert [len(group) for group in groups] == sizes
    assert [part for group in groups for part in group] == [f"{i}.parquet" for i in range(len(rows))]


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
