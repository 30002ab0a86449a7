"""Is the memory of ``hiwl classify`` bounded? The peaks of a short job and of one ten times as long.

    python benchmarks/memory.py [WORK] [--rows 20000 200000] [--tiny 10000] [--json FILE]

Drawn cutouts of 64 px are repeated under ids of their own in shards of 500 rows, and classified by a bundle
with random heads on the local disk. Meanwhile all processes of the job are looked at: the driver, the worker
that classifies, Ray's own. RSS counts pages that processes share, of libraries and of Ray's object store, in
each of them; `anonymous` is the part of it that a process allocated, `store` the part in shared memory, where
the object store is. USS counts what a process has for itself; PSS divides what is shared, so that the PSS of
all processes adds up to what the job takes, its object store among it. USS and PSS are looked at once a
second, the others five times, since the kernel has to walk all pages for them.

With --tiny, shards of one row are made instead of so many, and the job is ended after its first part.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline.shards.cutout_shards import encode_shard, shard_name
from tests.bundles import random_bundle
from tests.drawings import CLASSES, draw_galaxy

FIRST_ID = 588 * 10**15
CUTOUT_PIXELS = 64
DRAWINGS = 500
SECONDS_BETWEEN_LOOKS = 0.2
LOOKS_BETWEEN_WALKS = 5
MEBIBYTE = 2**20
DRIVER, WORKER, ALL = "driver", "classifying worker", "all processes"


def main() -> None:
    """Make the data, run the jobs, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, nargs="?", help="folder for the data; default one that is removed")
    parser.add_argument("--rows", type=int, nargs=2, default=[20_000, 200_000], metavar=("FEW", "MANY"))
    parser.add_argument("--shard-rows", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tiny", type=int, metavar="SHARDS", help="only start on so many shards of one row")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    # So that the job is ended too when this script is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bundle = random_bundle(work / "bundle")
        catalogs = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work)))
        if options.tiny:
            jobs = [(options.tiny, 1)]
        else:
            jobs = [(rows, options.shard_rows) for rows in sorted(options.rows)]
        for rows, shard_rows in jobs:
            fill(work / f"sky-{rows}", rows, shard_rows)
        runs = []
        for round_ in range(options.rounds):
            for rows, _ in jobs:
                shards, catalog = work / f"sky-{rows}", catalogs / f"catalog-{rows}-{round_}"
                run = watch(bundle, shards, catalog, until_first_part=bool(options.tiny))
                runs.append({"round": round_, "rows": rows, **run})
                print(f"{rows:,} rows: {run['seconds']:.0f} s, first part after {run['first_part']:.1f} s")
                print(pd.DataFrame(run["peaks"]).T.round(0).to_string(), flush=True)
                if options.json:
                    options.json.write_text(json.dumps(runs))
    if not options.tiny:
        print(ratios(runs).to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def fill(folder: Path, rows: int, shard_rows: int) -> None:
    """Shards of repeated drawings; a folder that is there already is kept."""
    count = -(-rows // shard_rows)
    if folder.exists() and len(list(folder.iterdir())) == count:
        return
    folder.mkdir(parents=True, exist_ok=True)
    drawings = [draw_galaxy(CLASSES[seed % 5], seed, CUTOUT_PIXELS) for seed in range(DRAWINGS)]
    for index in range(count):
        chosen = np.arange(index * shard_rows, min((index + 1) * shard_rows, rows))
        table = pa.table(
            {
                "object_id": pa.array(FIRST_ID + chosen),
                "ra": pa.array(chosen * (360 / rows)),
                "dec": pa.array(np.zeros(len(chosen))),
                "image": pa.array([drawings[one % DRAWINGS] for one in chosen], pa.binary()),
            }
        )
        (folder / shard_name("sky", index, count)).write_bytes(encode_shard(table, "benchmarks/memory.py"))


def watch(bundle: str, shards: Path, catalog: Path, until_first_part: bool) -> dict[str, Any]:
    """Run ``hiwl classify`` and look at its processes.

    Returns
    -------
    dict
        ``seconds`` in all, ``first_part`` seconds until it was there, ``peaks`` in MiB by process and kind,
        ``processes`` at most, and ``timeline``: once a second the seconds, then RSS and USS of driver and of
        worker.
    """
    with tempfile.TemporaryFile() as log:
        started = time.monotonic()
        job = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jobs.cli",
                "classify",
                bundle,
                str(shards),
                str(catalog),
                "--workers",
                "1",
            ],
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parents[1],
            env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            start_new_session=True,
        )
        try:
            run = _look(job, catalog, started, until_first_part)
        finally:
            _end(job)
        if not until_first_part and job.returncode:
            log.seek(0)
            sys.exit(log.read().decode(errors="replace"))
    return run


def _look(
    job: subprocess.Popen[bytes], catalog: Path, started: float, until_first_part: bool
) -> dict[str, Any]:
    peaks: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    timeline, looks, processes = [], 0, 0
    first_part = float("nan")
    while job.poll() is None:
        begun = time.monotonic()
        walk = looks % LOOKS_BETWEEN_WALKS == 0
        now = _memory(job.pid, walk)
        for role, kinds in now.items():
            for kind, size in kinds.items():
                peaks[role][kind] = max(peaks[role][kind], size)
        if walk:
            seconds = round(begun - started, 1)
            figures = [now[role][kind] for role in (DRIVER, WORKER) for kind in ("RSS", "USS")]
            timeline.append([seconds, *map(round, figures)])
        looks, processes = looks + 1, max(processes, int(now[ALL]["processes"]))
        if np.isnan(first_part) and any(catalog.glob("*.parquet")):
            first_part = begun - started
            if until_first_part:
                break
        time.sleep(max(0.0, SECONDS_BETWEEN_LOOKS - (time.monotonic() - begun)))
    return {
        "seconds": time.monotonic() - started,
        "first_part": first_part,
        "peaks": {role: dict(peaks[role]) for role in (DRIVER, WORKER, ALL)},
        "processes": processes,
        "timeline": timeline,
    }


def _memory(driver: int, walk: bool) -> dict[str, dict[str, float]]:
    """MiB by role and kind, now; with USS and PSS if all pages are to be walked."""
    sizes: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]:
            with contextlib.suppress(psutil.Error, FileNotFoundError, KeyError):
                role = DRIVER if process.pid == driver else ""
                if "CascadeStage" in " ".join(process.cmdline()):
                    role = WORKER
                facts = process.memory_full_info() if walk else process.memory_info()
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                fields = dict(line.split(":", 1) for line in status)
                for name in (role, ALL):
                    sizes[name]["RSS"] += facts.rss / MEBIBYTE
                    sizes[name]["anonymous"] += _kilobytes(fields["RssAnon"]) * 1024 / MEBIBYTE
                    sizes[name]["store"] += _kilobytes(fields["RssShmem"]) * 1024 / MEBIBYTE
                    sizes[name]["processes"] += 1
                    if walk:
                        sizes[name]["USS"] += facts.uss / MEBIBYTE
                        sizes[name]["PSS"] += facts.pss / MEBIBYTE
    return sizes


def _kilobytes(words: str) -> int:
    return int(words.split()[0])


def _end(job: subprocess.Popen[bytes]) -> None:
    """End the job and all that it started."""
    family = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(job.pid).children(recursive=True)
    if job.poll() is None:
        job.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            job.wait(timeout=20)
    if job.poll() is None:
        job.kill()
        job.wait()
    for process in psutil.wait_procs(family, timeout=10)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def ratios(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Peaks of the short and the long job in MiB (medians of the rounds), and long over short."""
    few, many = sorted({run["rows"] for run in runs})
    rows = []
    for role in (DRIVER, WORKER, ALL):
        for kind in ("RSS", "anonymous", "USS", "PSS"):
            short, long = (
                float(np.median([run["peaks"][role][kind] for run in runs if run["rows"] == size]))
                for size in (few, many)
            )
            rows.append(
                {
                    "": role,
                    "peak": kind,
                    f"{few:,} rows": short,
                    f"{many:,} rows": long,
                    "ratio": long / short,
                }
            )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
