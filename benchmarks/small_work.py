"""Is small work done sooner by the command's own process than by Ray's workers?

    python benchmarks/small_work.py [--rows 100 1000 5000] [--rounds 3] [--model galaxyzoo]

Drawn cutouts are classified in turn by `hiwl classify` as it is, and by `hiwl classify --workers 1`, which
takes Ray. The table has the median seconds of the whole command, with the smallest and the largest, and the
ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import watched

from tests.drawings import CLASSES, write_labeled_shard

CUTOUT_PIXELS = 256
WAYS = {"this process": [], "Ray": ["--workers", "1"]}


def main() -> None:
    """Make the shards, classify them in turn, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="galaxyzoo")
    options = parser.parse_args()
    print(f"| rows | {' | '.join(WAYS)} | ratio |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            counts = dict.fromkeys(CLASSES, rows // len(CLASSES))
            shard = write_labeled_shard(Path(folder, f"sky-{rows}.parquet"), counts, size=CUTOUT_PIXELS)
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for round_ in range(options.rounds):
                for way, choice in WAYS.items():
                    catalog = f"{folder}/{rows}-{round_}-{len(choice)}"
                    command = [
                        sys.executable,
                        "-m",
                        "jobs.cli",
                        "classify",
                        options.model,
                        str(shard),
                        catalog,
                    ]
                    seconds[way].append(watched([*command, *choice], own=True)["whole"])
            cells = [
                f"{statistics.median(some):.1f} ({min(some):.1f}-{max(some):.1f})"
                for some in seconds.values()
            ]
            here, on_ray = (statistics.median(some) for some in seconds.values())
            print(f"| {rows:,} | {' | '.join(cells)} | {on_ray / here:.2f} |", flush=True)


if __name__ == "__main__":
    main()
