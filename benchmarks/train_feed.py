"""What does the training feed cost? Ray Train through Ray Data against a bare loop of the same training step.

    python benchmarks/train_feed.py --data 'SHARDS' [--id-column GalaxyID] [--label-column class]
        [--images 1536] [--rounds 4] [--set compile=off] [--json FILE]

All is measured in one worker of Ray Train, started as ``hiwl train`` starts it, with the network of the
recipe's first stage and random weights. Each round times, in turns that change their order:

- `bare loop`: the learner's training steps on batches of the same images that already lie in memory;
- `Ray Train`: an epoch of ``train_epoch``, which takes its batches from Ray Data as they are decoded and
  augmented on the same cores;
- `feed alone`: such an epoch with a learner that does nothing, of several times as many images.

Ray's start, a stream's, and the first steps, which allocate and compile, are left out. Training is timed
from when its first batch is there to the end of its last step. What was decoded until then, two tasks of 256
images or so, is not in it, so `with start-up` counts an epoch from its call, as ``hiwl train`` does: the
ratio of a long epoch lies between. The feed alone is timed after the first quarter of its images. Whatever
else the machine does takes part in the rounds, so the ratios are of neighbors: `ratio_to_bare_loop` is Ray
Train over bare loop, `feed_to_training` feed alone over bare loop, each the median of the rounds' ratios. CPU
milliseconds are of all of Ray's processes, for each image; memory is what they allocated, and Ray's store.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from hiwl_core.recipe import load_recipe
from hiwl_core.training import StageLearner
from pipeline.cluster import connected
from pipeline.relay import relayed_lines
from pipeline.shards.cutout_shards import Columns, list_shards
from pipeline.training.checks import StageSetup, stage_preprocessing
from pipeline.training.cutout_blocks import CutoutBlocks
from pipeline.training.cutout_store import load_cutouts
from pipeline.training.epoch_plan import Batch
from pipeline.training.feed import StageFeed
from pipeline.training.labeled_shards import check_labeled
from pipeline.training.run_folder import RunFolder
from pipeline.training.stage_epochs import StageJob, stage_learner, train_epoch
from pipeline.training.stage_fit import stage_trainer, worker_compute

STAGE = "stage1"
BATCHES_IN_MEMORY = 8
FIRST_OF_FEED = 0.25
FEED_EPOCHS = 4
QUIET_SECONDS = 2.0
MEBIBYTE = 2**20


class Stopwatch:
    """A learner as `train_epoch` calls it, which notes when each step was done; or one that does nothing."""

    def __init__(self, learner: StageLearner, trains: bool = True) -> None:
        self.compute, self._learner, self._trains = learner.compute, learner, trains
        self._called, self._cpu = time.perf_counter(), cpu_seconds()
        self._first_batch = 0.0
        self._done: list[float] = []
        self._images: list[int] = []

    def train_step(
        self, pixels: torch.Tensor, targets: torch.Tensor, global_batch: int, world_size: int = 1
    ) -> torch.Tensor:
        """The learner's own step, or nothing."""
        if not self._done:
            self._first_batch = time.perf_counter()
        loss = torch.zeros(())
        if self._trains:
            loss = self._learner.train_step(pixels, targets, global_batch, world_size)
        self._done.append(time.perf_counter())
        self._images.append(len(targets))
        return loss

    def figures(self) -> dict[str, float]:
        """Images a second, without and with the start-up, and CPU milliseconds an image."""
        images, end = sum(self._images), self._done[-1]
        timed, since = images, self._first_batch
        if not self._trains:
            first = int(FIRST_OF_FEED * len(self._done))
            timed, since = sum(self._images[first + 1 :]), self._done[first]
        return {
            "images/s": timed / (end - since),
            "with start-up": images / (end - self._called),
            "CPU ms/image": 1000 * (cpu_seconds() - self._cpu) / images,
        }


def measure(config: dict[str, StageJob], images: int, rounds: int, out: Path) -> None:
    """What the worker of Ray Train does; the rounds are written as JSON."""
    job = config["job"]
    feed, long_feed = some_images(job, images), some_images(job, FEED_EPOCHS * images)
    learner = stage_learner(job, feed.steps_per_epoch, worker_compute(), world_size=1)
    # First an epoch that is not measured: Ray's processes start, the network compiles and allocates, and the
    # bare loop gets its images.
    batches: list[Batch] = []
    for batch in feed.train_batches(0, 0, 1):
        if len(batches) < BATCHES_IN_MEMORY:
            batches.append(batch)
            learner.train_step(batch.pixels, batch.targets, batch.global_size)
    job.say("the first steps are done")
    time.sleep(QUIET_SECONDS)
    done = []
    for index in range(rounds):
        figures = {}
        for way in ("bare loop", "Ray Train")[:: -1 if index % 2 else 1]:
            watch = Stopwatch(learner)
            if way == "bare loop":
                for step in range(feed.steps_per_epoch):
                    batch = batches[step % len(batches)]
                    watch.train_step(batch.pixels, batch.targets, batch.global_size)
            else:
                train_epoch(job, watch, feed, 1 + index, 0, 1)  # type: ignore[arg-type]
            figures[way] = watch.figures()
            time.sleep(QUIET_SECONDS)
        watch = Stopwatch(learner, trains=False)
        train_epoch(job, watch, long_feed, 1 + index, 0, 1)  # type: ignore[arg-type]
        figures["feed alone"] = watch.figures()
        time.sleep(QUIET_SECONDS)
        done.append(figures)
        speeds = ", ".join(f"{way} {found['images/s']:.1f}" for way, found in figures.items())
        job.say(f"round {index + 1}/{rounds}, images/s: {speeds}")
        out.write_text(json.dumps(done))


def some_images(job: StageJob, images: int) -> StageFeed:
    """A feed of so many of the images, from all over the shards; where they are too few they are repeated."""
    store = job.train
    copies = -(-images // len(store.rows))
    codes = np.tile(store.codes, copies)
    rows = np.flatnonzero(codes >= 0)
    chosen = rows[np.linspace(0, len(rows) - 1, images).round().astype(int)]
    blocks = list(zip(store.blocks.refs, np.diff(store.blocks.starts).tolist(), strict=True))
    store = dataclasses.replace(
        store,
        codes=np.where(np.isin(np.arange(len(codes)), chosen), codes, -1).astype(np.int8),
        blocks=CutoutBlocks.of(blocks * copies),
    )
    recipe = job.recipe.stage(STAGE)
    return StageFeed(store, job.recipe.taxonomy, STAGE, recipe, job.preprocessing, job.recipe.seed)


def cpu_seconds() -> float:
    """What all processes of this Ray have computed so far, the worker's parent and its other children."""
    raylet = psutil.Process().parent()
    times = []
    for process in [raylet, *raylet.children(recursive=True)] if raylet else []:
        with contextlib.suppress(psutil.Error):
            used = process.cpu_times()
            times.append(used.user + used.system)
    return sum(times)


def watch_memory(stop: threading.Event, peaks: dict[str, float]) -> None:
    """Note the peaks in MiB: allocated by all processes below this one, and of Ray's object store."""
    while not stop.wait(1.0):
        allocated, store = 0.0, 0.0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError, KeyError):
                status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                fields = dict(line.split(":", 1) for line in status)
                allocated += int(fields["RssAnon"].split()[0]) / 1024
                # The store is shared: the process that keeps it has touched the most of it.
                store = max(store, int(fields["RssShmem"].split()[0]) / 1024)
        peaks["allocated MiB"] = max(peaks.get("allocated MiB", 0.0), allocated)
        peaks["object store MiB"] = max(peaks.get("object store MiB", 0.0), store)


def summary(rounds: list[dict[str, dict[str, float]]]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Medians and spread of each way, and the medians of the rounds' ratios."""
    table = pd.DataFrame(
        [
            {
                "": way,
                "images/s": np.median(speeds),
                "smallest": min(speeds),
                "largest": max(speeds),
                **{name: np.median([one[way][name] for one in rounds]) for name in list(rounds[0][way])[1:]},
            }
            for way in rounds[0]
            for speeds in [[one[way]["images/s"] for one in rounds]]
        ]
    )
    ratios = {
        name: float(np.median([one[way][speed] / one["bare loop"]["images/s"] for one in rounds]))
        for name, way, speed in (
            ("ratio_to_bare_loop", "Ray Train", "images/s"),
            ("ratio_to_bare_loop_with_start_up", "Ray Train", "with start-up"),
            ("feed_to_training", "feed alone", "images/s"),
        )
    }
    return table, ratios


def main() -> None:
    """Start the worker, print the table and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="SHARDS", help="labeled cutouts")
    parser.add_argument("--id-column", default="object_id")
    parser.add_argument("--image-column", default="image")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--images", type=int, default=1536, help="an epoch's")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, [f"{STAGE}.init=random", *options.overrides])
    columns = Columns(id=options.id_column, image=options.image_column, label=options.label_column)
    labeled = check_labeled(list_shards(options.data), columns, recipe.taxonomy)
    peaks: dict[str, float] = {}
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder, connected(min_cpus=2), relayed_lines() as relay:
        watcher = threading.Thread(target=watch_memory, args=(stop, peaks), daemon=True)
        watcher.start()
        stage, rounds_file = recipe.stage(STAGE), Path(folder) / "rounds.json"
        store = load_cutouts(labeled, recipe.taxonomy, stage.augmentation.center_crop, recipe.rgb)
        preprocessing, run = stage_preprocessing(stage), RunFolder(f"{folder}/run")
        job = StageJob(STAGE, recipe, preprocessing, store, store, None, run.path, relay)
        function = functools.partial(measure, images=options.images, rounds=options.rounds, out=rounds_file)
        stage_trainer(function, job, run, StageSetup(workers=1, gpu=False)).fit()
        rounds: list[dict[str, Any]] = json.loads(rounds_file.read_text())
        stop.set()
        watcher.join()
    table, ratios = summary(rounds)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    for name, value in {**ratios, **peaks}.items():
        print(f"{name} {value:.3f}" if name in ratios else f"{name} {value:.0f}")
    if options.json:
        options.json.write_text(json.dumps({**ratios, **peaks, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
