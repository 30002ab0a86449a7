"""Files that were made to eat a machine: the most memory, the longest time, and what becomes of them.

python benchmarks/hostile_inputs.py

Each file of `tests.hostile_files` is read and decoded as a worker does it, by a process of its own, whose
largest resident memory is compared with that of one that reads a good shard. The exit code is 1 if one takes
more than the ceiling of README and docs/robustness.md.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout
from pipeline.shards.cutout_shards import Columns, iter_rows
from pipeline.shards.shard_groups import SHARD_DAMAGE
from tests.drawings import write_labeled_shard
from tests.hostile_files import HOSTILE, write_hostile

CEILING_MB = 1500
PREPROCESSING = Preprocessing(64, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def main() -> None:
    """Read each kind in a process of its own, and print the table."""
    worst = 0.0
    print("| file | MB | most memory, MB | s | what became of the rows |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="hiwl-") as name:
        folder = Path(name)
        good = write_labeled_shard(folder / "good.parquet", {"CRS": 20})
        for kind in ("a good shard", *HOSTILE):
            path = good if kind == "a good shard" else written(kind, folder)
            found = measured(path)
            worst = max(worst, found["memory"])
            size = path.stat().st_size / 1e6
            took = f"{found['memory']:.0f} | {found['seconds']:.1f}"
            print(f"| {kind} | {size:.2f} | {took} | {found['words']} |", flush=True)
            path.unlink()
    print(f"most memory of all: {worst:.0f} MB, of {CEILING_MB}")
    sys.exit(int(worst > CEILING_MB))


def written(kind: str, folder: Path) -> Path:
    """A file, written by another process: one that is forked has its parent's memory for a start."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(write_hostile, kind, folder).result()


def measured(path: Path) -> dict[str, Any]:
    """What a process of its own took to read a file, in MB and seconds."""
    command = [sys.executable, __file__, str(path)]
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


def read(path: str) -> dict[str, Any]:
    """Read and decode all rows of a shard, as a worker does; what that took."""
    started = time.process_time()
    transform = EvalTransform(PREPROCESSING)
    statuses: Counter[str] = Counter()
    carry = ["note"] if "text" in path else []
    try:
        for table in iter_rows(path, Columns(), ["object_id", "image"], carry):
            given = table["_status"].to_pylist() if "_status" in table.column_names else [None] * len(table)
            for image, status in zip(table["image"], given, strict=True):
                statuses[status or read_cutout(image.as_py(), [transform], 64)[0]] += 1
    except SHARD_DAMAGE as error:
        statuses[f"the shard fails: {error}"] += 1
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    words = ", ".join(f"{count} {status}" for status, count in statuses.items())
    return {"memory": memory, "seconds": time.process_time() - started, "words": words}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(read(sys.argv[1])))
    else:
        main()
