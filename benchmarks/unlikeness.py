"""How well are simulated outliers told from galaxies, and what do the flags say of them?

    python benchmarks/unlikeness.py BUNDLE SHARDS [--id-column GalaxyID] [--count 300] [--json FILE]
    python benchmarks/unlikeness.py run/bundle 'val-*.parquet' --id-column GalaxyID

SHARDS hold whole cutouts of galaxies that the model was not trained on. --count outliers of each kind of
`benchmarks.simulated_outliers` are made of 300 of them; the others are the galaxies that they are told from.
AUROC is the probability that an outlier's score is higher than a galaxy's, with a 95 % bootstrap interval
over both; `unlike` is the share above the bundle's threshold, `any flag` the share with that flag or one that
the pixels show. The last row has the same shares of the galaxies, which are false alarms, with Wilson's
intervals; for galaxies that the threshold was fitted on they are as they were set. Scores are of one view.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.simulated_outliers import KINDS, simulate_outliers
from hiwl_core.bundle import ModelBundle, load_bundle
from hiwl_core.cutouts import EvalTransform
from hiwl_core.decoding import decode_image
from hiwl_core.engines import StageGraph, answers, choose_engine, create_engine
from hiwl_core.flags import FLAGS, UNLIKE
from hiwl_core.metrics import wilson
from pipeline.shards.cutout_shards import Columns, list_shards, read_columns

RESAMPLES = 1000
# Galaxies that outliers are made of, whole and in memory.
MADE_OF = 300


class Judge:
    """A bundle's stage 1 and its measure of unlikeness, on whole cutouts."""

    def __init__(self, bundle: ModelBundle, threads: int) -> None:
        if bundle.fitted.unlikeness is None:
            sys.exit("the bundle holds no measure of unlikeness: `hiwl optimize BUNDLE` fits it")
        self._measure = bundle.fitted.unlikeness
        stage, classes = bundle.stages["stage1"], len(bundle.taxonomy.stage_classes("stage1"))
        graph = StageGraph(lambda: stage.network(classes), stage.preprocessing)
        self._engine = create_engine(graph, choose_engine(threads=threads))
        self._transform = EvalTransform(stage.preprocessing)

    def __call__(self, cutouts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Scores, shape (n,), and flags, shape (n,), of decoded cutouts."""
        pixels = np.stack([self._transform(cutout) for cutout in cutouts])
        scores = self._measure.score(answers(self._engine, pixels).features, pixels)
        flags = np.array([self._measure.pixel_flags(one) for one in pixels])
        return scores, flags | UNLIKE * (scores > self._measure.threshold)


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that an outlier's score is higher (Mann & Whitney 1947); equal ones count half."""
    ranks = rankdata(np.concatenate([inside, outside]))[len(inside) :]
    return float((ranks.mean() - (len(outside) + 1) / 2) / len(inside))


def interval(inside: np.ndarray, outside: np.ndarray, seed: int) -> list[float]:
    """Of the AUROC, over galaxies and outliers."""
    rng = np.random.default_rng(seed)
    draws = [
        auroc(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(RESAMPLES)
    ]
    return np.percentile(draws, [2.5, 97.5]).tolist()


def flag_shares(flags: np.ndarray) -> dict[str, float]:
    """Share of each flag that occurs."""
    return {name: float((flags & bit > 0).mean()) for bit, name in FLAGS.items() if (flags & bit).any()}


def measure(judge: Judge, images: list[bytes], count: int, seed: int) -> dict[str, Any]:
    """All figures."""
    order = np.random.default_rng(seed).permutation(len(images))
    made_of = np.stack([np.array(decode_image(images[row]).image) for row in order[:MADE_OF]])
    parts = [
        judge([np.array(decode_image(images[row]).image) for row in rows])
        for rows in np.array_split(order[MADE_OF:], max(1, len(order) // 256))
    ]
    inside, own_flags = (np.concatenate(values) for values in zip(*parts, strict=True))
    kinds = {}
    for kind in KINDS:
        scores, flags = judge(list(simulate_outliers(kind, made_of, count, seed)))
        kinds[kind] = {
            "auroc": auroc(inside, scores),
            "interval": interval(inside, scores, seed),
            "unlike": float((flags & UNLIKE > 0).mean()),
            "flagged": float((flags > 0).mean()),
            "flags": flag_shares(flags),
        }
    return {
        "galaxies": len(inside),
        "outliers": count,
        "kinds": kinds,
        "mean_auroc": float(np.mean([one["auroc"] for one in kinds.values()])),
        "false_alarms": {
            name: [float(found.mean()), *wilson(int(found.sum()), len(found))]
            for name, found in (("unlike", own_flags & UNLIKE > 0), ("any flag", own_flags > 0))
        },
        "flags": flag_shares(own_flags),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures for people, in Markdown."""

    def named(flags: dict[str, float]) -> str:
        return ", ".join(f"{name} {share:.1%}" for name, share in flags.items() if name != FLAGS[UNLIKE])

    rows = [
        {
            "kind": kind,
            "AUROC": f"{one['auroc']:.3f} [{one['interval'][0]:.3f}, {one['interval'][1]:.3f}]",
            "unlike": f"{one['unlike']:.1%}",
            "any flag": f"{one['flagged']:.1%}",
            "flags of the pixels": named(one["flags"]),
        }
        for kind, one in figures["kinds"].items()
    ]
    shares = {
        name: f"{share:.2%} [{low:.2%}, {high:.2%}]"
        for name, (share, low, high) in figures["false_alarms"].items()
    }
    rows.append({"kind": "mean", "AUROC": f"{figures['mean_auroc']:.3f}"})
    rows.append({"kind": "galaxies", **shares, "flags of the pixels": named(figures["flags"])})
    lines = pd.DataFrame(rows).fillna("")
    head = [list(lines.columns), ["---"] * len(lines.columns)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*head, *lines.to_numpy().tolist()])


def main() -> None:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("shards", metavar="SHARDS")
    parser.add_argument("--id-column", default="object_id")
    parser.add_argument("--image-column", default="image")
    parser.add_argument("--count", type=int, default=300, help="outliers of each kind")
    parser.add_argument("--images", type=int, help="so many galaxies of SHARDS at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    columns = Columns(id=options.id_column, image=options.image_column)
    tables = [read_columns(shard, columns, ["image"]) for shard in list_shards(options.shards)]
    images = [image for one in tables for image in one["image"].to_pylist()][: options.images]
    if len(images) <= MADE_OF:
        sys.exit(
            f"{options.shards}: {len(images)} galaxies; outliers are made of {MADE_OF}, and more are needed"
        )
    figures = measure(
        Judge(load_bundle(options.bundle), options.threads), images, options.count, options.seed
    )
    print(f"{figures['galaxies']} galaxies, {figures['outliers']} outliers of each kind\n")
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
