"""What a model's accuracy is worth where galaxies have another scale than those that it was trained on.

python benchmarks/wrong_scale.py galaxyzoo/val-00000-of-00001.parquet [--originals galaxyzoo/originals]

Each galaxy is resampled about its center to so many of its pixels in one: a survey's image of it, in which
without `--scale` the model sees it too large (below 1) or too small (above), and which `--scale` resamples
back to what the model knows. The validation images have 272 pixels, of which the model sees enough up to 1.4
without `--scale`; at 2 there are only the originals, 120 a class, which the model was trained on. Wilson's
intervals.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

import numpy as np

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from hiwl_core.bundle import load_bundle
from hiwl_core.decoding import Cutout, decode_image
from hiwl_core.flags import UNLIKE
from hiwl_core.inference import CascadeClassifier
from hiwl_core.metrics import wilson
from hiwl_core.resampling import resample_whole
from hiwl_core.statuses import OK
from pipeline.shards.cutout_shards import Columns, iter_rows

ZOOMS = (0.5, 0.7, 1.0, 1.4, 2.0)
BATCH = 256


def main() -> None:
    """Classify at each scale, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shard")
    parser.add_argument("--originals", type=Path)
    parser.add_argument("--bundle", default="galaxyzoo")
    parser.add_argument("--zoom", type=float, action="append", help="one of them; repeatable")
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.bundle)
    classifier = CascadeClassifier(bundle)
    classes = list(bundle.taxonomy.classes)
    columns = Columns(id="GalaxyID", label="class")
    images: list[bytes] = []
    labels: list[str] = []
    for table in iter_rows(arguments.shard, columns, ["image", "label"]):
        images += table["image"].to_pylist()
        labels += table["label"].to_pylist()
    parts = {"validation": (images, labels)}
    if arguments.originals:
        with (arguments.originals / "labels.csv").open() as file:
            rows = [list(row.values()) for row in csv.DictReader(file)]
        names = [(arguments.originals / f"{row[0]}.jpg").read_bytes() for row in rows]
        parts["originals"] = (names, [row[1] for row in rows])
    names = " ".join(classes)
    print(f"| images | scale | --scale | readable | accuracy | recall {names} | flagged unlike |")
    for part, (contents, truth) in parts.items():
        numbers = [classes.index(label) for label in truth]
        for zoom in arguments.zoom or ZOOMS:
            # Without --scale what the model sees is resampled in one step, as if the survey had seen it so.
            seen = [Cutout(image, 1.0, zoom) for image in contents]
            print(f"| {part} | {zoom} | no {line(classifier, seen, numbers)}", flush=True)
            if zoom != 1:
                survey = [Cutout(resampled(image, zoom), zoom, 1.0) for image in contents]
                print(f"| {part} | {zoom} | yes {line(classifier, survey, numbers)}", flush=True)


def resampled(image: bytes, zoom: float) -> bytes:
    """An image as a survey of other pixels has it."""
    buffer = io.BytesIO()
    resample_whole(decode_image(image).image, zoom).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def line(classifier: CascadeClassifier, cutouts: list[Cutout], truth: list[int]) -> str:
    """The end of a row of the table."""
    starts = range(0, len(cutouts), BATCH)
    statuses: list[str] = []
    found, flags = [], []
    for batch, prediction in classifier.classify_batches(cutouts[start : start + BATCH] for start in starts):
        statuses += batch
        found.append(prediction.probabilities.argmax(axis=1))
        flags.append(np.zeros(0) if prediction.flags is None else prediction.flags)
    readable = np.array(statuses) == OK
    if not readable.any():
        return "| 0 | | | |"
    right = np.concatenate(found) == np.array(truth)[readable]
    low, high = wilson(int(right.sum()), len(right))
    kept = np.array(truth)[readable]
    recalls = " ".join(f"{right[kept == one].mean():.3f}" for one in range(len(set(truth))))
    unlike = float((np.concatenate(flags).astype(int) & UNLIKE > 0).mean())
    accuracy = f"{right.mean():.4f} [{low:.4f}, {high:.4f}]"
    return f"| {len(right)} | {accuracy} | {recalls} | {unlike:.1%} |"


if __name__ == "__main__":
    main()
