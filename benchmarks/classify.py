"""How near does ``hiwl classify`` come to the network's own speed, and what does its second stage cost?

    python benchmarks/classify.py IMAGES [--backbone efficientnet_b1] [--size 240] [--rounds 3] [--json FILE]
    python benchmarks/classify.py IMAGES --backbone efficientnet_lite0 --size 96 --json lite0.json

IMAGES is a folder of JPEGs, such as Galaxy Zoo's of 424 px; they are repeated under ids of their own to
--rows rows of cutout shards. Each round runs in turn, each in a process of its own:

ceiling    the engine and the decoder alone, by `benchmarks/ceiling.py`; before each of the others, since a
           shared machine may be slower the next minute
stage 1    `hiwl classify` with a bundle that routes nothing on, so that it does what the ceiling does
cascade    `hiwl classify` with a bundle that routes 15.6 % on to stage 2, as many as CSS and EO are of Galaxy
           Zoo's clean sample (4,481 of 28,790; Ma et al. 2023)

The rate of `hiwl classify` is all rows over the time from the first row read to the last part written, by the
catalog's ledger: reading, decoding, both networks, writing, and what lies between tasks. `start` is the time
from the command to the first row read, `whole` the life of the process; the start of Ray is in both, and
`ray` is what an empty `ray.init` and one task took in a process of their own. Weights are random, with the
statistics and the spread of logits that the images give them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import ROOT, versions_of, watched
from peers import fill

from pipeline.catalog.ledger import read_ledger
from tests.bundles import random_bundle

CROP = 240
ROUTED = 4481 / 28790
SUBJECTS = {"stage 1": 0.0, "cascade": ROUTED}
RAY_START = """
import time
import ray
began = time.time()
ray.init(address="local", include_dashboard=False, logging_level=40, log_to_driver=False)
ray.get(ray.remote(lambda: 1).remote())
print(time.time() - began)
"""


def main() -> None:
    """Make the data, run the rounds, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--backbone", default="efficientnet_b1")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each figure of the ceiling")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for the data, kept, and used if it is there; default one that is removed",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    # So that the jobs are ended too when this script is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        catalogs = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=work)))
        images = sorted(options.images.glob("*.jpg"))
        contents = [path.read_bytes() for path in images]
        fill(catalogs / "sky", images, options.rows)
        for name, routed in SUBJECTS.items():
            if not (work / name / "bundle.json").exists():
                random_bundle(
                    work / name, 0, max(CROP, options.size), options.size, options.backbone, contents, routed
                )
        chosen = ["--engine", options.engine, "--precision", options.precision]
        rounds: list[dict[str, Any]] = []
        for number in range(options.rounds):
            alone, runs = [], {}
            for name in SUBJECTS:
                alone.append(ceiling(work, options.images, options.seconds, chosen))
                runs[name] = classify(work / name, catalogs / "sky", catalogs / f"{name}-{number}", chosen)
            rounds.append({"ceilings": alone, **runs, "ray": ray_start()})
            print(
                f"round {number + 1}: engine {' and '.join(str(round(one['stage1'], 1)) for one in alone)}, "
                + ", ".join(f"{name} {run['rate']:.1f}" for name, run in runs.items())
                + " images/s",
                flush=True,
            )
    figures = summary(rounds, options)
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def ceiling(work: Path, images: Path, seconds: float, chosen: list[str]) -> dict[str, Any]:
    """What the engine and the decoder do alone."""
    out = work / "ceiling.json"
    command = [sys.executable, ROOT / "benchmarks/ceiling.py", work / "cascade", images, "--seconds", seconds]
    watched([*map(str, command), *chosen, "--json", str(out)], own=True)
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def classify(bundle: Path, shards: Path, catalog: Path, chosen: list[str]) -> dict[str, Any]:
    """Run the command; its rate by the ledger, and its times."""
    command = [sys.executable, "-m", "jobs.cli", "classify", bundle, shards, catalog, "--workers", "1"]
    began = time.time()
    run = watched([*map(str, command), *chosen], own=True)
    entries = [entry for made in read_ledger(str(catalog)).values() for entry in made]
    first = min(entry.finished - entry.seconds for entry in entries)
    seconds = max(entry.finished for entry in entries) - first
    rows = sum(entry.rows for entry in entries)
    return {
        "rate": rows / seconds,
        "rows": rows,
        "seconds": seconds,
        "start": first - began,
        "whole": run["whole"],
        "pss": run["pss"],
    }


def ray_start() -> float:
    """Seconds that Ray takes to start and to run an empty task."""
    done = subprocess.run([sys.executable, "-c", RAY_START], check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def summary(rounds: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Medians and ranges, and the ratios of the medians."""
    ceilings = [alone for one in rounds for alone in one["ceilings"]]
    engine = spread([alone["stage1"] for alone in ceilings])
    decoder = spread([alone["decoder"] for alone in ceilings])
    rates = {name: spread([one[name]["rate"] for one in rounds]) for name in SUBJECTS}
    slower = min(engine["median"], decoder["median"])
    # Of two cores that decode and compute in turn.
    together = 1 / (1 / engine["median"] + 1 / decoder["median"])
    return {
        "backbone": options.backbone,
        "size": options.size,
        "rows": options.rows,
        "computing": ceilings[0]["engine"],
        "engine": engine,
        "decoder": decoder,
        "classify": rates["stage 1"],
        "classify_cascade": rates["cascade"],
        "ratio_to_ceiling": rates["stage 1"]["median"] / engine["median"],
        "ratio_to_slower": rates["stage 1"]["median"] / slower,
        "ratio_to_both": rates["stage 1"]["median"] / together,
        "cascade_overhead": rates["stage 1"]["median"] / rates["cascade"]["median"],
        "start_seconds": spread([one[name]["start"] for one in rounds for name in SUBJECTS]),
        "ray_seconds": spread([one["ray"] for one in rounds]),
        "peak_pss_mib": spread([one[name]["pss"] for one in rounds for name in SUBJECTS]),
        "rounds": rounds,
        "versions": versions_of(["torch", "torchvision", "openvino", "simplejpeg", "ray", "pillow"]),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""

    def line(name: str, what: dict[str, float], unit: str) -> str:
        return f"{name:<36}{what['median']:10.1f}  ({what['low']:.1f} - {what['high']:.1f}) {unit}"

    return "\n".join(
        [
            f"{figures['backbone']} at {figures['size']} px, {figures['rows']} rows, {figures['computing']}",
            line("engine alone", figures["engine"], "images/s"),
            line("decoder alone", figures["decoder"], "images/s"),
            line("hiwl classify, stage 1", figures["classify"], "images/s"),
            line("hiwl classify, 15.6 % to stage 2", figures["classify_cascade"], "images/s"),
            line("from the command to the first row", figures["start_seconds"], "s"),
            line("of which Ray's own start", figures["ray_seconds"], "s"),
            line("peak memory of all processes", figures["peak_pss_mib"], "MiB PSS"),
            f"classify / engine alone               {figures['ratio_to_ceiling']:.3f}",
            f"classify / slower of the two alone    {figures['ratio_to_slower']:.3f}",
            f"classify / both in turn               {figures['ratio_to_both']:.3f}",
            f"stage 1 / cascade                     {figures['cascade_overhead']:.3f}",
        ]
    )


if __name__ == "__main__":
    main()
