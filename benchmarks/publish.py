"""How much faster does ``hiwl publish`` make a HATS catalog than hats-import, of the same parts?

    python benchmarks/publish.py [--rows 1000000] [--rounds 5] [--json publish.json]

Each round runs all of them in turn, each in a process of its own, in an order that changes by round:

hiwl               as a user calls it: small catalogs are published by threads, larger ones on Ray
hiwl on Ray        the same with ``--workers``
hats-import        as documented: one input file a task, positions counted at order 10
hats-import tuned  with its own two remedies: index files, which give a task many small parts (four tasks a
                   worker), and positions counted at a lower order, ``--tuned-order``

All make tiles of at most ``--max-rows`` rows; Ray and Dask have ``--workers`` workers. **Whole** is the life
of the process, from the interpreter's start over that of Ray's or Dask's workers to its end; **work** begins
when these are there. Ratios are of the same round. The rows of each result are counted and compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ROWS_A_PART = 4096
CONTENDERS = ("hiwl", "hiwl on Ray", "hats-import", "hats-import tuned")
TASKS_A_WORKER = 4


def make_catalog(folder: Path, rows: int) -> None:
    """Parts as ``hiwl classify`` writes them, of galaxies at random on the footprint of the SDSS."""
    from tests.catalogs import write_catalog

    whole, rest = divmod(rows, ROWS_A_PART)
    if whole:
        write_catalog(folder, whole, ROWS_A_PART, seed=1)
    if rest:
        write_catalog(folder / "rest", 1, rest, seed=2)
        for part in (folder / "rest").iterdir():
            part.rename(folder / f"rest-{part.name}")
        (folder / "rest").rmdir()


def run_hiwl(catalog: Path, out: Path, options: argparse.Namespace, on_ray: bool) -> float:
    """Publish; seconds without the start of a cluster."""
    from pipeline.publication.publish import publish

    def work(workers: int | None) -> float:
        started = time.perf_counter()
        publish(str(catalog), str(out / "made"), name="made", max_rows=options.max_rows, workers=workers)
        return time.perf_counter() - started

    if not on_ray:
        return work(None)
    from pipeline.cluster import connected

    with connected(options.workers):
        return work(options.workers)


def run_hats_import(catalog: Path, out: Path, options: argparse.Namespace, tuned: bool) -> float:
    """Import; seconds without the start of a cluster."""
    from dask.distributed import Client
    from hats_import.catalog.arguments import ImportArguments
    from hats_import.pipeline import pipeline_with_client

    files = sorted(catalog.glob("*.parquet"))
    arguments: dict[str, Any] = {"input_file_list": files, "file_reader": "parquet"}
    if tuned:
        (out / "lists").mkdir()
        indexes = []
        tasks = min(len(files), TASKS_A_WORKER * options.workers)
        for number, some in enumerate(np.array_split(np.array(files, dtype=object), tasks)):
            indexes.append(out / "lists" / f"{number:03d}.txt")
            indexes[-1].write_text("".join(f"{path}\n" for path in some))
        arguments = {
            "input_file_list": indexes,
            "file_reader": "indexed_parquet",
            "highest_healpix_order": options.tuned_order,
        }
    with Client(n_workers=options.workers, threads_per_worker=1, dashboard_address=None) as client:
        started = time.perf_counter()
        pipeline_with_client(
            ImportArguments(
                output_path=out,
                output_artifact_name="made",
                pixel_threshold=options.max_rows,
                progress_bar=False,
                **arguments,
            ),
            client,
        )
        return time.perf_counter() - started


def run_contender(options: argparse.Namespace) -> None:
    """Run one of them in this process and say the seconds of its work."""
    catalog, out = Path(options.catalog), Path(options.out)
    if options.contender.startswith("hiwl"):
        seconds = run_hiwl(catalog, out, options, on_ray=options.contender == "hiwl on Ray")
    else:
        seconds = run_hats_import(catalog, out, options, tuned=options.contender == "hats-import tuned")
    print(json.dumps({"work": seconds}))


def measure(contender: str, catalog: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of one run, and what it made."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        out = Path(name)
        command = [
            sys.executable,
            __file__,
            "--contender",
            contender,
            "--catalog",
            str(catalog),
            "--out",
            name,
        ]
        for flag in ("workers", "max_rows", "tuned_order"):
            command += [f"--{flag.replace('_', '-')}", str(getattr(options, flag))]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        whole = time.perf_counter() - started
        if done.returncode:
            raise RuntimeError(f"{contender}: {done.stderr[-2000:]}")
        work = json.loads(done.stdout.splitlines()[-1])["work"]
        return {"contender": contender, "whole": whole, "work": work, **counted(out / "made")}


def counted(made: Path) -> dict[str, int]:
    """Tiles, rows and bytes of what was made."""
    import pyarrow.parquet as pq

    leaves = list((made / "made" if (made / "made").is_dir() else made).glob("dataset/Norder*/**/*.parquet"))
    return {
        "rows": sum(pq.read_metadata(path).num_rows for path in leaves),
        "tiles": len(leaves),
        "bytes": sum(path.stat().st_size for path in leaves),
    }


def table_of(runs: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Medians, smallest and largest, and the ratio to the reference within each round."""
    lines = []
    for contender, some in runs.groupby("contender", sort=False):
        line: dict[str, Any] = {"": contender, "tiles": some["tiles"].iloc[0]}
        line["MB"] = round(some["bytes"].iloc[0] / 1e6, 1)
        for kind in ("whole", "work"):
            seconds = some.set_index("round")[kind]
            of_reference = runs[runs["contender"] == reference].set_index("round")[kind]
            ratios = seconds / of_reference
            line[f"{kind} s"] = f"{seconds.median():.1f} ({seconds.min():.1f}-{seconds.max():.1f})"
            line[f"{kind} / {reference}"] = f"{ratios.median():.2f} ({ratios.min():.2f}-{ratios.max():.2f})"
        lines.append(line)
    return pd.DataFrame(lines)


def main() -> None:
    """Run all of them in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--catalog", help="folder of parts to publish, instead of made-up ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-rows", type=int, default=100_000, help="rows a tile at most")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tuned-order", type=int, default=7)
    parser.add_argument("--scratch", help="folder for what is made; default: the system's temporary one")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements here")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        run_contender(options)
        return

    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        catalog = Path(options.catalog or Path(folder) / "catalog")
        if not options.catalog:
            make_catalog(catalog, options.rows)
        runs = []
        for number in range(options.rounds):
            turn = number % len(options.only)
            for contender in (*options.only[turn:], *options.only[:turn]):
                runs.append({"round": number, **measure(contender, catalog, options)})
                last = runs[-1]
                print(
                    f"round {number + 1}: {contender}: {last['whole']:.1f} s, work {last['work']:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
        parts = list(catalog.glob("*.parquet"))
        measured = pd.DataFrame(runs)
        if measured["rows"].nunique() != 1:
            raise RuntimeError(f"the results have different rows: {measured[['contender', 'rows']]}")
        measured["contender"] = pd.Categorical(measured["contender"], options.only)
        table = table_of(measured.sort_values(["contender", "round"]), options.only[0])
        libraries = ("hiwl", "hats", "hats-import", "dask", "ray", "pyarrow")
        facts = {
            "rows": int(measured["rows"].iloc[0]),
            "parts": len(parts),
            "part_bytes": sum(path.stat().st_size for path in parts),
            "max_rows": options.max_rows,
            "workers": options.workers,
            "tuned_order": options.tuned_order,
            "rounds": options.rounds,
            "cores": len(os.sched_getaffinity(0)),
            "machine": platform.processor() or platform.machine(),
            "versions": {name: version(name) for name in libraries},
        }
    print(f"{facts['rows']:,} rows in {facts['parts']} parts, tiles of at most {options.max_rows:,} rows")
    print(table.to_string(index=False))
    if options.json:
        options.json.write_text(
            json.dumps({**facts, "table": table.to_dict("records"), "runs": runs}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
