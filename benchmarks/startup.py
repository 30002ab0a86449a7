"""How soon does ``hiwl classify`` say that a finished catalog of many parts is finished?

    python benchmarks/startup.py [--parts 10000] [--rounds 3] [--json FILE]

So many shards of one row are classified, by a bundle with random heads on the local disk, and then the same
command is given again: it lists the shards and the catalog, reads its ledger and has nothing to do. How soon
the first image is in the engine is measured by `benchmarks/classify.py`, as `start`.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
from pathlib import Path

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import watched
from memory import fill

from tests.bundles import random_bundle


def main() -> None:
    """Make the catalog, ask for it again, print the times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    # So that the jobs are ended too when this script is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        fill(work / "sky", options.parts, 1)
        bundle = random_bundle(work / "bundle")
        command = [
            sys.executable,
            "-m",
            "jobs.cli",
            "classify",
            bundle,
            f"{work}/sky",
            f"{work}/catalog",
            "--workers",
            "1",
        ]
        first = watched(command, own=True)
        again = [watched(command, own=True) for _ in range(options.rounds)]
    for run in again:
        if f"{options.parts} parts were there already" not in run["said"]:
            sys.exit(f"the catalog was not finished:\n{run['said']}")
    seconds = [run["whole"] for run in again]
    figures = {
        "parts": options.parts,
        "classified_seconds": first["whole"],
        "again_seconds": {
            "median": statistics.median(seconds),
            "low": min(seconds),
            "high": max(seconds),
        },
    }
    print(f"{options.parts} parts of one row: classified in {first['whole']:.1f} s,")
    print(f"found finished in {statistics.median(seconds):.1f} s ({min(seconds):.1f} - {max(seconds):.1f})")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
