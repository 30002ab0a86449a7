import numpy as np
import pytest

from hiwl_core.errors import UserError
from hiwl_core.sampling import (
    batch_bounds,
    class_weights,
    draws_of_shards,
    epoch_draws,
    epoch_windows,
    rank_share,
    rows_of_shard,
    stratified_sample,
)

# The paper's stage 2: 462 CSS and 3,122 EO among the training galaxies.
TARGETS = np.repeat([0, 1], [462, 3122])


def test_each_class_has_the_same_total_weight() -> None:
    weights = class_weights(TARGETS, 2)
    assert weights[TARGETS == 0].sum() == pytest.approx(0.5)
    assert weights[TARGETS == 1].sum() == pytest.approx(0.5)


def test_a_class_without_objects_cannot_be_drawn() -> None:
    with pytest.raises(UserError, match="no object of class index \\[1\\]"):
        class_weights(np.array([0, 0, 2]), 3)


def test_css_is_half_of_a_hundred_epochs_of_draws() -> None:
    weights = class_weights(TARGETS, 2)
    draws = np.concatenate(
        [epoch_draws(len(TARGETS), seed=0, epoch=epoch, weights=weights) for epoch in range(100)]
    )
    share = (TARGETS[draws] == 0).mean()
    assert len(draws) == 358_400
    # A binomial share of 358,400 draws has a standard deviation of 0.00084.
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(len(draws))


def test_draws_by_shard_have_the_law_of_draws_from_all_objects() -> None:
    # Class 0 lies in two of four shards, and one shard holds most of class 1.
    counts = np.array([[30, 10], [0, 900], [20, 70], [0, 20]])
    targets = [np.repeat([1, -1, 0], [ones, 5, zeros]) for zeros, ones in counts]
    epochs, total = 200, counts.sum()
    drawn = [np.zeros(len(of_shard)) for of_shard in targets]
    for epoch in range(epochs):
        draws = draws_of_shards(counts, 7, epoch, power=1.0)
        assert draws.sum() == total
        for shard, of_shard in enumerate(targets):
            rows = rows_of_shard(of_shard, draws[shard], 7, epoch, shard)
            assert np.bincount(of_shard[rows], minlength=2).tolist() == draws[shard].tolist()
            drawn[shard] += np.bincount(rows, minlength=len(of_shard))
    everything, classes = np.concatenate(drawn), np.concatenate(targets)
    assert not everything[classes < 0].any()
    observed = everything[classes >= 0]
    # Each object with the weight 1 / n_class.
    expected = epochs * total * class_weights(classes[classes >= 0], 2)
    statistic = ((observed - expected) ** 2 / expected).sum()
    # The chi-square of 1,049 degrees of freedom has a standard deviation of 45.8.
    assert abs(statistic - (total - 1)) < 4 * np.sqrt(2 * (total - 1))


def test_without_weights_each_row_of_each_shard_is_drawn_once() -> None:
    counts = np.array([[2, 1], [0, 3]])
    assert draws_of_shards(counts, 0, 0, power=None).tolist() == counts.tolist()
    assert rows_of_shard(np.array([1, -1, 0, 0]), None, 0, 0, 0).tolist() == [0, 2, 3]


def test_windows_hold_each_shard_once_and_no_more_than_they_may() -> None:
    sizes = np.array([5, 3, 4, 20, 1, 1])
    in_order = epoch_windows(sizes, 8, seed=0)
    assert [window.tolist() for window in in_order] == [[0, 1], [2], [3], [4, 5]]
    first, second = (epoch_windows(sizes, 8, seed=0, epoch=epoch) for epoch in (1, 2))
    for windows in (first, second):
        assert sorted(np.concatenate(windows)) == list(range(6))
        assert all(sizes[window].sum() <= 8 or len(window) == 1 for window in windows)
    assert [window.tolist() for window in first] != [window.tolist() for window in second]
    assert len(epoch_windows(sizes, 100, seed=0, epoch=3)) == 1


def test_draws_are_with_replacement_and_reach_nearly_all_of_a_small_class() -> None:
    draws = epoch_draws(len(TARGETS), 0, 0, class_weights(TARGETS, 2))
    css = draws[TARGETS[draws] == 0]
    assert len(css) > len(np.unique(css)) > 0.95 * 462


def test_plain_epochs_see_each_object_once_in_an_order_of_their_own() -> None:
    first, second = (epoch_draws(1000, 0, epoch) for epoch in (0, 1))
    assert sorted(first) == list(range(1000))
    assert not np.array_equal(first, second)


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    weights = class_weights(TARGETS, 2)
    assert np.array_equal(epoch_draws(3584, 7, 3, weights), epoch_draws(3584, 7, 3, weights))
    assert not np.array_equal(epoch_draws(3584, 7, 3, weights), epoch_draws(3584, 8, 3, weights))


@pytest.mark.parametrize("num_draws", [1, 23, 24, 25, 47, 48, 3584, 23031])
def test_batches_cover_all_draws_and_none_is_tiny(num_draws: int) -> None:
    bounds = batch_bounds(num_draws, 48)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(num_draws))
    assert all(24 <= stop - start < 72 for start, stop in bounds) or num_draws < 24


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_workers_share_each_global_batch_exactly(world_size: int) -> None:
    for start, stop in batch_bounds(3584, 48):
        shares = [rank_share(start, stop, rank, world_size) for rank in range(world_size)]
        assert sorted(np.concatenate(shares)) == list(range(start, stop))


def test_a_batch_smaller_than_the_workers_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be shared by 4 workers"):
        rank_share(0, 3, 0, 4)


def test_a_stratified_sample_has_the_shares_of_the_whole() -> None:
    classes = np.repeat(np.arange(5), [6747, 6455, 462, 3122, 6245])
    np.random.default_rng(0).shuffle(classes)
    rows = stratified_sample(classes, 4000, seed=0)
    assert len(rows) == len(np.unique(rows)) == 4000
    expected = np.bincount(classes) * 4000 / len(classes)
    assert np.abs(np.bincount(classes[rows]) - expected).max() < 1.01
    assert not np.array_equal(rows, stratified_sample(classes, 4000, seed=1))
    assert np.array_equal(rows, stratified_sample(classes, 4000, seed=0))


def test_a_small_stratified_sample_keeps_the_rarest_class() -> None:
    classes = np.repeat(np.arange(3), [2, 500, 500])
    assert np.bincount(classes[stratified_sample(classes, 10, seed=3)]).tolist() == [1, 5, 4]
    assert np.array_equal(stratified_sample(classes, 2000, seed=0), np.arange(1002))
    with pytest.raises(UserError, match="a sample of 2 cannot hold an object of each of 3 classes"):
        stratified_sample(classes, 2, seed=0)
