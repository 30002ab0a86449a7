"""Shards in groups, and reading ahead."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hiwl_core.errors import IncompleteError
from pipeline.catalog.plan import PlannedShard
from pipeline.classification.actor_pool import ActorPool, classify_shards, group_shards
from pipeline.classification.plan import catalog_settings, plan_catalog
from pipeline.cluster import ClusterResources
from pipeline.read_ahead import read_ahead
from pipeline.shards.cutout_shards import Columns
from tests.drawings import write_labeled_shard


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


@pytest.mark.parametrize(
    ("cluster", "gpu", "taken"),
    [
        (ClusterResources(cpus=8, gpus=0), None, (2, 0, 4)),
        (ClusterResources(cpus=1, gpus=0), None, (1, 0, 1)),
        # One GPU's images are decoded by its share of the cores, up to as many as it can use.
        (ClusterResources(cpus=24, gpus=2, cpus_a_gpu=4), None, (4, 1, 2)),
        (ClusterResources(cpus=128, gpus=2, cpus_a_gpu=64), None, (12, 1, 2)),
        (ClusterResources(cpus=24, gpus=2, cpus_a_gpu=4), False, (2, 0, 12)),
        # Nothing yet: an autoscaled cluster.
        (ClusterResources(cpus=0, gpus=0), True, (2, 1, 0)),
    ],
)
def test_what_an_actor_takes(
    cluster: ClusterResources, gpu: bool | None, taken: tuple[int, int, int]
) -> None:
    pool = ActorPool.on(cluster, "bundle", Columns(), "auto", workers=None, gpu=gpu)
    assert (pool.cpus, pool.gpus, pool.room) == taken


@pytest.mark.usefixtures("ray_session")
def test_actors_that_cannot_begin_end_the_classification(random_model: str, tmp_path: Path) -> None:
    write_labeled_shard(tmp_path / "sky" / "a.parquet", {"CRS": 2})
    catalog = str(tmp_path / "catalog")
    settings = catalog_settings(Columns(), [], "routed")
    # As if the bundle had been changed since the catalog was planned.
    sky = str(tmp_path / "sky")
    plan = plan_catalog(catalog, sky, "another", lambda _: settings, Columns(), ["object_id"], [])
    cluster = ClusterResources(cpus=2, gpus=0)
    actors = ActorPool.on(cluster, random_model, Columns(), "auto", workers=2, gpu=None)
    with pytest.raises(IncompleteError, match=r"broke off .* not another.*start the same command again"):
        list(classify_shards(catalog, plan, list(plan.shards.values()), actors))
    assert not list((tmp_path / "catalog").glob("*.parquet"))


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
