"""How accuracy grows with the number of labels, from ImageNet's weights and from a model of galaxies.

    python benchmarks/learning_curve.py 'galaxyzoo/train-0000[0-4]*' 'galaxyzoo/train-0000[5-7]*' \
        'galaxyzoo/val-*.parquet' --out curve --id-column GalaxyID --label-column class

A model is trained on the first shards. Then networks are trained on samples of the second ones, none of which
it has seen, once from ImageNet and once from that model; both see the same galaxies, as often, in the same
order. One network for all classes each, 96 px, one look a galaxy. The epoch is chosen on a sample of the
validation shards, the accuracy is of all of them. A run that was stopped goes on when it is started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import ray

from hiwl_core.recipe import load_recipe
from pipeline.evaluation.evaluate import evaluate
from pipeline.shards.cutout_shards import Columns
from pipeline.training.train import train

NETWORK = (
    "hierarchy=false",
    "finish=none",
    "views=1",
    "select=accuracy",
    "stage1.input_size=96",
    "stage1.progressive=[]",
)
START_EPOCHS = 5
# Passes over a sample: the fewer galaxies, the more, as anyone would train.
EPOCHS = {100: 30, 500: 12, 2000: 6, 8000: 3}
# A network of galaxies is to keep what it knows; one of dogs and cars is to forget it.
RATES = {"ImageNet": 1e-3, "galaxies": 4e-4}
SELECTED_BY = 700
COLORS = {"ImageNet": "#b8b8b8", "galaxies": "#2a6f97"}


def main() -> None:
    """Parse the command line, train what is missing, print the table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("start", help="Labeled shards that the model of galaxies is trained on.")
    parser.add_argument("own", help="Labeled shards of which samples are taken.")
    parser.add_argument("val", help="Labeled shards to score on.")
    parser.add_argument("--out", type=Path, required=True, help="Folder of the runs, the table and the plot.")
    parser.add_argument("--seeds", type=int, default=1, help="Samples of each size.")
    parser.add_argument("--id-column", default="object_id")
    parser.add_argument("--label-column", default="label")
    options = parser.parse_args()
    columns = Columns(id=options.id_column, label=options.label_column)
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="WARNING")

    def accuracies(name: str, data: str, *changes: str) -> dict[str, float]:
        recipe = load_recipe("galaxyzoo", [*NETWORK, f"val_galaxies={SELECTED_BY}", *changes])
        out = options.out / name
        bundle = train(data, options.val, recipe, str(out), columns).bundle
        scores = evaluate(bundle, options.val, str(out / "scores"), columns).metrics
        rows = scores.set_index(["class", "metric"])[["value", "low", "high"]]
        accuracy, recall = rows.loc["all", "accuracy"], rows.loc["average", "recall"]
        return {**accuracy, "mean_recall": recall["value"]}

    start = accuracies("start", options.start, f"stage1.epochs={START_EPOCHS}")
    print(f"the model of galaxies: accuracy {start['value']:.4f} [{start['low']:.4f}, {start['high']:.4f}]")
    inits = {"ImageNet": "imagenet", "galaxies": f"bundle:{options.out.resolve() / 'start' / 'bundle'}"}
    found = []
    for labels, epochs in EPOCHS.items():
        for source, init in inits.items():
            for seed in range(options.seeds):
                changes = (
                    f"train_galaxies={labels}",
                    f"seed={seed}",
                    f"stage1.init={init}",
                    f"stage1.epochs={epochs}",
                    f"stage1.optimizer.lr={RATES[source]}",
                )
                scores = accuracies(f"{source.lower()}-{labels}-seed{seed}", options.own, *changes)
                found.append({"labels": labels, "start": source, "seed": seed, **scores})
                table = pd.DataFrame(found)
                table.to_csv(options.out / "learning_curve.csv", index=False, float_format="%.4f")
    show(table)
    draw(table, options.out / "learning_curve.png")


def show(table: pd.DataFrame) -> None:
    """Print the means over seeds; the interval is of the first one's galaxies."""
    print("| labels | start | accuracy | mean recall |\n|---|---|---|---|")
    for (labels, start), runs in table.groupby(["labels", "start"], sort=False):
        first, mean = runs.iloc[0], runs[["value", "mean_recall"]].mean()
        interval = f"[{first['low']:.4f}, {first['high']:.4f}]"
        print(f"| {labels:,} | {start} | {mean['value']:.4f} {interval} | {mean['mean_recall']:.4f} |")


def draw(table: pd.DataFrame, path: Path) -> None:
    """Accuracy against labels, a line for each start."""
    figure, axes = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
    for start, runs in table.groupby("start"):
        mean = runs.groupby("labels")[["value", "low", "high"]].mean()
        below, above = mean["value"] - mean["low"], mean["high"] - mean["value"]
        axes.errorbar(
            mean.index, mean["value"], (below, above), marker="o", capsize=3, label=start, color=COLORS[start]
        )
    axes.set(xscale="log", xlabel="labels", ylabel="accuracy on validation")
    axes.set_xticks(list(EPOCHS), [f"{labels:,}" for labels in EPOCHS])
    axes.minorticks_off()
    axes.legend(title="start", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
