"""Streams of training and validation batches: Ray Data decodes and transforms, a worker iterates.

What a worker gets is fixed by the draws, the seed and the epoch alone. Each row of a stream names a cutout
and the seed of its augmentation, so one, two or four workers see the same images in the same global batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import torch

from hiwl_core.augmentation import TrainTransform
from hiwl_core.cutouts import EvalTransform, Preprocessing, seen_pixels
from hiwl_core.decoding import Scratch, decode_pixels
from hiwl_core.recipe_sections import StageRecipe
from hiwl_core.sampling import batch_bounds, draws_of_shards, rank_share, rows_of_shard
from hiwl_core.taxonomy import Taxonomy
from pipeline.cluster import ordered_streams
from pipeline.read_ahead import read_ahead
from pipeline.training.cutout_store import CutoutStore
from pipeline.training.epoch_plan import AUGMENTATION, ORDER, Batch, epoch_plan

__all__ = ["FEED_CPUS", "StageFeed", "WindowDraws"]

# Rows a task: long enough to make the cost of a task small, short enough to start an epoch soon.
ROWS_A_TASK = 256
BLOCKS_AHEAD = 2
EVAL_BATCH = 128
# Decoding feeds a worker with a fraction of a core; Ray's CPUs are slots, not cores.
FEED_CPUS = 0.5


@dataclass(frozen=True)
class WindowDraws:
    """One worker's rows of a window.

    Parameters
    ----------
    shards : numpy.ndarray of int64
        Numbers of the window's shards.
    rows : numpy.ndarray of int64, shape (n,)
        Numbers of rows among those of these shards, one shard after the other.
    targets : numpy.ndarray of int8, shape (n,)
    seeds : numpy.ndarray of int64, shape (n,), or None
        Of the augmentation of each.
    """

    shards: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    seeds: np.ndarray | None = None


class StageFeed:
    """The cutouts of one stage as batches.

    Parameters
    ----------
    store : CutoutStore
    taxonomy : Taxonomy
    stage : str
    recipe : StageRecipe
    preprocessing : Preprocessing
    seed : int
    """

    def __init__(
        self,
        store: CutoutStore,
        taxonomy: Taxonomy,
        stage: str,
        recipe: StageRecipe,
        preprocessing: Preprocessing,
        seed: int,
    ) -> None:
        self._store, self._recipe, self._seed = store, recipe, seed
        self._num_classes = len(taxonomy.stage_classes(stage))
        # Of all rows of the shards, -1 for those that are not the stage's.
        self._targets = store.stage_targets(taxonomy, stage)
        self._preprocessing = preprocessing
        self.size = int((self._targets >= 0).sum())

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return len(batch_bounds(self.size, self._recipe.batch_size))

    def train_batches(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        """One worker's batches of an epoch, freshly drawn and augmented."""
        recipe, seed = self._recipe, self._seed
        transform = TrainTransform(recipe.augmentation, recipe.train_size(epoch))
        bounds = batch_bounds(self.size, recipe.batch_size)
        shares = [(len(rank_share(*bound, rank, world_size)), bound[1] - bound[0]) for bound in bounds]
        windows = self._store.windows(seed, epoch)
        draws = self.window_draws(windows, epoch, rank, world_size)
        return self._stream(transform, transform.input_size, windows, draws, shares, world_size)

    def window_draws(
        self, windows: list[np.ndarray], epoch: int, rank: int, world_size: int
    ) -> Iterator[WindowDraws]:
        """What one worker trains on in one epoch, in each of its windows."""
        recipe, seed = self._recipe, self._seed
        if len(windows) > 1:
            yield from self._draws(windows, epoch, rank, world_size)
            return
        rows = np.flatnonzero(self._targets >= 0)
        targets = self._targets[rows]
        plan = epoch_plan(targets, self._num_classes, recipe, seed, epoch, rank, world_size)
        yield WindowDraws(windows[0], rows[plan.rows], targets[plan.rows], plan.seeds)

    def eval_batches(self, rank: int, world_size: int) -> Iterator[Batch]:
        """One worker's share of all rows, in order, without augmentation."""
        mine = len(range(rank, self.size, world_size))
        bounds = [(i, min(i + EVAL_BATCH, mine)) for i in range(0, mine, EVAL_BATCH)]
        sizes = [(stop - start, stop - start) for start, stop in bounds]
        windows = self._store.windows()
        draws = self._in_order(windows, rank, world_size)
        size = self._preprocessing.input_size
        return self._stream(EvalTransform(self._preprocessing), size, windows, draws, sizes, world_size)

    def _draws(
        self, windows: list[np.ndarray], epoch: int, rank: int, world_size: int
    ) -> Iterator[WindowDraws]:
        """Draws from several windows; see `hiwl_core.sampling`."""
        recipe, seed = self._recipe, self._seed
        power = recipe.weighting if recipe.sampling == "weighted" else None
        wanted = draws_of_shards(self._counts_of_shards, seed, epoch, power)
        starts = np.array([start for start, _ in batch_bounds(self.size, recipe.batch_size)])
        first = 0
        for number, shards in enumerate(windows):
            rows, targets = self._rows(
                shards,
                lambda shard, targets: rows_of_shard(
                    targets, None if power is None else wanted[shard], seed, epoch, shard
                ),
            )
            order = np.random.default_rng([seed, epoch, ORDER, number]).permutation(len(rows))
            generator = np.random.default_rng([seed, epoch, AUGMENTATION, number])
            seeds = generator.integers(2**62, size=len(rows))
            # The place in the global batch says whose it is.
            places = np.arange(first, first + len(rows))
            in_batch = places - starts[np.searchsorted(starts, places, side="right") - 1]
            mine = in_batch % world_size == rank
            yield WindowDraws(shards, rows[order][mine], targets[order][mine], seeds[mine])
            first += len(rows)

    def _in_order(self, windows: list[np.ndarray], rank: int, world_size: int) -> Iterator[WindowDraws]:
        """All rows in order, every `world_size`-th of them."""
        first = 0
        for shards in windows:
            rows, targets = self._rows(shards, lambda _, targets: np.flatnonzero(targets >= 0))
            mine = (first + np.arange(len(rows))) % world_size == rank
            yield WindowDraws(shards, rows[mine], targets[mine])
            first += len(rows)

    def _rows(
        self, shards: np.ndarray, choose: Callable[[int, np.ndarray], np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows chosen of each shard of a window, by their number in the window, and their targets."""
        rows, found, start = [], [], 0
        for shard in shards.tolist():
            targets = self._store.of_shard(shard, self._targets)
            chosen = choose(shard, targets)
            rows.append(start + chosen)
            found.append(targets[chosen])
            start += len(targets)
        return np.concatenate(rows), np.concatenate(found)

    @cached_property
    def _counts_of_shards(self) -> np.ndarray:
        """Rows of each class of the stage in each shard; shape (S, K), int64."""
        codes = [
            self._store.of_shard(shard, self._targets) for shard in range(len(self._store.source.shards))
        ]
        # The first is of the rows that are none of the stage's.
        return np.stack([np.bincount(one + 1, minlength=self._num_classes + 1)[1:] for one in codes])

    def _stream(
        self,
        transform: TrainTransform | EvalTransform,
        size: int,
        windows: list[np.ndarray],
        draws: Iterator[WindowDraws],
        sizes: list[tuple[int, int]],
        world_size: int,
    ) -> Iterator[Batch]:
        """Batches of what is drawn, transformed to images of `size` pixels on a side."""
        blocks = (
            block
            for drawn, following in zip_longest(draws, windows[1:])
            for block in self._loaded(transform, size, drawn, following, world_size)
        )
        # The next window begins while the last blocks of one are trained on.
        return _rebatch(read_ahead(blocks, BLOCKS_AHEAD) if len(windows) > 1 else blocks, sizes)

    def _loaded(
        self,
        transform: TrainTransform | EvalTransform,
        size: int,
        drawn: WindowDraws,
        following: np.ndarray | None,
        world_size: int,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Pixels and targets of what is drawn from one window, decoded by tasks."""
        store, rgb = self._store.window(drawn.shards, following), self._store.rgb

        def load(table: pa.Table) -> dict[str, np.ndarray]:
            pixels = np.empty((len(table), size, size, 3), np.uint8)
            scratch = Scratch()
            seeds = table["seed"].to_pylist() if "seed" in table.column_names else []
            for i, encoded in enumerate(store.images(table["row"].to_numpy())):
                if isinstance(transform, EvalTransform):
                    (pixels[i],) = seen_pixels(encoded, [transform], rgb, scratch)
                else:
                    pixels[i] = transform(decode_pixels(encoded, rgb, scratch).pixels, seeds[i])
            return {"pixels": pixels, "target": table["target"].to_numpy().astype(np.int64)}

        columns = {"row": drawn.rows, "target": drawn.targets}
        if drawn.seeds is not None:
            columns["seed"] = drawn.seeds
        tables = [
            pa.table({name: values[start : start + ROWS_A_TASK] for name, values in columns.items()})
            for start in range(0, len(drawn.rows), ROWS_A_TASK)
        ]
        if not tables:
            return iter(())
        if store.here:
            return read_ahead(map(load, tables), BLOCKS_AHEAD)
        # Here, since it takes a second, which a training in this process should not wait for.
        import ray.data

        with ray.data.DataContext.current(ordered_streams(1 / world_size)):
            dataset = ray.data.from_blocks(tables).map_batches(
                load, batch_size=None, batch_format="pyarrow", num_cpus=FEED_CPUS
            )
        return iter(dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2))


def _rebatch(blocks: Iterator[dict[str, np.ndarray]], sizes: list[tuple[int, int]]) -> Iterator[Batch]:
    """Cut a stream of blocks of any length into batches of the given lengths."""
    source = iter(blocks)
    block: dict[str, np.ndarray] = {"pixels": np.empty(0), "target": np.empty(0)}
    start = 0
    for size, global_size in sizes:
        parts, missing = [], size
        while missing:
            if start == len(block["target"]):
                block, start = next(source), 0
            part = {name: values[start : start + missing] for name, values in block.items()}
            parts.append(part)
            start, missing = start + len(part["target"]), missing - len(part["target"])
        # A copy even of one part: the object store's arrays are read-only, and torch warns of those.
        pixels, targets = (np.concatenate([part[name] for part in parts]) for name in ("pixels", "target"))
        yield Batch(torch.from_numpy(pixels), torch.from_numpy(targets), global_size)
