"""What it costs to plan an epoch over very many labels, of which only the classes are held.

python benchmarks/training_plan.py 1e7 1e8

Shards of 4,096 galaxies of five classes and 6 kB each, which are nowhere: of an epoch of stage 2, drawn with
weights, all windows are planned for one worker. Prints seconds, and the peak of memory above what the
imports took.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from hiwl_core.decoding import DEFAULT_RGB
from hiwl_core.recipe import load_recipe
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.shard_groups import ShardToRead
from pipeline.training.checks import stage_preprocessing
from pipeline.training.cutout_blocks import LabeledSource
from pipeline.training.cutout_store import MEBIBYTE, CutoutStore
from pipeline.training.feed import StageFeed

ROWS_A_SHARD, BYTES_A_GALAXY = 4096, 6000
# As in Galaxy Zoo: CRS, IBS, CSS, EO, SPI.
SHARES = (0.30, 0.28, 0.02, 0.13, 0.27)


def main() -> None:
    """Plan an epoch for each number of labels."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("labels", type=float, nargs="+")
    recipe = load_recipe("galaxyzoo")
    stage = recipe.stage("stage2")
    before = peak()
    for labels in parser.parse_args().labels:
        shards = -(-int(labels) // ROWS_A_SHARD)
        size = ROWS_A_SHARD * BYTES_A_GALAXY
        source = LabeledSource(
            tuple(
                ShardToRead(f"s3://sky/{shard:06d}.parquet", size, ROWS_A_SHARD) for shard in range(shards)
            ),
            Columns(),
            np.arange(shards + 1) * ROWS_A_SHARD,
        )
        generator = np.random.default_rng(0)
        # Drawn once for all shards: drawing is not what is measured.
        codes = np.tile(generator.choice(len(SHARES), ROWS_A_SHARD, p=SHARES).astype(np.int8), shards)
        store = CutoutStore(source, codes, {}, DEFAULT_RGB, int(recipe.window_mb * MEBIBYTE))
        started = time.perf_counter()
        feed = StageFeed(store, recipe.taxonomy, "stage2", stage, stage_preprocessing(stage), 0, 1)
        drawn = [
            len(window.rows)
            for window in feed.window_draws(store.windows(0, 0), epoch=0, rank=0, world_size=1)
        ]
        seconds = time.perf_counter() - started
        print(
            f"{labels:.0e} labels in {shards:,} shards: {sum(drawn):,} draws in {len(drawn)} windows, "
            f"{seconds:.1f} s, {peak() - before:.0f} MiB",
            flush=True,
        )


def peak() -> float:
    """MiB of memory that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
