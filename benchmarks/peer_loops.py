"""The loops that `benchmarks/peers.py` compares ``hiwl classify`` with; one of them on a list of images.

    python benchmarks/peer_loops.py LOOP BUNDLE LIST OUT.json

LIST is a text file with a path a line. Both stages of the bundle run, the second on the images that the first
sends there, without changes to the networks or to the library's defaults:

dataloader     a torchvision dataset of files, a `DataLoader` with two workers and batches of 64, torch eager
ray-data       as Ray Data's guide to images has it: `read_images`, a map for the transform, and an actor with
               torch eager behind `map_batches` with batches of 64. Ray gives the actor one core, so torch has
               one thread there, and fuses the map into it
ray-data-tuned paths are read and transformed in tasks that ask for half a core, so that they stay apart from
               the actor, and the actor tells torch to use all cores

The rate is from the end of the first batch to the end of the last, by the clock of the process that runs the
networks: imports, the making of networks and the start of Ray are before that. What was decoded ahead when
the first batch ended is counted in favor of the loop.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
import ray.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from hiwl_core.bundle import load_bundle

BATCH_SIZE = 64
WORKERS = 2
LOOPS = ("dataloader", "ray-data", "ray-data-tuned")


def transform_of(folder: str) -> transforms.Compose:
    """Stage 1's transform, which is stage 2's too, in torchvision's words."""
    preprocessing = load_bundle(folder).stages["stage1"].preprocessing
    return transforms.Compose(
        [
            transforms.CenterCrop(preprocessing.center_crop),
            transforms.Resize((preprocessing.input_size, preprocessing.input_size)),
            transforms.ToTensor(),
            transforms.Normalize(preprocessing.mean, preprocessing.std),
        ]
    )


class Cascade:
    """Both stages in torch eager."""

    def __init__(self, folder: str) -> None:
        bundle = load_bundle(folder)
        self.taxonomy = bundle.taxonomy
        self.stage1, self.stage2 = (
            bundle.stages[name].network(len(bundle.taxonomy.stage_classes(name)))
            for name in ("stage1", "stage2")
        )

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, np.ndarray]:
        """Labels; both stages' probabilities; and how far from a tie the label is in the stage it is from."""
        first = self.stage1(images).softmax(1)
        second = torch.full((len(images), len(self.taxonomy.stage_classes("stage2"))), torch.nan)
        chosen = first.argmax(1)
        labels = np.array(self.taxonomy.stage_classes("stage1"), dtype=object)[chosen.numpy()]
        margins = lead(first)
        combined = chosen == self.taxonomy.sent_by("stage2")[1]
        if combined.any():
            found = self.stage2(images[combined]).softmax(1)
            second[combined] = found
            names = np.array(self.taxonomy.stage_classes("stage2"), dtype=object)
            labels[combined.numpy()] = names[found.argmax(1).numpy()]
            margins[combined] = torch.minimum(margins[combined], lead(found))
        return {
            "label": labels.astype(str),
            "margin": margins.numpy(),
            "stage1": first.numpy(),
            "stage2": second.numpy(),
        }


def lead(probabilities: Tensor) -> Tensor:
    """By how much the highest probability exceeds the second."""
    highest = probabilities.topk(2, dim=1).values
    return highest[:, 0] - highest[:, 1]


class Galaxies(Dataset):
    """Images on disk."""

    def __init__(self, paths: list[str], transform: transforms.Compose) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        """The network's input and the path."""
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB")), self.paths[index]


def run_dataloader(folder: str, paths: list[str]) -> tuple[pd.DataFrame, int]:
    """The loop that most people write; a row an image, and torch's threads."""
    cascade = Cascade(folder)
    dataset = Galaxies(paths, transform_of(folder))
    parts = []
    for images, names in DataLoader(dataset, batch_size=BATCH_SIZE, num_workers=WORKERS):
        found = cascade(images)
        parts.append(pd.DataFrame({"path": names, **listed(found), "finished": time.monotonic()}))
    return pd.concat(parts), torch.get_num_threads()


class Classifier:
    """The actor of Ray Data's loop."""

    def __init__(self, folder: str, threads: int) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.cascade = Cascade(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Classify a batch; the pixels end here."""
        found = self.cascade(torch.from_numpy(np.array(batch["pixels"])))
        number = len(batch["path"])
        return {
            "path": batch["path"],
            **found,
            "finished": np.full(number, time.monotonic()),
            "threads": np.full(number, torch.get_num_threads()),
        }


def run_ray_data(folder: str, paths: list[str], tuned: bool) -> tuple[pd.DataFrame, int]:
    """Ray Data's loop; a row an image, and torch's threads in the actor."""
    ray.init(num_cpus=cores(), include_dashboard=False, log_to_driver=False)
    transform = transform_of(folder)

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        return {"path": row["path"], "pixels": transform(Image.fromarray(row["image"])).numpy()}

    def read_and_preprocess(row: dict[str, Any]) -> dict[str, Any]:
        with Image.open(row["path"]) as image:
            return {"path": row["path"], "pixels": transform(image.convert("RGB")).numpy()}

    if tuned:
        rows = ray.data.from_items([{"path": path} for path in paths])
        inputs = rows.map(read_and_preprocess, num_cpus=0.5)
    else:
        inputs = ray.data.read_images(paths, mode="RGB", include_paths=True).map(preprocess)
    dataset = inputs.map_batches(
        Classifier,
        fn_constructor_args=(folder, cores() if tuned else 0),
        batch_size=BATCH_SIZE,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    found = pd.DataFrame(dataset.take_all())
    ray.shutdown()
    return found, int(found.pop("threads").iloc[0])


def listed(found: dict[str, np.ndarray]) -> dict[str, Any]:
    """Rows of two-dimensional arrays as lists, for a table."""
    return {name: list(values) for name, values in found.items()}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def main() -> None:
    """Run one loop; its figures are written as JSON, what it says of each different image as Parquet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("bundle")
    parser.add_argument("list", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    folder, paths = str(Path(options.bundle).resolve()), options.list.read_text().splitlines()
    if options.loop == "dataloader":
        found, threads = run_dataloader(folder, paths)
    else:
        found, threads = run_ray_data(folder, paths, tuned=options.loop == "ray-data-tuned")
    if len(found) != len(paths):
        raise RuntimeError(f"{len(found)} results of {len(paths)} images")
    ends = found.groupby("finished").size()
    seconds = float(ends.index[-1] - ends.index[0])
    facts = {
        "images": len(found),
        "timed_images": int(ends.iloc[1:].sum()),
        "seconds": seconds,
        "rate": float(ends.iloc[1:].sum() / seconds),
        "threads": threads,
    }
    found.drop_duplicates("path").drop(columns="finished").to_parquet(options.out.with_suffix(".parquet"))
    options.out.write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
