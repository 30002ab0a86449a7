"""What a model's default setting gives and costs, beside one view and eight views in float32.

    python benchmarks/default_setting.py galaxyzoo 'galaxyzoo/val-*.parquet' \
        --id-column GalaxyID --label-column class

Labeled cutouts are read once into memory and classified by each setting in turn, several rounds in one
process: images/s from encoded bytes to probabilities, in the steady state of `hiwl classify`'s worker.
Accuracy, negative log likelihood and changed labels are by the calibrated probabilities, in the sample (for
figures that are cross-fitted, `hiwl evaluate`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hiwl_core.bundle import ModelBundle, load_bundle
from hiwl_core.cascade import CascadePrediction
from hiwl_core.device import choose_compute
from hiwl_core.engines import choose_engine
from hiwl_core.fitted import Setting
from hiwl_core.inference import CascadeClassifier
from hiwl_core.quickest_precision import quickest_precision
from hiwl_core.reliability import negative_log_likelihood
from hiwl_core.statuses import OK
from pipeline.cluster import CPUS_AN_ACTOR
from pipeline.cores import usable_cores
from pipeline.shards.cutout_shards import Columns, iter_rows, list_shards

BATCH = 256


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("bundle")
    parser.add_argument("shards")
    parser.add_argument("--id-column", default="object_id")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--galaxies", type=int, help="Only so many, spread over all.  [default: all]")
    parser.add_argument("--json", type=Path, help="Write the figures here too.")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    images, truth = read(options.shards, Columns(id=options.id_column, label=options.label_column), bundle)
    if options.galaxies:
        chosen = np.linspace(0, len(images) - 1, options.galaxies).astype(int)
        images, truth = [images[row] for row in chosen], truth[chosen]
    threads = min(CPUS_AN_ACTOR, usable_cores())
    torch.set_num_threads(threads)
    compute = choose_compute(torch.device("cpu"))
    best, rates = quickest_precision(bundle, compute, threads)
    print(f"default: {Setting(bundle.views, best).describe()}; trial: {rates or 'nothing to choose'}")
    settings = {
        "one view, float32": Setting(1, "float32"),
        "eight views, float32": Setting(8, "float32"),
        **{
            f"{bundle.views} views, {precision}": Setting(bundle.views, precision)
            for precision in dict.fromkeys((*bundle.fitted.precisions, best))
        },
    }
    classifiers = {
        name: CascadeClassifier(
            bundle, choose_engine("auto", setting.precision, compute, threads), threads, views=setting.views
        )
        for name, setting in settings.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    said: dict[str, CascadePrediction] = {}
    for number in range(options.rounds + 1):
        for name, classifier in classifiers.items():
            # Eight views everywhere are slow, and once is enough to compare with.
            everywhere = name == "eight views, float32"
            if everywhere and number:
                continue
            started = time.perf_counter()
            said[name] = classified(classifier, images)
            # The first round warms up.
            if number or everywhere:
                seconds[name].append(time.perf_counter() - started)
    table = figures(said, seconds, truth, len(images))
    print(markdown(table))
    if options.json:
        options.json.write_text(json.dumps(table.to_dict("records"), indent=2) + "\n")


def read(shards: str, columns: Columns, bundle: ModelBundle) -> tuple[list[bytes], np.ndarray]:
    """All labeled cutouts, encoded, and their classes."""
    images: list[bytes] = []
    labels: list[str] = []
    for shard in list_shards(shards):
        for table in iter_rows(shard, columns, ["object_id", "image", "label"], []):
            images += table["image"].to_pylist()
            labels += table["label"].to_pylist()
    return images, bundle.taxonomy.encode(labels)


def classified(classifier: CascadeClassifier, images: list[bytes]) -> CascadePrediction:
    """What a classifier says of all images, as one stream."""
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    parts = []
    for statuses, prediction in classifier.classify_batches(batches):
        if set(statuses) != {OK}:
            raise SystemExit("a cutout could not be read: give shards of which all can")
        parts.append(prediction)
    names = ("class_indices", "probabilities", "views")
    return CascadePrediction(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names},
        stages={name: np.concatenate([part.stages[name] for part in parts]) for name in parts[0].stages},
    )


def figures(
    said: dict[str, CascadePrediction], seconds: dict[str, list[float]], truth: np.ndarray, count: int
) -> pd.DataFrame:
    """A line a setting."""
    reference = said["eight views, float32"]
    one_view = np.array(seconds["one view, float32"])
    rows: list[dict[str, Any]] = []
    for name, prediction in said.items():
        taken = np.array(seconds[name])
        ratios = one_view[: len(taken)] / taken
        assert prediction.views is not None
        rows.append(
            {
                "setting": name,
                "images/s": "{:.0f} ({:.0f}-{:.0f})".format(
                    *(count / pick(taken) for pick in (np.median, np.max, np.min))
                ),
                "to one view": f"{np.median(ratios):.2f} ({ratios.min():.2f}-{ratios.max():.2f})",
                "views a galaxy": f"{prediction.views.mean():.2f}",
                "labels changed": f"{(prediction.class_indices != reference.class_indices).mean():.2%}",
                "label_map changed": f"{(prediction.most_probable != reference.most_probable).mean():.2%}",
                "accuracy of label_map": f"{(prediction.most_probable == truth).mean():.4f}",
                "NLL": f"{negative_log_likelihood(prediction.probabilities.astype(np.float64), truth):.4f}",
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The table as it stands in docs/results.md."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    main()
