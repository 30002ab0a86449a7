"""How fast could ``hiwl classify`` be at most? The engine alone on pixels in memory, and the decoder alone.

    python benchmarks/ceiling.py BUNDLE IMAGES [--seconds 20] [--engine auto] [--precision auto] [--json FILE]

IMAGES is a folder of JPEG files. They are decoded and transformed once, and then each stage's network runs on
them as `hiwl classify` runs it: same engine, same batches, as many under way at once. The decoder alone takes
the same images from encoded bytes to pixels, in the threads that a worker has. Nothing is counted before the
first seconds are over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from hiwl_core.bundle import load_bundle
from hiwl_core.cached_engine import default_cache
from hiwl_core.cutouts import EvalTransform, read_cutout
from hiwl_core.decoding import Scratch
from hiwl_core.engines import PRECISIONS, Engine, StageGraph, choose_engine, create_engine
from pipeline.cluster import CPUS_AN_ACTOR
from pipeline.cores import usable_cores

WARM_UP_SECONDS = 3.0
MOST_IMAGES = 600


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each figure")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    figures = measure(options.bundle, options.images, options.seconds, options.engine, options.precision)
    print(f"{figures['engine']}, batches of {figures['batch_size']}")
    for name in ("stage1", "stage2", "decoder"):
        print(f"  {name:<8} {figures[name]:8.1f} images/s")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, images: Path, seconds: float, engine: str, precision: str) -> dict[str, object]:
    """Images/s of each stage's engine and of the decoder."""
    bundle = load_bundle(folder)
    threads = min(CPUS_AN_ACTOR, usable_cores())
    torch.set_num_threads(threads)
    choice = choose_engine(engine, precision, threads=threads)
    encoded = [path.read_bytes() for path in sorted(images.glob("*.jpg"))[:MOST_IMAGES]]
    figures: dict[str, object] = {"engine": choice.describe(), "threads": threads}
    for name, stage in bundle.stages.items():
        network = stage.network(len(bundle.taxonomy.stage_classes(name)))
        graph = StageGraph(lambda network=network: network, stage.preprocessing)
        compiled = create_engine(graph, choice, default_cache(), f"{bundle.model_id}-{name}")
        transform = EvalTransform(stage.preprocessing)
        pixels = [read_cutout(image, (transform,), bundle.smallest_cutout)[1][0] for image in encoded]
        figures[name] = engine_rate(compiled, np.stack(pixels), seconds)
        figures["batch_size"] = compiled.batch_size
    transform = EvalTransform(bundle.stages["stage1"].preprocessing)
    figures["decoder"] = decoder_rate(encoded, transform, bundle.smallest_cutout, threads, seconds)
    return figures


def engine_rate(engine: Engine, pixels: np.ndarray, seconds: float) -> float:
    """Images/s with as many batches under way as the engine takes."""
    size = engine.batch_size
    batches = itertools.cycle(
        [np.ascontiguousarray(pixels[i : i + size]) for i in range(0, len(pixels) - size + 1, size)]
    )

    def results() -> Generator[int, None, None]:
        under_way: deque[Callable[[], np.ndarray]] = deque()
        try:
            while True:
                if len(under_way) == engine.in_flight:
                    under_way.popleft()()
                    yield size
                under_way.append(engine.submit(next(batches)))
        finally:
            # The engine must not read pixels that are gone.
            for pending in under_way:
                pending()

    return rate(results(), seconds)


def decoder_rate(
    encoded: list[bytes], transform: EvalTransform, smallest: int, threads: int, seconds: float
) -> float:
    """Images/s from encoded bytes to pixels."""

    def decode(images: list[bytes]) -> int:
        scratch = Scratch()
        for image in images:
            read_cutout(image, (transform,), smallest, scratch=scratch)
        return len(images)

    chunks = itertools.cycle([encoded[i : i + 50] for i in range(0, len(encoded), 50)])
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

        def results() -> Generator[int, None, None]:
            under_way = deque(pool.submit(decode, next(chunks)) for _ in range(2 * threads))
            while True:
                under_way.append(pool.submit(decode, next(chunks)))
                yield under_way.popleft().result()

        return rate(results(), seconds)


def rate(results: Generator[int, None, None], seconds: float) -> float:
    """What comes a second, after a while of warming up; ends the source."""
    begin = time.perf_counter()
    while time.perf_counter() - begin < min(WARM_UP_SECONDS, seconds / 2):
        next(results)
    begin, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < seconds:
        count += next(results)
    results.close()
    return count / passed


if __name__ == "__main__":
    main()
