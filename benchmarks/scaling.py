"""How far one driver goes: planning and dispatch at many shards, with stand-ins for network and store.

python benchmarks/scaling.py dispatch WORK --workers 1,4,16,64 --shards-a-worker 40
python benchmarks/scaling.py dispatch WORK --workers 64 --shards 10000
python benchmarks/scaling.py plan WORK --shards 50000

`dispatch` runs `pipeline.classification.shard_stream.classify_shards` itself, with its ledger. Its workers
are logical: a stand-in waits for a shard as long as a network and a store of fixed speeds would take, which
needs no core, so that 64 of them fit on two. The files are small, and planned as shards of `--rows` galaxies.
What is counted is CPU time of the driver and of Ray's own processes; wall times are those of a machine that
may be busy.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import json
import os
import pstats
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline.shards.cutout_shards import SHARD_SCHEMA, Columns, encode_shard

__all__ = ["own_cpu", "write_files"]

ROWS_A_FILE = 4
READERS = 2
MEGABYTE = 1e6


def main() -> None:
    """Run what is asked for, and print one JSON line a measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    dispatch = verbs.add_parser("dispatch", help="classify through the real stream, with a stand-in stage")
    dispatch.add_argument("--workers", default="1,4,16,64")
    dispatch.add_argument("--shards", type=int, help="in all; default: by worker")
    dispatch.add_argument("--shards-a-worker", type=int, default=40)
    dispatch.add_argument("--rows", type=int, default=4096, help="galaxies of a shard")
    dispatch.add_argument("--images-a-second", type=float, default=8192.0, help="of a worker's network")
    dispatch.add_argument("--megabytes-a-second", type=float, default=100.0, help="from the store, a worker")
    dispatch.add_argument("--kilobytes", type=float, default=6.0, help="of an image")
    dispatch.add_argument("--fed", action="store_true", help="others read for the workers")
    dispatch.add_argument("--profile", action="store_true", help="print where the driver's time goes")
    plan = verbs.add_parser("plan", help="plan a catalog, and once more as a resume does")
    plan.add_argument("--shards", type=int, default=50_000)
    for verb in (dispatch, plan):
        verb.add_argument("work", type=Path, help="folder for the files")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("RAY_worker_niceness", "0")
    # For the workers that Ray starts.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    {"dispatch": measure_dispatch, "plan": measure_plan}[arguments.verb](arguments)


def measure_dispatch(arguments: argparse.Namespace) -> None:
    """CPU seconds of the driver a shard, and what share of the workers' time is work."""
    for workers in (int(word) for word in arguments.workers.split(",")):
        shards = arguments.shards or workers * arguments.shards_a_worker
        print(json.dumps(_dispatched(arguments, workers, shards)), flush=True)


def _dispatched(arguments: argparse.Namespace, workers: int, shards: int) -> dict[str, Any]:
    import ray

    from benchmarks.stand_in_stage import StandInStage, StandInWork
    from pipeline.catalog.ledger import Ledger
    from pipeline.catalog.manifest import PlannedShard
    from pipeline.classification.catalog_contents import CatalogContents
    from pipeline.classification.shard_stream import classify_shards
    from pipeline.classification.stage_actors import StageActors

    size = int(arguments.rows * arguments.kilobytes * 1000)
    seconds_network = arguments.rows / arguments.images_a_second
    seconds_store = size / MEGABYTE / arguments.megabytes_a_second
    paths = write_files(arguments.work / "sky", shards)
    plan = [PlannedShard(path, Path(path).name, arguments.rows, size, "", "") for path in paths]
    settings = CatalogContents().to_settings(Columns())
    work = StandInWork(settings, arguments.rows, seconds_network, seconds_store)
    # Others that read are another operator if a worker takes other resources.
    cpus = workers if not arguments.fed else 2 * workers + READERS
    actors = StageActors(2 if arguments.fed else 1, 0, workers, workers, fed=arguments.fed)
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, logging_level="ERROR")
    profile = cProfile.Profile() if arguments.profile else contextlib.nullcontext()
    try:
        started = time.monotonic()
        own_started = own_cpu()
        times: list[float] = []
        with Ledger(str(arguments.work / "catalog"), shards) as ledger, profile:
            for entry in classify_shards(work, plan, actors, StandInStage):  # type: ignore[arg-type]
                ledger.add(entry)
                times.append(time.monotonic() - started)
                if len(times) == 1:
                    before = _cpu_seconds()
        after = _cpu_seconds()
    finally:
        ray.shutdown()
    if isinstance(profile, cProfile.Profile):
        text = io.StringIO()
        pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(25)
        print(text.getvalue(), file=sys.stderr)
    spent = {name: after[name] - before[name] for name in after}
    count, first, last = len(times), times[0], times[-1]
    # Neither while workers start nor while some have ended.
    tenth = count // 10
    rate = (count - 2 * tenth - 1) / (times[-tenth - 1] - times[tenth])
    return {
        "workers": workers,
        "shards": count,
        "rows_a_shard": arguments.rows,
        "seconds_to_first": round(first, 1),
        "driver_seconds_to_first": round(before["driver"] - own_started, 1),
        "seconds_after_first": round(last - first, 1),
        "seconds_of_last_tenth": round(last - times[-tenth - 1], 1),
        "efficiency": round(rate * max(seconds_network, seconds_store) / workers, 3),
        "driver_ms_a_shard": round(1000 * spent["driver"] / count, 3),
        "ray_servers_ms_a_shard": round(1000 * spent["ray_servers"] / count, 3),
        "driver_cores": round(spent["driver"] / max(last - first, 1e-9), 3),
        "driver_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
    }


def measure_plan(arguments: argparse.Namespace) -> None:
    """CPU seconds and memory of a plan, and of the look at it that a resume takes."""
    from pipeline.classification.catalog_plan import plan_catalog
    from pipeline.classification.missing_parts import find_parts
    from pipeline.shards.inspection import WantedColumns

    write_files(arguments.work / "sky", arguments.shards)
    catalog = arguments.work / f"plan-{time.time_ns()}"
    for what in ("new", "again"):
        before, base = own_cpu(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        started = time.monotonic()
        sky = str(arguments.work / "sky")
        wanted = WantedColumns(Columns(), ("object_id", "image"))
        plan = plan_catalog(str(catalog), sky, "model", lambda *_: {"columns": {}}, wanted)
        find_parts(str(catalog), plan)
        count = len(plan.shards)
        del plan
        facts = {
            "plan": what,
            "shards": count,
            "driver_ms_a_shard": round(1000 * (own_cpu() - before) / count, 3),
            "seconds": round(time.monotonic() - started, 1),
            "mb_before": round(base),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000),
        }
        print(json.dumps(facts), flush=True)


def write_files(folder: Path, count: int, image: bool = True) -> list[str]:
    """So many small shards, or parts, with ids of their own; those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(folder / f"sky-{number:07d}.parquet") for number in range(count)]
    there = {entry.name for entry in os.scandir(folder)}
    for number, path in enumerate(paths):
        if os.path.basename(path) not in there:
            ids = np.arange(ROWS_A_FILE, dtype=np.int64) + ROWS_A_FILE * number
            columns: dict[str, Any] = {
                "object_id": ids,
                "ra": (ids * 0.001) % 360,
                "dec": ids % 90.0,
                "image": [b"\xff\xd8" + number.to_bytes(8, "big")] * ROWS_A_FILE,
                "pixel_scale": np.full(ROWS_A_FILE, 0.2, np.float32),
                "label": [None] * ROWS_A_FILE,
            }
            table = pa.table(
                {name: pa.array(columns[name], SHARD_SCHEMA.field(name).type) for name in columns}
            )
            Path(path).write_bytes(encode_shard(table, "scaling"))
    return paths


def own_cpu() -> float:
    """CPU seconds of this process so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def _cpu_seconds() -> dict[str, float]:
    """CPU seconds so far of this process and of Ray's servers."""
    spent = {"driver": own_cpu(), "ray_servers": 0.0}
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if not child.name().startswith("ray::"):
                times = child.cpu_times()
                spent["ray_servers"] += times.user + times.system
    return spent


if __name__ == "__main__":
    main()
