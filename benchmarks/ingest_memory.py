"""Peak memory of the driver that plans an ingest, for more and more files.

python benchmarks/ingest_memory.py WORK --files 20000 --files 1000000

Each source is a folder in WORK of files of one byte, a thousand to a subfolder, planned by a process of
its own: listed, checked, sorted, cut into shards and stored. No image is read. WORK/ingest_memory.csv is the
table; the files stay, since they take longer to make than to list.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import shutil
import sys
import time
from pathlib import Path

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline.ingestion.folder import IngestFolder
from pipeline.ingestion.ingest_options import AS_THEY_ARE
from pipeline.ingestion.ingest_plan import check_unchanged, make_plan
from pipeline.ingestion.source import Listing

FILES_A_FOLDER = 1000
FIRST_ID = 1237648720690000000


def main() -> None:
    """Measure each size and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for the files and the table")
    parser.add_argument("--files", type=int, action="append", help="size of a source; may be repeated")
    arguments = parser.parse_args()
    rows = []
    for count in arguments.files or [20_000, 1_000_000]:
        source = make_files(arguments.work / f"files_{count}", count)
        with multiprocessing.get_context("spawn").Pool(1) as process:
            rows.append(process.apply(measure, (str(source), str(arguments.work / "plan"))))
        print(rows[-1], flush=True)
    with (arguments.work / "ingest_memory.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def make_files(folder: Path, count: int) -> Path:
    """A folder of so many files with survey ids for names, if it is not there yet."""
    if not folder.exists():
        for start in range(0, count, FILES_A_FOLDER):
            part = folder / f"{start // FILES_A_FOLDER:05d}"
            part.mkdir(parents=True)
            for number in range(start, min(start + FILES_A_FOLDER, count)):
                (part / f"{FIRST_ID + 7919 * number}.jpg").write_bytes(b"x")
    return folder


def measure(source: str, out: str) -> dict[str, float]:
    """Plan a source, then check it as a resumed run does; MB and seconds."""
    imports = peak_mb()
    shutil.rmtree(out, ignore_errors=True)
    folder, options = IngestFolder(out), AS_THEY_ARE
    started = time.monotonic()
    plan, _ = make_plan(Listing(source, out), options, folder)
    planned = time.monotonic()
    check_unchanged(plan, Listing(source, out), options, folder)
    checked = time.monotonic()
    shutil.rmtree(out)
    return {
        "files": plan.rows,
        "shards": len(plan.shards()),
        "imports_mb": imports,
        "peak_mb": peak_mb(),
        "plan_seconds": round(planned - started, 1),
        "resume_seconds": round(checked - planned, 1),
    }


def peak_mb() -> int:
    """Peak resident memory of this process so far, on Linux."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
