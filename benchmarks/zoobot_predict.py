"""Zoobot's own prediction on a list of images, for `benchmarks/peers.py`; run by a Python that has Zoobot.

    pip install 'zoobot[pytorch]'
    python benchmarks/zoobot_predict.py LIST [--backbone efficientnet_b1] [--size 240] [--batches 64]

LIST is a text file with a path a line. `predict_on_catalog.predict` runs a classifier of four classes with
random weights behind timm's encoder of that name, without pretrained weights, which would have to be fetched.
Its data module has two workers and batches of 64; the transform is `minimal_view_config`, which it takes for
prediction by itself, at the given size; all else is Zoobot's default. The rate is from the end of the first
batch to the end of the last, so that imports and the making of the network are not in it. The last line that
it prints is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import timm
import torch
from galaxy_datasets.transforms import get_galaxy_transform, minimal_view_config
from torch.utils.flop_counter import FlopCounterMode
from zoobot.pytorch.predictions import predict_on_catalog
from zoobot.pytorch.training.finetune import FinetuneableZoobotClassifier

CLASSES = ("round", "between", "spiral", "combined")
WORKERS = 2


class Clock(lightning.Callback):
    """Takes down when each batch ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        """Called by Lightning."""
        self.ends.append(time.monotonic())


def multiply_adds(network: torch.nn.Module, size: int) -> int:
    """Of one image in all convolutions and linear layers."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


def main() -> None:
    """Predict and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("list", type=Path)
    parser.add_argument("--backbone", default="efficientnet_b1", help="timm's name of the encoder")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--batches", type=int, default=64, metavar="IMAGES", help="images in a batch")
    options = parser.parse_args()
    paths = [str(Path(path).resolve()) for path in options.list.read_text().splitlines()]
    torch.manual_seed(0)
    encoder = timm.create_model(options.backbone, pretrained=False, num_classes=0)
    model = FinetuneableZoobotClassifier(num_classes=len(CLASSES), encoder=encoder)
    work = multiply_adds(model, options.size)
    view = minimal_view_config()
    view.output_size = options.size
    catalog = pd.DataFrame({"id_str": [str(row) for row in range(len(paths))], "file_loc": paths})
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        # Lightning puts its logs where it runs.
        os.chdir(folder)
        predictions = predict_on_catalog.predict(
            catalog,
            model,
            save_loc=f"{folder}/predictions.csv",
            label_cols=list(CLASSES),
            inference_transform=get_galaxy_transform(view),
            datamodule_kwargs={"batch_size": options.batches, "num_workers": WORKERS},
            trainer_kwargs={"callbacks": [clock]},
        )
        os.chdir("/")
    if len(predictions) != len(paths):
        raise RuntimeError(f"{len(predictions)} predictions of {len(paths)} images")
    timed, seconds = len(paths) - options.batches, clock.ends[-1] - clock.ends[0]
    facts = {
        "images": len(paths),
        "timed_images": timed,
        "seconds": seconds,
        "rate": timed / seconds,
        "threads": torch.get_num_threads(),
        "multiply_adds": work,
        "versions": {
            name: version(name) for name in ("zoobot", "galaxy-datasets", "lightning", "timm", "torch")
        },
    }
    # Lightning's progress bar may have left its line open.
    print(f"\n{json.dumps(facts)}")


if __name__ == "__main__":
    main()
