import hashlib
from collections import Counter

import numpy as np
import pytest

from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline.shards.cutout_shards import Columns, list_shards
from pipeline.training.checks import stage_preprocessing
from pipeline.training.cutout_store import CutoutStore, load_cutouts
from pipeline.training.epoch_plan import Batch, epoch_plan
from pipeline.training.feed import StageFeed
from pipeline.training.labeled_shards import check_labeled
from tests.conftest import TinyData
from tests.drawings import write_labeled_shard

TARGETS = np.repeat([0, 1], [462, 3122])


@pytest.mark.parametrize("world_size", [2, 4])
def test_any_number_of_workers_draws_the_same_global_batches(tiny_recipe: Recipe, world_size: int) -> None:
    for epoch in range(3):
        alone = epoch_plan(TARGETS, 2, tiny_recipe.stage2, 5, epoch, 0, 1)
        shares = [
            epoch_plan(TARGETS, 2, tiny_recipe.stage2, 5, epoch, rank, world_size)
            for rank in range(world_size)
        ]
        start, starts = 0, [0] * world_size
        for step, (size, global_size) in enumerate(alone.sizes):
            together = []
            for rank, share in enumerate(shares):
                mine, everyones = share.sizes[step]
                assert everyones == global_size == size
                part = slice(starts[rank], starts[rank] + mine)
                together += list(zip(share.rows[part].tolist(), share.seeds[part].tolist(), strict=True))
                starts[rank] += mine
            whole = slice(start, start + size)
            expected = zip(alone.rows[whole].tolist(), alone.seeds[whole].tolist(), strict=True)
            assert Counter(together) == Counter(expected)
            start += size


def test_weighted_epochs_are_half_css_and_plain_ones_are_everything_once(tiny_recipe: Recipe) -> None:
    plans = [epoch_plan(TARGETS, 2, tiny_recipe.stage2, 0, epoch, 0, 1) for epoch in range(100)]
    share = np.mean([(TARGETS[plan.rows] == 0).mean() for plan in plans])
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(100 * len(TARGETS))
    plain = epoch_plan(TARGETS, 2, tiny_recipe.stage1, 0, 0, 0, 1)
    assert sorted(plain.rows) == list(range(len(TARGETS)))


@pytest.fixture(scope="module")
def store(ray_session: None, tiny_data: TinyData) -> CutoutStore:
    labeled = check_labeled(list_shards(tiny_data.train), Columns(), GALAXY_ZOO)
    return load_cutouts(labeled, GALAXY_ZOO, smallest=72)


def make_feed(store: CutoutStore, recipe: Recipe, stage: str) -> StageFeed:
    section = recipe.stage(stage)
    return StageFeed(store, GALAXY_ZOO, stage, section, stage_preprocessing(section), seed=3)


@pytest.fixture(scope="module")
def windowed(ray_session: None, tiny_data: TinyData) -> CutoutStore:
    """The same galaxies, a shard a window."""
    labeled = check_labeled(list_shards(tiny_data.train), Columns(), GALAXY_ZOO)
    return load_cutouts(labeled, GALAXY_ZOO, smallest=72, window_bytes=1)


def fingerprints(batch: Batch) -> Counter[str]:
    return Counter(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in batch.pixels)


def test_two_workers_see_the_images_of_one(store: CutoutStore, tiny_recipe: Recipe) -> None:
    feed = make_feed(store, tiny_recipe, "stage2")
    alone = list(feed.train_batches(epoch=1, rank=0, world_size=1))
    pairs = zip(*(feed.train_batches(epoch=1, rank=rank, world_size=2) for rank in (0, 1)), strict=True)
    assert sum(len(batch.targets) for batch in alone) == 36
    for whole, (first, second) in zip(alone, pairs, strict=True):
        assert fingerprints(whole) == fingerprints(first) + fingerprints(second)
        assert whole.global_size == first.global_size == second.global_size


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_windows_have_the_same_draws_for_any_number_of_workers(
    windowed: CutoutStore, tiny_recipe: Recipe, stage: str
) -> None:
    assert windowed.blocks is None
    assert len(windowed.windows()) == 2
    feed = make_feed(windowed, tiny_recipe, stage)
    alone, again = (list(feed.train_batches(epoch=1, rank=0, world_size=1)) for _ in range(2))
    assert [fingerprints(batch) for batch in alone] == [fingerprints(batch) for batch in again]
    assert sum(len(batch.targets) for batch in alone) == feed.size
    for world_size in (2, 4):
        ranks = [feed.train_batches(epoch=1, rank=rank, world_size=world_size) for rank in range(world_size)]
        for whole, *parts in zip(alone, *ranks, strict=True):
            assert fingerprints(whole) == sum((fingerprints(part) for part in parts), Counter())
            assert {part.global_size for part in parts} == {len(whole.targets)}


def test_windows_validate_the_images_that_are_there_and_find_any_of_them(
    store: CutoutStore, windowed: CutoutStore, tiny_recipe: Recipe
) -> None:
    ways = [make_feed(one, tiny_recipe, "stage2").eval_batches(1, 2) for one in (store, windowed)]
    for batch, other in zip(*ways, strict=True):
        assert (batch.pixels == other.pixels).all()
        assert (batch.targets == other.targets).all()
    rows = np.random.default_rng(0).permutation(store.rows)[:40]
    assert windowed.images(rows) == store.images(rows)
    sample = windowed.sampled(30, seed=1)
    assert sample.rows.tolist() == store.sampled(30, seed=1).rows.tolist()


def test_an_epoch_in_windows_holds_each_galaxy_once_or_classes_alike(
    windowed: CutoutStore, tiny_recipe: Recipe
) -> None:
    plain, weighted = (make_feed(windowed, tiny_recipe, stage) for stage in ("stage1", "stage2"))
    targets = np.concatenate([batch.targets.numpy() for batch in plain.train_batches(0, 0, 1)])
    expected = windowed.stage_targets(GALAXY_ZOO, "stage1")
    assert np.bincount(targets).tolist() == np.bincount(expected[expected >= 0]).tolist()
    cigars = [
        np.concatenate([batch.targets.numpy() for batch in weighted.train_batches(epoch, 0, 1)]) == 0
        for epoch in range(4)
    ]
    assert abs(np.mean(cigars) - 0.5) < 4 * 0.5 / np.sqrt(4 * weighted.size)


def test_augmentation_is_fresh_each_epoch_and_validation_always_the_same(
    store: CutoutStore, tiny_recipe: Recipe
) -> None:
    feed = make_feed(store, tiny_recipe, "stage1")
    first, again, second = (
        sum((fingerprints(batch) for batch in feed.train_batches(epoch, 0, 1)), Counter())
        for epoch in (0, 0, 1)
    )
    assert first == again
    assert not first & second
    one, two = (list(feed.eval_batches(0, 1)) for _ in range(2))
    assert [fingerprints(batch) for batch in one] == [fingerprints(batch) for batch in two]
    targets = np.concatenate([batch.targets.numpy() for batch in one])
    assert targets.tolist() == GALAXY_ZOO.stage_targets("stage1", store.class_indices).tolist()


def test_images_and_labels_stay_together(store: CutoutStore, tiny_recipe: Recipe) -> None:
    # The drawings of the combined class are thin: most of their frame is sky.
    feed = make_feed(store, tiny_recipe, "stage1")
    light: dict[int, list[float]] = {0: [], 3: []}
    for batch in feed.eval_batches(0, 1):
        for pixels, target in zip(batch.pixels.float(), batch.targets.tolist(), strict=True):
            if target in light:
                light[target].append(float(pixels.mean()))
    assert min(light[0]) > max(light[3])


@pytest.mark.usefixtures("ray_session")
def test_broken_and_unlabeled_cutouts_are_left_out_and_counted(tmp_path) -> None:  # type: ignore[no-untyped-def]
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write_labeled_shard(tmp_path / "a.parquet", {"CRS": 4, "EO": 3})
    table = pq.read_table(path)
    images, labels = table["image"].to_pylist(), table["label"].to_pylist()
    images[0], images[1], labels[2] = b"broken", None, None
    table = table.set_column(3, "image", pa.array(images)).set_column(
        5, "label", pa.array(labels, pa.string())
    )
    pq.write_table(table, path)
    labeled = check_labeled([str(path)], Columns(), GALAXY_ZOO)
    store = load_cutouts(labeled, GALAXY_ZOO, smallest=72)
    assert labeled.unlabeled == 1
    assert store.left_out == {"undecodable": 1, "missing": 1}
    expected = [images[row] for row in range(3, 7)]
    assert store.rows.tolist() == [3, 4, 5, 6]
    assert store.images(np.array([6, 3, 4, 5, 6])) == [expected[i] for i in (3, 0, 1, 2, 3)]
    assert store.class_indices.tolist() == GALAXY_ZOO.encode(labels[3:]).tolist()


def test_unknown_classes_are_found_before_any_work(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = str(write_labeled_shard(tmp_path / "a.parquet", {"CRS": 1}))
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    pq.write_table(table.set_column(5, "label", pa.array(["BAR"])), path)
    with pytest.raises(UserError, match=r"unknown class 'BAR'.*a\.parquet, column 'label'"):
        check_labeled([path], Columns(), GALAXY_ZOO)
