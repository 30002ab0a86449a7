"""How long do JPEG decoders and resizers take, and what does a cheaper one change? On the same real images.

    python benchmarks/decode.py IMAGES [--crop 240] [--size 96] [--rounds 7] [--json FILE]
    python benchmarks/decode.py IMAGES --bundle run/bundle --val 'val-*.parquet'

IMAGES is a folder of JPEGs. Each round decodes all of them with each decoder in turn, to RGB arrays of bytes,
in one thread and then split between two; after that the central --crop pixels of the decoded images are
scaled to --size with each resizer. Times are medians of the rounds with the smallest and the largest, in ms
an image; `two threads` is how many times faster these are. `GIL free` says whether another thread can run
meanwhile: one tries to, with the interpreter told never to take the lock away. Differences are from Pillow's
result, in levels of 255.

Scaled decoders leave out the higher half of the DCT's frequencies and give half the pixels. What they change
is in the last table, after the resize, beside what another resizer changes; its first line is the yardstick.
With --bundle, which then gives crop and size, it has the five probabilities (the largest change of each
image's) and the labels too, on the images of --val if there are such shards. Libraries that are not installed
are left out.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from decoders import Decoder, Resizer, find_decoders, find_resizers
from measuring import versions_of

from hiwl_core.bundle import ModelBundle, load_bundle
from hiwl_core.cascade import CascadePrediction, combine_stages, route
from hiwl_core.engines import Engine, StageGraph, choose_engine, create_engine, probabilities
from hiwl_core.views import MOST_VIEWS
from pipeline.shards.cutout_shards import Columns, list_shards, read_columns

IMAGES_FOR_THE_LOCK = 20


def leaves_lock(step: Callable[[Any], Any], inputs: list[Any]) -> bool:
    """Whether another thread can run while a step does its work."""
    inputs = inputs[:IMAGES_FOR_THE_LOCK]
    worker = threading.Thread(target=run_all, args=(step, inputs))
    interval, turns = sys.getswitchinterval(), 0
    # Nobody is asked to give the lock up: this thread runs only when the worker lets go of it by itself.
    sys.setswitchinterval(60)
    try:
        worker.start()
        while worker.is_alive():
            turns += 1
            time.sleep(0)
    finally:
        sys.setswitchinterval(interval)
    return turns > len(inputs)


def run_all(step: Callable[[Any], Any], inputs: list[Any]) -> None:
    """Run a step on each input; a result is given up when the next one is there."""
    for one in inputs:
        step(one)


def timed(steps: dict[str, Callable[[Any], Any]], inputs: list[Any], rounds: int) -> pd.DataFrame:
    """Times of each step in one and in two threads, in turns; a line each."""
    halves = [inputs[::2], inputs[1::2]]
    for step in steps.values():
        step(inputs[0])
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    with ThreadPoolExecutor(2) as pool:

        def seconds(step: Callable[[Any], Any], parts: list[list[Any]]) -> float:
            started = time.perf_counter()
            jobs = [pool.submit(run_all, step, part) for part in parts]
            for job in jobs:
                job.result()
            return time.perf_counter() - started

        for _ in range(rounds):
            for name, step in steps.items():
                times[name].append((seconds(step, [inputs]), seconds(step, halves)))
    lines = []
    for name, pairs in times.items():
        one, two = np.array(pairs).T / len(inputs) * 1000
        lines.append(
            {
                "": name,
                "ms": f"{np.median(one):.3f} ({one.min():.3f}-{one.max():.3f})",
                "ms, two threads": f"{np.median(two):.3f} ({two.min():.3f}-{two.max():.3f})",
                "two threads": round(float(np.median(one / two)), 2),
                "GIL free": "yes" if leaves_lock(steps[name], inputs) else "no",
            }
        )
    return pd.DataFrame(lines)


def difference(results: list[np.ndarray], reference: list[np.ndarray]) -> dict[str, Any]:
    """The largest of a single level, and the root of the mean square."""
    largest, squares = 0, []
    for ours, theirs in zip(results, reference, strict=True):
        change = ours.astype(np.int16) - theirs
        largest = max(largest, int(np.abs(change).max()))
        squares.append(float((change.astype(np.float64) ** 2).mean()))
    return {"largest": largest, "RMS": round(float(np.sqrt(np.mean(squares))), 3)}


def predict(bundle: ModelBundle, pixels: list[np.ndarray]) -> CascadePrediction:
    """What the bundle says of images as its networks see them, in torch eager."""
    images, choice = np.stack(pixels), choose_engine("torch")

    def engine_of(name: str) -> Engine:
        stage = bundle.stages[name]
        classes = len(bundle.taxonomy.stage_classes(name))
        return create_engine(StageGraph(lambda: stage.network(classes), stage.preprocessing), choice)

    views = bundle.views if isinstance(bundle.views, int) else MOST_VIEWS
    outputs = {name: probabilities(engine_of(name), images, views) for name in bundle.stages}
    return combine_stages(route(outputs, bundle.taxonomy), bundle.member_frequencies, bundle.taxonomy)


def compare(
    ways: dict[str, tuple[Decoder, Resizer, int]],
    images: list[bytes],
    crop: int,
    size: int,
    bundle: ModelBundle | None,
) -> pd.DataFrame:
    """What each way from bytes to the network's pixels changes, relative to the first."""
    lines = []
    for name, (decoder, resizer, factor) in ways.items():
        pixels = [resizer(decoder(image), crop // factor, size) for image in images]
        if not lines:
            reference = pixels
        line: dict[str, Any] = {"": name, **difference(pixels, reference)}
        if bundle:
            said = predict(bundle, pixels)
            if not lines:
                expected = said
            change = np.abs(said.probabilities - expected.probabilities).max(axis=1)
            line["change of p, median"] = float(f"{np.median(change):.2g}")
            line["99 %"] = float(f"{np.quantile(change, 0.99):.2g}")
            line["max"] = float(f"{change.max():.2g}")
            line["labels differ"] = int((said.class_indices != expected.class_indices).sum())
        lines.append(line)
    return pd.DataFrame(lines)


def main() -> None:
    """Time, compare and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="IMAGES", help="folder of JPEGs")
    parser.add_argument("--crop", type=int, default=240)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bundle", metavar="FOLDER", help="say what it makes of the changed pixels too")
    parser.add_argument("--val", metavar="SHARDS", help="cutout shards for that, instead of IMAGES")
    parser.add_argument("--images", type=int, help="so many of IMAGES and of SHARDS at most")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables here too")
    options = parser.parse_args()
    # torchvision's decoder is deprecated, and Pillow's pixels are read only.
    warnings.filterwarnings("ignore", category=UserWarning)
    images = [path.read_bytes() for path in sorted(options.folder.glob("*.jp*g"))][: options.images]
    if not images:
        sys.exit(f"{options.folder}: no *.jpg there")
    bundle, crop, size = None, options.crop, options.size
    if options.bundle:
        bundle = load_bundle(options.bundle)
        preprocessing = bundle.stages["stage1"].preprocessing
        if preprocessing != bundle.stages["stage2"].preprocessing:
            sys.exit(f"{options.bundle}: its stages see different pixels")
        crop, size = preprocessing.center_crop, preprocessing.input_size
    judged = images
    if options.val:
        tables = [read_columns(shard, Columns(), ["image"], []) for shard in list_shards(options.val)]
        judged = [image for table in tables for image in table["image"].to_pylist()][: options.images]

    full, half = find_decoders()
    resizers = find_resizers()
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    decoding = timed({**full, **half}, images, options.rounds)
    decoded = [full["pillow"](image) for image in images]
    changes = {
        name: difference([decode(image).copy() for image in images], decoded) for name, decode in full.items()
    }
    decoding["largest difference"] = [changes.get(name, {}).get("largest", "") for name in decoding[""]]
    decoding["RMS"] = [changes.get(name, {}).get("RMS", "") for name in decoding[""]]
    resizing = timed(
        {name: lambda pixels, one=one: one(pixels, crop, size) for name, one in resizers.items()},
        decoded,
        options.rounds,
    )
    torch.set_num_threads(cores)
    first = next(iter(half))
    ways = {f"pillow, {name} resize": (full["pillow"], one, 1) for name, one in resizers.items()}
    ways |= {f"{name}, pillow resize": (one, resizers["pillow"], 2) for name, one in half.items()}
    ways[f"{first}, torch resize"] = (half[first], resizers["torch"], 2)
    seen = compare(ways, judged, crop, size, bundle)

    print(f"{len(images)} JPEGs of {decoded[0].shape[1]} x {decoded[0].shape[0]} pixels, decoded")
    print(decoding.to_string(index=False))
    print(f"\nthe central {crop} pixels scaled to {size}")
    print(resizing.to_string(index=False))
    print(f"\nwhat the network sees{' and says' if bundle else ''} of {len(judged)} images")
    print(seen.to_string(index=False))
    if options.json:
        libraries = ("pillow", "simplejpeg", "opencv-python-headless", "torch", "torchvision", "PyTurboJPEG")
        written = {
            "images": len(images),
            "judged": len(judged),
            "crop": crop,
            "size": size,
            "rounds": options.rounds,
            "machine": platform.processor() or platform.machine(),
            "versions": versions_of(libraries),
            "decoding": decoding.to_dict("records"),
            "resizing": resizing.to_dict("records"),
            "seen": seen.to_dict("records"),
        }
        options.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
