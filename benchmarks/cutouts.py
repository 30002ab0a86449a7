"""Cutouts a second from three-band tiles of simulated sky; `benchmarks/night.py` goes on to a catalog.

python benchmarks/cutouts.py WORK

Tiles of 4096 x 4096 float32 pixels in g, r, i are written (once; 200 MB a tile) and cut at positions that are
spread evenly over them, a run for each way, in Ray on the machine's cores. Printed are JSON lines; seconds of
the processor are those of a core for one cutout, in this process, without Ray, reading and writing of shards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.wcs import WCS

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.measuring import watched
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.stamps import StampSettings
from pipeline.cutouts.assignment import assign
from pipeline.cutouts.cutting import cut
from pipeline.cutouts.positions import PositionColumns, read_positions
from pipeline.cutouts.tile_headers import Wanted, describe_files
from pipeline.cutouts.tiles import TilePixels, join_tiles
from pipeline.shards.wanted_scale import WantedScale

SCALE = 0.2
BANDS = "gri"
WAYS = {
    "JPEG, the tiles' pixels": ["--recipe", "paper"],
    "JPEG, resampled": ["--recipe", "paper", "--scale", "0.3"],
    "FITS, the tiles' pixels": [],
    "FITS, resampled": ["--scale", "0.3"],
}
CORE_CUTOUTS, CORE_ROUNDS = 300, 3
FIRST_ID = 1237648720690000000


def main() -> None:
    """Measure, and print JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for tiles and shards")
    parser.add_argument("--tiles", type=int, default=4)
    parser.add_argument("--positions", type=int, default=1000, help="to a tile")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--way", action="append", choices=list(WAYS))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
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
        "core_ms": core_ms(sky, name, size),
        "bytes_a_cutout": written // max(cut, 1),
        "peak_pss_mib": round(said["pss"]),
    }


def core_ms(sky: Path, name: str, size: int) -> float:
    """Milliseconds of a core for a cutout of the first tile, encoded."""
    rgb = RgbSettings() if "JPEG" in name else None
    bands = RgbSettings().bands if rgb else tuple(BANDS)
    settings = StampSettings(bands, size, rgb)
    paths = sorted(str(path) for path in (sky / "tiles").glob("*_0,0_*.fits"))
    paths = paths or sorted(str(path) for path in (sky / "tiles").iterdir())[: len(BANDS)]
    found = describe_files(paths, Wanted(bands, ()))
    (tile,) = join_tiles([image for _, images, _ in found for image in images], bands)
    table = read_positions(str(sky / "positions.parquet"), PositionColumns())
    scale = 0.3 if "resampled" in name else SCALE
    objects = table.append_column("pixel_scale", pa.array([scale] * table.num_rows))
    inside = assign(table, [tile], settings, WantedScale(scale)).home == 0
    objects = objects.filter(pa.array(inside)).slice(0, CORE_CUTOUTS)
    best = float("inf")
    for _ in range(CORE_ROUNDS):
        with TilePixels(tile, bands) as pixels:
            started = time.process_time()
            count = len(list(cut(pixels, objects, settings)))
            best = min(best, time.process_time() - started)
    return round(best / count * 1000, 2)


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


def hiwl(words: list[str]) -> list[str]:
    """A command line of a verb."""
    return [sys.executable, "-m", "jobs.cli", *words]


if __name__ == "__main__":
    main()
