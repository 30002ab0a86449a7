"""Classifications whose driver, workers and nodes are killed again and again: is each catalog whole?

python benchmarks/kills.py --runs 20 --kills 20

A cluster of two worker nodes on this machine classifies 9,600 drawings in 48 shards. Whenever some new parts
are there, and a random moment later, one of them dies by SIGKILL, in turn: a worker, a node (its raylet, and
so its workers), the driver, a worker. A node is replaced and a driver started again; Ray replaces workers. A
run whose catalog is nearly done before all were killed goes on with another. Each catalog is then compared
with its shards by `hiwl verify`, and its rows with those of the undisturbed run. What makes no part for three
minutes hangs, and ends the benchmark.

One line a run; `undisturbed` is the same without kills. The exit code is 1 if a catalog is not whole.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pandas as pd

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline.catalog.verify import verify
from tests.bundles import random_bundle
from tests.kills import KINDS, Sky, classify_under_fire, expected_rows, read, write_sky


def main() -> None:
    """Run it all, and print what became of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=20, help="in each run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hiwl-") as name:
        work = Path(name)
        model, sky = random_bundle(work / "model"), write_sky(work, shards=48, copies=10)
        (work / "undisturbed").mkdir()
        seconds, (calm,) = timed(model, sky, work / "undisturbed", 0, arguments.seed)
        rows = read(calm)
        # Each shard holds the same drawings: the rows of the first are those of all.
        expected = expected_rows(sky, rows.iloc[: sky.rows])
        wrong = not (verify(str(calm)).passed and same(rows, expected))
        print("| run | kills | catalogs | seconds | whole |\n|---|---|---|---|---|", flush=True)
        print(f"| undisturbed | 0 | 1 | {seconds:.0f} | {'no' if wrong else 'yes'} |", flush=True)
        for run in range(arguments.runs):
            folder = work / f"run-{run}"
            folder.mkdir()
            seconds, catalogs = timed(model, sky, folder, arguments.kills, arguments.seed + run)
            whole = all(verify(str(one)).passed and same(read(one), expected) for one in catalogs)
            wrong = wrong or not whole
            row = (run, arguments.kills, len(catalogs), f"{seconds:.0f}", "yes" if whole else "no")
            print(f"| {' | '.join(map(str, row))} |", flush=True)
    sys.exit(int(wrong))


def timed(model: str, sky: Sky, folder: Path, kills: int, seed: int) -> tuple[float, list[Path]]:
    """Seconds, and the catalogs that came of it."""
    started = time.monotonic()
    kinds = list(islice(cycle(KINDS), kills))
    catalogs = classify_under_fire(model, sky, folder, kinds, np.random.default_rng(seed))
    return time.monotonic() - started, catalogs


def same(rows: pd.DataFrame, expected: pd.DataFrame) -> bool:
    """Whether a catalog's rows are those, but for the last digits, which depend on the threads granted."""
    try:
        pd.testing.assert_frame_equal(rows, expected, rtol=1e-4, atol=1e-5)
    except AssertionError as error:
        print(error, file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    main()
