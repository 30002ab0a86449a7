"""A night on a simulated survey: tiles and positions to a HATS catalog, killed twice on the way.

python benchmarks/night.py WORK                      # hiwl cutouts, classify, publish
python benchmarks/night.py WORK --straight           # hiwl classify --positions, publish

100 tiles of 1000 x 1000 pixels in g, r, i overlap like the patches of a tract. 20,000 positions are spread
over them, each with a disk of some radius; at ten of them galaxies of known classes stand instead, as GalSim
draws them, chosen among those whose cutout alone the model calls by their class. The first verb is killed
with all its processes as soon as a third of its shards or parts are there, and at two thirds again. In the
end each position is in the published catalog once, or in rejects.csv, and each of the ten has its class
there, or the exit code is 1. Rates and memory are those of the run that ended, of all its processes, Ray's
start within.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.cutouts import FIRST_ID, hiwl
from benchmarks.measuring import ROOT, watched
from benchmarks.night_sky import GRID, POSITIONS, write_sky
from hiwl_core.bundle import load_bundle
from pipeline.storage.listing import hidden

KILLED_AT = (1 / 3, 2 / 3)
SECONDS_TO_DEATH = 1800.0


def main() -> None:
    """Measure, and print JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for tiles, shards and catalogs")
    parser.add_argument("--model", default="galaxyzoo")
    parser.add_argument("--straight", action="store_true", help="without cutouts on the way")
    parser.add_argument("--views", default="1")
    arguments = parser.parse_args()
    sky = arguments.work / "sky"
    if not (sky / "truth.json").exists():
        write_sky(sky, arguments.model)
    places = [str(sky / "tiles"), str(sky / "positions.parquet")]
    shards, catalog, published = (arguments.work / name for name in ("shards", "catalog", "hats"))
    for folder in (shards, catalog, published):
        shutil.rmtree(folder, ignore_errors=True)
    scale = ["--scale-from", "radius"]
    classify = ["classify", arguments.model, "--views", arguments.views]
    if arguments.straight:
        steps = [([*classify, places[0], str(catalog), "--positions", places[1], *scale], catalog)]
    else:
        size = str(load_bundle(arguments.model).smallest_cutout)
        cut = ["cutouts", *places, str(shards), "--size", size, "--recipe", "galaxyzoo", *scale]
        steps = [(cut, shards), ([*classify, str(shards), str(catalog)], catalog)]
    kill_twice(*steps[0])
    for verb, out in steps:
        ended(verb, out)
    for _, out in steps:
        print(watched(hiwl(["verify", str(out)]), own=True)["said"].splitlines()[-1], flush=True)
    ended(["publish", str(catalog), str(published)], published)
    check(sky, published, shards / "rejects.csv")


def kill_twice(verb: list[str], out: Path) -> None:
    """Start a verb and kill it with all its processes, twice, by the share of its shards that are there."""
    total = None
    for share in KILLED_AT:
        job = subprocess.Popen(
            hiwl(verb), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
        )
        began = time.monotonic()
        while job.poll() is None and time.monotonic() - began < SECONDS_TO_DEATH:
            time.sleep(0.2)
            total = total or planned(out)
            if total and len(list(out.glob("*.parquet"))) >= share * total:
                break
        family = [job, *psutil.Process(job.pid).children(recursive=True)] if job.poll() is None else []
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        job.wait()
        there = len(list(out.glob("*.parquet")))
        print(
            json.dumps({"killed": verb[0], "files": there, "of": total, "signal": job.returncode}), flush=True
        )


def planned(out: Path) -> int | None:
    """Shards or parts that a plan has, if there is one yet."""
    if (out / "_catalog.json").exists():
        return len(list((out / "_positions").glob("*.parquet")))
    if (out / "_ingest" / "plan.json").exists():
        return sum(map(len, json.loads((out / "_ingest" / "plan.json").read_text())["series"].values()))
    return None


def ended(verb: list[str], out: Path) -> None:
    """Run a verb to its end, and print what it took."""
    before = rows_in(out)
    facts: dict[str, Any] = watched(hiwl(verb), own=True)
    rows = rows_in(out)
    figures: dict[str, Any] = {"verb": verb[0], "rows": rows - before, "seconds": round(facts["whole"], 1)}
    figures |= {"rows_s": round((rows - before) / facts["whole"]), "peak_pss_mib": round(facts["pss"])}
    if verb[0] != "publish" and before < rows:
        figures["tiles_s"] = round(GRID**2 * (rows - before) / POSITIONS / facts["whole"], 1)
    print(json.dumps(figures), flush=True)


def rows_in(out: Path) -> int:
    """Rows of shards, parts or tiles, without what lies beside them."""
    own = [path for path in out.rglob("*.parquet") if not hidden(str(path.relative_to(out)))]
    return sum(pq.read_metadata(path).num_rows for path in own)


def check(sky: Path, published: Path, rejects: Path) -> None:
    """Each position is in the catalog or among the rejects, once; the known galaxies have their classes."""
    names = ["object_id", "label", "label_map", "status", "ra", "dec"]
    rows = pa.concat_tables([pq.read_table(path, columns=names) for path in published.rglob("Npix*.parquet")])
    rejected = []
    if rejects.exists():
        with rejects.open() as file:
            rejected = [int(line["object_id"]) for line in csv.DictReader(file)]
    ids = sorted(rows["object_id"].to_pylist() + rejected)
    truth = {int(one): name for one, name in json.loads((sky / "truth.json").read_text()).items()}
    by_id = {row["object_id"]: row for row in rows.to_pylist()}
    found = {one: by_id.get(one, {}).get("label_map") for one in truth}
    statuses = {
        one.as_py(): (rows["status"].to_pylist()).count(one.as_py()) for one in rows["status"].unique()
    }
    print(json.dumps({"rows": len(rows), "rejects": len(rejected), "statuses": statuses}))
    print(json.dumps({"known": [f"{truth[one]}: {found[one]}" for one in truth]}))
    if ids != [FIRST_ID + number for number in range(POSITIONS)]:
        sys.exit("some positions are lost, or there twice")
    if found != truth:
        sys.exit("a known galaxy has not its class")


if __name__ == "__main__":
    main()
