"""A million cutouts from a real S3 server to a catalog on it, killed again and again on the way.

python benchmarks/million.py WORK --bundle BUNDLE --cutouts FOLDER

Cutouts of a simulation (`hiwl simulate OUT --size 64`) are repeated under ids and positions of their own, put
on a SeaweedFS server that runs in WORK/store, and classified by `hiwl classify`. At random moments the job is
killed, driver and Ray at once, with SIGKILL, and started again; at others one of its workers is. At the end
`hiwl verify` compares the catalog with the shards. All that the commands say is in WORK/log.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline import storage
from pipeline.shards.cutout_shards import (
    MAX_SHARD_ROWS,
    Columns,
    encode_shard,
    list_shards,
    read_columns,
    shard_name,
)
from tests.object_store import serve, store_environment

FIRST_ID = 588 * 10**15
SECONDS_BETWEEN_LOOKS = 1.0


def main() -> None:
    """Run it all, and print what happened."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for the store, the log and the table")
    parser.add_argument("--bundle", required=True, help="model bundle")
    parser.add_argument("--cutouts", required=True, help="shards of the cutouts to repeat")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=3, help="of the whole job; as many again of a worker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8333)
    arguments = parser.parse_args()
    os.environ.update(store_environment(arguments.port))
    arguments.work.mkdir(parents=True, exist_ok=True)
    with serve((arguments.work / "store").resolve(), arguments.port) as store:
        shards, catalog = f"{store.url}/cutouts", f"{store.url}/catalog"
        fill(shards, arguments.cutouts, arguments.rows, arguments.seed)
        with (arguments.work / "log.txt").open("a") as log:
            events = classify_under_fire(
                ["classify", arguments.bundle, shards, catalog],
                catalog,
                -(-arguments.rows // MAX_SHARD_ROWS),
                arguments.kills,
                arguments.seed,
                log,
            )
            started = time.monotonic()
            code = run(["verify", catalog], log).wait()
            seconds = round(time.monotonic() - started)
            events.append({"what": "hiwl verify", "seconds since its start": seconds, "exit code": code})
    (arguments.work / "events.json").write_text(json.dumps(events, indent=1))
    for event in events:
        print(event)
    sys.exit(code)


def fill(shards: str, cutouts: str, rows: int, seed: int) -> None:
    """Put shards of repeated cutouts on the store; those that are there are kept."""
    base = pa.concat_tables(
        read_columns(shard, Columns(), ["image", "pixel_scale"], ["truth"]) for shard in list_shards(cutouts)
    )
    count = -(-rows // MAX_SHARD_ROWS)
    for index in range(count):
        path = f"{shards}/{shard_name('million', index, count)}"
        start, stop = index * MAX_SHARD_ROWS, min((index + 1) * MAX_SHARD_ROWS, rows)
        if storage.exists(path):
            continue
        rng = np.random.default_rng([seed, index])
        number = stop - start
        north = math.sin(math.radians(60))
        columns = {
            "object_id": pa.array(FIRST_ID + np.arange(start, stop)),
            "ra": rng.uniform(110, 260, number),
            "dec": np.degrees(np.arcsin(rng.uniform(0, north, number))),
            **dict(
                zip(base.column_names, base.take(rng.integers(0, base.num_rows, number)).columns, strict=True)
            ),
        }
        storage.write_bytes(path, encode_shard(pa.table(columns), "benchmarks/million.py"))
        print(f"filled {index + 1} of {count} shards", end="\r", flush=True)
    print()


def classify_under_fire(
    command: list[str], catalog: str, parts: int, kills: int, seed: int, log: Any
) -> list[dict[str, Any]]:
    """Classify to the end, through kills at random moments; returns what happened when."""
    rng = np.random.default_rng(seed)
    moments = [
        *((int(moment), "job") for moment in rng.uniform(0.03, 0.97, kills) * parts),
        *((int(moment), "worker") for moment in rng.uniform(0.03, 0.97, kills) * parts),
    ]
    events: list[dict[str, Any]] = []
    for moment, victim in [*sorted(moments), (parts + 1, "nobody")]:
        if not events or events[-1]["what"] != "killed worker":
            started, process = time.monotonic(), run(command, log)
        while (done := parts_done(catalog)) < moment and process.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        event: dict[str, Any] = {"parts": done, "seconds since its start": round(time.monotonic() - started)}
        if victim == "nobody":
            events.append({"what": "ended", **event, "exit code": process.wait()})
        elif victim == "job":
            kill_all(process)
            events.append({"what": "killed job", **event})
        else:
            events.append({"what": "killed worker", **event, "pid": kill_a_worker(process)})
        print(f"*** {events[-1]}", file=log, flush=True)
    return events


def run(arguments: list[str], log: Any) -> subprocess.Popen[bytes]:
    """Start a verb; what it says goes to the log."""
    print(f"*** hiwl {' '.join(arguments)}", file=log, flush=True)
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments],
        stdout=log,
        stderr=log,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
    )


def parts_done(catalog: str) -> int:
    """Parts in the catalog's folder."""
    return sum(name.endswith(".parquet") for name, _ in storage.list_files(catalog))


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """End the driver and all processes of its Ray at once."""
    family = psutil.Process(process.pid).children(recursive=True)
    for one in [psutil.Process(process.pid), *family]:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(family, timeout=30)


def kill_a_worker(process: subprocess.Popen[bytes]) -> int | None:
    """End the process that holds the networks; its Ray and the driver go on."""
    for one in psutil.Process(process.pid).children(recursive=True):
        if "CascadeStage" in " ".join(one.cmdline()):
            one.send_signal(signal.SIGKILL)
            return one.pid
    return None


if __name__ == "__main__":
    main()
