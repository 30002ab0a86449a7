"""What does decoding cost a GPU's worker, and what is left to it where other nodes decode for it?

    python benchmarks/decode_elsewhere.py IMAGES [--size 240] [--images 256] [--rounds 7] [--json FILE]

IMAGES is a folder of JPEGs, such as Galaxy Zoo's of 424 px. Two kinds of cutouts are dear to decode: FITS
images of three bands of float32, 256 px, which are made up of noise here, and the JPEGs resampled to another
pixel scale. For each kind a group of a shard's rows goes three ways, on one core, by the functions that
`hiwl classify` calls, in CPU time an image:

decoded by the worker     its reader, from the encoded image to what the network sees, in the batch's array
by a task elsewhere       the same, and what it sees packed beside the rows (`--decode-on all-nodes`)
left to the worker        unpacking that into the batch's array

and the bytes of the rows that cross the network either way. Medians of the rounds with the smallest and the
largest.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import ray
import torch
from astropy.io import fits

from hiwl_core.cutout_reader import CutoutReader
from hiwl_core.cutouts import Preprocessing
from hiwl_core.decoding import DEFAULT_RGB, Scratch
from pipeline.classification.seen_rows import images_of, with_seen
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale

PIXELS = 256
SCALE, WANTED = 0.4, 0.5


def fits_images(count: int) -> list[bytes]:
    """Cubes of three bands of noise about a source, float32."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:PIXELS, :PIXELS] - PIXELS / 2
    source = 50 * np.exp(-np.hypot(x, y) / 20)
    images = []
    for _ in range(count):
        buffer = io.BytesIO()
        bands = np.stack([source + random.normal(0, 1, source.shape) for _ in DEFAULT_RGB.bands])
        unit = fits.PrimaryHDU(bands.astype(np.float32))
        for number, band in enumerate(DEFAULT_RGB.bands, start=1):
            unit.header[f"BAND{number}"] = band
        unit.writeto(buffer)
        images.append(buffer.getvalue())
    return images


def filled(table: pa.Table, reader: CutoutReader, scale: WantedScale, size: int) -> None:
    """What a worker does with rows before the network: all of them in one array."""
    batch, scratch = np.zeros((len(table), size, size, 3), np.uint8), Scratch()
    for row, image in enumerate(images_of(table, scale)):
        read = reader.read(image, scratch)
        if read.pixels is None:
            raise SystemExit(f"an image of the benchmark is {read.status}")
        batch[row] = read.pixels[0]


def milliseconds(work: Callable[[], Any], rounds: int, images: int) -> tuple[float, float, float]:
    """CPU time an image: the median of the rounds, the smallest and the largest."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(1000 * (time.process_time() - started) / images)
    return statistics.median(times), min(times), max(times)


def measure(
    images: Sequence[bytes], scale: WantedScale, size: int, rounds: int
) -> dict[str, tuple[float, ...] | float]:
    """The three ways of one kind of cutouts."""
    ids = pa.array(range(len(images)))
    table = pa.table({"object_id": ids, "image": pa.array(images, pa.binary())})
    if scale.asked:
        table = table.append_column("pixel_scale", pa.array([SCALE] * len(images), pa.float32()))
    reader = CutoutReader([Preprocessing(size, size, (0.05,) * 3, (0.1,) * 3)], size, DEFAULT_RGB)
    kept = ray.put(reader)
    seen = with_seen(table, kept, scale)
    count = len(images)
    return {
        "decoded by the worker": milliseconds(lambda: filled(table, reader, scale, size), rounds, count),
        "by a task elsewhere": milliseconds(lambda: with_seen(table, kept, scale), rounds, count),
        "left to the worker": milliseconds(lambda: filled(seen, reader, scale, size), rounds, count),
        "kB": table.nbytes / count / 1000,
        "kB as pixels too": seen.nbytes / count / 1000,
    }


def main() -> None:
    """Measure both kinds and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--images", dest="count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
    jpegs = [path.read_bytes() for path in sorted(options.images.glob("*.jpg"))[: options.count]]
    kinds = {
        f"FITS, {PIXELS} px, three bands of float32": (fits_images(options.count), AS_IT_IS),
        "JPEG, resampled": (jpegs, WantedScale(WANTED)),
    }
    found = {
        kind: measure(images, scale, options.size, options.rounds) for kind, (images, scale) in kinds.items()
    }
    cells = {
        kind: {
            name: f"{value:.0f}" if isinstance(value, float) else "{:.2f} [{:.2f}, {:.2f}]".format(*value)
            for name, value in ways.items()
        }
        for kind, ways in found.items()
    }
    print(pd.DataFrame(cells).T.to_string())
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
