"""Cutouts a second from three-band tiles of simulated sky, and a night that is killed twice.

python benchmarks/cutouts.py WORK                       # rates, of each way of cutting
python benchmarks/cutouts.py WORK --night --model galaxyzoo

The first writes tiles of 4096 x 4096 float32 pixels in g, r, i (once; 200 MB a tile) and cuts positions that
are spread evenly over them, a run for each way, in Ray on the machine's cores; it prints JSON lines. The
second has 100 tiles of 1000 x 1000 pixels that overlap like patches. It kills `hiwl cutouts` twice with all
its processes, classifies what is cut at last, publishes that as HATS, and checks that each position is there
once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.wcs import WCS

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measuring import ROOT, watched

SCALE = 0.2
BANDS = "gri"
WAYS = {
    "JPEG, the tiles' pixels": ["--recipe", "paper"],
    "JPEG, resampled": ["--recipe", "paper", "--scale", "0.3"],
    "FITS, the tiles' pixels": [],
    "FITS, resampled": ["--scale", "0.3"],
}
FIRST_ID = 1237648720690000000
NIGHT_TILES, NIGHT_SIDE, NIGHT_OVERLAP, NIGHT_POSITIONS = 10, 1000, 100, 20_000
SECONDS_TO_KILL = (25.0, 30.0)


def main() -> None:
    """Measure, and print JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for tiles, shards and catalogs")
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--positions", type=int, default=1000, help="to a tile")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--way", action="append", choices=list(WAYS))
    parser.add_argument("--night", action="store_true")
    parser.add_argument("--model", default="galaxyzoo", help="of the night; empty: no catalog")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.night:
        night(arguments.work, arguments.model)
        return
    sky = arguments.work / f"sky-{arguments.tiles}-{arguments.positions}"
    if not sky.exists():
        write_sky(sky, (arguments.tiles, 1), 4096, 0, arguments.tiles * arguments.positions)
    for name in arguments.way or WAYS:
        print(json.dumps(measure(sky, name, arguments.size, arguments.work / "out")), flush=True)


def measure(sky: Path, name: str, size: int, out: Path) -> dict[str, Any]:
    """One run of the verb."""
    shutil.rmtree(out, ignore_errors=True)
    places = [str(sky / "tiles"), str(sky / "positions.parquet"), str(out)]
    said = watched(hiwl(["cutouts", *places, "--size", str(size), *WAYS[name]]), own=True)
    cut = sum(pq.read_metadata(path).num_rows for path in out.glob("*.parquet"))
    written = sum(path.stat().st_size for path in out.glob("*.parquet"))
    # As the verb says it: without the start of Python and with that of Ray.
    seconds = float(next(line for line in said["said"].splitlines() if line.endswith(" s")).split()[0])
    return {
        "way": name,
        "size": size,
        "cutouts": cut,
        "seconds": seconds,
        "cutouts_s": round(cut / seconds),
        "bytes_a_cutout": written // max(cut, 1),
        "peak_pss_mib": round(said["pss"]),
    }


def write_sky(folder: Path, grid: tuple[int, int], side: int, overlap: int, positions: int) -> None:
    """Tiles of one projection that overlap, with a galaxy at each position."""
    random = np.random.default_rng(0)
    step = side - overlap
    width, height = grid[0] * step + overlap, grid[1] * step + overlap
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [(width + 1) / 2, (height + 1) / 2]
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    places = np.column_stack([random.uniform(0, width, positions), random.uniform(0, height, positions)])
    (folder / "tiles").mkdir(parents=True)
    stamps = {band: galaxy_stamps(number) for number, band in enumerate(BANDS)}
    for column in range(grid[0]):
        for row in range(grid[1]):
            left, bottom = column * step, row * step
            header = wcs[bottom : bottom + side, left : left + side].to_header()
            for band in BANDS:
                image = random.standard_normal((side, side), np.float32) * 0.02
                add_galaxies(image, places - [left, bottom], stamps[band])
                header["FILTER"] = band
                fits.writeto(folder / "tiles" / f"tract0_{column},{row}_{band}.fits", image, header)
    world = wcs.all_pix2world(places, 0)
    table = {"objectId": FIRST_ID + np.arange(positions), "coord_ra": world[:, 0], "coord_dec": world[:, 1]}
    pq.write_table(pa.table(table), folder / "positions.parquet")


def galaxy_stamps(band: int) -> list[np.ndarray]:
    """A few exponential disks of different sizes, inclinations and position angles."""
    random = np.random.default_rng(1)
    rows, columns = np.mgrid[-40:41, -40:41]
    stamps = []
    for _ in range(12):
        angle, ratio, length = random.uniform(0, np.pi), random.uniform(0.15, 1), random.uniform(3, 9)
        along = columns * np.cos(angle) + rows * np.sin(angle)
        across = -columns * np.sin(angle) + rows * np.cos(angle)
        radius = np.hypot(along, across / ratio) / length
        stamps.append((random.uniform(0.5, 3) * (1 + 0.3 * band) * np.exp(-radius)).astype(np.float32))
    return stamps


def add_galaxies(image: np.ndarray, places: np.ndarray, stamps: list[np.ndarray]) -> None:
    """Add a galaxy at each place, to the nearest pixel."""
    side = len(image)
    for number, (x, y) in enumerate(np.rint(places).astype(int).tolist()):
        low, left = y - 40, x - 40
        rows = slice(max(low, 0), min(low + 81, side))
        columns = slice(max(left, 0), min(left + 81, side))
        if rows.start < rows.stop and columns.start < columns.stop:
            stamp = stamps[number % len(stamps)]
            inside = (
                slice(rows.start - low, rows.stop - low),
                slice(columns.start - left, columns.stop - left),
            )
            image[rows, columns] += stamp[inside]


def night(work: Path, model: str) -> None:
    """100 tiles, 20,000 positions, killed twice, to a published catalog."""
    sky, out, catalog, published = (work / name for name in ("night", "cutouts", "catalog", "hats"))
    if not sky.exists():
        write_sky(sky, (NIGHT_TILES, NIGHT_TILES), NIGHT_SIDE, NIGHT_OVERLAP, NIGHT_POSITIONS)
    for folder in (out, catalog, published):
        shutil.rmtree(folder, ignore_errors=True)
    verb = [
        "cutouts",
        str(sky / "tiles"),
        str(sky / "positions.parquet"),
        str(out),
        "--size",
        "128",
        "--recipe",
        "paper",
    ]
    for seconds in SECONDS_TO_KILL:
        print(json.dumps({"killed_after": seconds, "shards_there": killed(verb, seconds, out)}), flush=True)
    started = time.monotonic()
    facts = watched(hiwl(verb), own=True)
    print(facts["said"], flush=True)
    catalog_of = (["classify", model, str(out), str(catalog)], ["publish", str(catalog), str(published)])
    for command in catalog_of if model else ():
        print(watched(hiwl(command), own=True)["said"], flush=True)
    rows = published.rglob("Npix*.parquet") if model else out.glob("*.parquet")
    ids = np.concatenate(
        [pq.read_table(path, columns=["object_id"])["object_id"].to_numpy() for path in rows]
    )
    rejects = (out / "rejects.csv").read_text().count("\n") - 1
    print(
        json.dumps(
            {
                "positions": NIGHT_POSITIONS,
                "rows": len(ids),
                "different": len(set(ids.tolist())),
                "rejects": rejects,
                "peak_pss_mib_of_cutouts": round(facts["pss"]),
                "seconds_after_the_kills": round(time.monotonic() - started),
            }
        )
    )
    if not len(ids) == len(set(ids.tolist())) == NIGHT_POSITIONS - rejects:
        sys.exit("some positions are lost, or there twice")


def hiwl(words: list[str]) -> list[str]:
    """A command line of a verb."""
    return [sys.executable, "-m", "jobs.cli", *words]


def killed(verb: list[str], seconds: float, out: Path) -> int:
    """Kill a verb and all its processes after some time; how many shards there are then."""
    job = subprocess.Popen(
        hiwl(verb), cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        job.wait(seconds)
    family = [job, *psutil.Process(job.pid).children(recursive=True)] if job.poll() is None else []
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    job.wait()
    return len(list(out.glob("*.parquet")))


if __name__ == "__main__":
    main()
