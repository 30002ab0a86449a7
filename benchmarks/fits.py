"""What a FITS cutout costs: from its bytes to the pixels that a network sees, against astropy's way and JPEG.

python benchmarks/fits.py [--side 424] [--count 24]
python benchmarks/fits.py --classify WORK [--count 600] [--model galaxyzoo]

A cube of g, r, i as float32 with a WCS. Astropy's way is `astropy.io.fits`, `astropy.wcs` and the function
`make_lupton_rgb`, as their pages have it; the pixels must be the same, and are compared. Each way is timed in
turn, several times, by the seconds of the processor that it takes; printed is the median, in ms of one core.

The second classifies shards of such cubes and of JPEGs of their colors in turn, as an actor of `hiwl
classify` does it, with both cores: read, hashed, decoded, seen by the networks and written.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import simplejpeg
from astropy.io import fits
from astropy.visualization import make_lupton_rgb
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout
from hiwl_core.decoding import DEFAULT_RGB, Cutout, Scratch, decode_pixels
from hiwl_core.fits_headers import quiet_astropy
from hiwl_core.stamps import fits_cube
from pipeline.catalog.parts import PartRecord
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.shard_classifier import ShardClassifier, bundle_place, read_bundle
from pipeline.classification.shard_work import CatalogWork, ShardTask
from pipeline.cores import usable_cores
from pipeline.shards.cutout_shards import MAX_SHARD_BYTES, MAX_SHARD_ROWS, SHARD_SCHEMA, Columns, encode_shard

ROUNDS, CLASSIFY_ROUNDS = 9, 3
KINDS = ("FITS", "JPEG")
SCALE = 0.2
PREPROCESSING = Preprocessing(192, 128, (0.046, 0.041, 0.030), (0.090, 0.075, 0.065))


def main() -> None:
    """Measure, and print JSON lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--side", type=int, default=424)
    parser.add_argument("--count", type=int)
    parser.add_argument("--classify", type=Path, metavar="WORK", help="folder for shards and parts")
    parser.add_argument("--model", default="galaxyzoo")
    arguments = parser.parse_args()
    if arguments.classify:
        classify(arguments.classify, arguments.model, arguments.count or 600, arguments.side)
        return
    arguments.count = arguments.count or 24
    cubes = [cutout(number, arguments.side) for number in range(arguments.count)]
    scratch = Scratch()
    colors = [decode_pixels(cube).pixels for cube in cubes]
    for cube, pixels in zip(cubes, colors, strict=True):
        np.testing.assert_array_equal(pixels, by_astropy(cube))
    jpegs = [simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95, "RGB", "444") for pixels in colors]
    transform = [EvalTransform(PREPROCESSING)]
    ways: dict[str, tuple[Callable[[bytes], object], Sequence[bytes]]] = {
        "FITS to colors": (lambda one: decode_pixels(one), cubes),
        "FITS to colors, astropy's way": (by_astropy, cubes),
        "JPEG to colors": (lambda one: decode_pixels(one, scratch=scratch), jpegs),
        "FITS to what the network sees": (lambda one: read_cutout(one, transform, 192), cubes),
        "FITS resampled to what the network sees": (
            lambda one: read_cutout(Cutout(one, None, 0.3), transform, 192),
            cubes,
        ),
        "JPEG to what the network sees": (
            lambda one: read_cutout(one, transform, 192, scratch=scratch),
            jpegs,
        ),
        "JPEG resampled to what the network sees": (
            lambda one: read_cutout(Cutout(one, SCALE, 0.3), transform, 192, scratch=scratch),
            jpegs,
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (way, contents) in ways.items():
            started = time.process_time()
            for content in contents:
                way(content)
            times[name].append((time.process_time() - started) / len(contents) * 1000)
    for name, taken in times.items():
        print(json.dumps({"way": name, "side": arguments.side, "ms": round(statistics.median(taken), 2)}))


def classify(work: Path, model: str, count: int, side: int) -> None:
    """Classify shards of FITS and of JPEG in turn; prints the medians of all rounds."""
    for kind in KINDS:
        write_shards(work / kind, kind, count, side)
    settings = CatalogContents(precision="float32").to_settings(Columns())
    model_id = read_bundle(model).model_id
    work_here = CatalogWork(bundle_place(model), model_id, settings, str(work))
    actor = ShardClassifier(work_here, usable_cores())
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(CLASSIFY_ROUNDS):
        for kind in KINDS:
            parts = work / f"{kind}-parts"
            parts.mkdir(exist_ok=True)
            tasks = [
                ShardTask(str(shard), str(parts / shard.name), PartRecord(shard.name, "", model_id, settings))
                for shard in sorted((work / kind).iterdir())
            ]
            began, core = time.monotonic(), time.process_time()
            entries = actor.classify(tasks)
            if {status for entry in entries for status in entry.statuses} != {"ok"}:
                sys.exit(f"{kind}: not all are classified")
            times[kind].append((time.monotonic() - began, time.process_time() - core))
    for kind, taken in times.items():
        seconds, core = (statistics.median(one) for one in zip(*taken, strict=True))
        rates = {"images_s": round(count / seconds), "core_ms": round(core / count * 1000, 2)}
        print(json.dumps({"classify": kind, "model": model, "side": side, **rates}))


def write_shards(folder: Path, kind: str, count: int, side: int) -> None:
    """Shards of up to 64 MB, if they are not there."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    # Each cube a few times, with ids of its own.
    images = [cutout(number, side) for number in range(24)]
    if kind == "JPEG":
        pixels = [np.ascontiguousarray(decode_pixels(one).pixels) for one in images]
        images = [simplejpeg.encode_jpeg(one, 95, "RGB", "444") for one in pixels]
    rows = min(MAX_SHARD_ROWS, max(1, MAX_SHARD_BYTES // len(images[0])))
    for number, first in enumerate(range(0, count, rows)):
        ids = np.arange(first, min(first + rows, count))
        columns = {
            "object_id": ids,
            "ra": np.full(len(ids), 150.0),
            "dec": np.full(len(ids), 2.0),
            "image": [images[one % len(images)] for one in ids],
            "pixel_scale": np.full(len(ids), SCALE, np.float32),
            "label": pa.nulls(len(ids), pa.string()),
        }
        content = encode_shard(pa.table(columns, schema=SHARD_SCHEMA), "benchmark")
        (folder / f"sky-{number:05d}.parquet").write_bytes(content)


def cutout(seed: int, side: int) -> bytes:
    """Noise, and a galaxy in its middle, with a few stars."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] - side / 2
    light = 10 ** random.uniform(0, 1.5) * np.exp(-np.hypot(rows, columns * random.uniform(1, 3)) / 25)
    for _ in range(6):
        y, x = random.uniform(-side / 2, side / 2, 2)
        light += 10 ** random.uniform(0, 3) * np.exp(-(np.hypot(rows - y, columns - x) ** 2) / 4)
    noise = random.normal(0, 0.02, (3, side, side))
    planes = (light * np.array([0.6, 1.0, 1.3])[:, None, None] + noise).astype(np.float32)
    sky = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0}
    middle = {"CRPIX1": (side + 1) / 2, "CRPIX2": (side + 1) / 2}
    matrix = {"CD1_1": -SCALE / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE / 3600}
    return fits_cube(planes, {"BANDS": "g,r,i", **sky, **middle, **matrix})


def by_astropy(content: bytes) -> np.ndarray:
    """Colors, and the scale and place that nobody asks for here."""
    quiet_astropy()
    with fits.open(io.BytesIO(content)) as units:
        green, red, blue = units[0].data.astype(np.float64)[[1, 2, 0]]
        wcs = WCS(units[0].header).celestial
    proj_plane_pixel_scales(wcs)
    wcs.pixel_to_world_values((green.shape[1] - 1) / 2, (green.shape[0] - 1) / 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        pixels = make_lupton_rgb(red, green, blue, stretch=DEFAULT_RGB.stretch, Q=DEFAULT_RGB.q)
    return np.asarray(pixels[::-1])


if __name__ == "__main__":
    main()
