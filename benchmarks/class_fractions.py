"""Whether corrected class fractions hold the truth where a sample's mix of classes is far from validation's.

    hiwl evaluate galaxyzoo 'galaxyzoo/val-*.parquet' --id-column GalaxyID --label-column class --out scores
    python benchmarks/class_fractions.py scores/catalog

Each draw splits the scored galaxies in two at random. One half gives the confusion matrix; of the other a
sample is made in which a class is thinned to a quarter, or is three times as frequent because all others are
thinned to a third. No galaxy is in a sample twice, and none in both halves. The truth is the sample's own
class shares; the table has the share of draws in which each interval of 95 % holds it, and its mean width.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from hiwl_core.fractions import SaidOfGalaxies, class_fractions
from hiwl_core.metrics import confusion_matrix
from hiwl_core.statuses import OK
from hiwl_core.taxonomy import GALAXY_ZOO, probability_column
from pipeline.catalog.catalog_schema import TRUE_LABEL
from pipeline.catalog.parts import list_parts, read_part

CLASSES = GALAXY_ZOO.classes
ESTIMATES = ("naive", "adjusted", "em")


def main() -> None:
    """Parse the command line, draw, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("catalog", help="Of galaxies with labels, as `hiwl evaluate` writes it.")
    parser.add_argument("--rare", default="CSS", help="The class that is thinned or multiplied.")
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    truth, labels, probabilities = read(options.catalog)
    rare = CLASSES.index(options.rare)
    print("| sample | class | " + " | ".join(f"{name}: held, width" for name in ESTIMATES) + " |")
    print("|---|---|" + "---|" * len(ESTIMATES))
    for words, kept_rare, kept_others in (
        (f"{options.rare} thinned to 1/4", 0.25, 1.0),
        (f"{options.rare} three times as frequent", 1.0, 1 / 3),
    ):
        held, widths = trial(truth, labels, probabilities, rare, kept_rare, kept_others, options.draws)
        for index, name in enumerate(CLASSES):
            cells = [f"{held[one][index]:.1%}, {widths[one][index]:.4f}" for one in ESTIMATES]
            print(f"| {words} | {name} | {' | '.join(cells)} |")
        mean = [f"{held[one].mean():.1%}" for one in ESTIMATES]
        print(f"| {words} | all | {' | '.join(mean)} |")


def read(catalog: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True classes, most probable classes and probabilities."""
    columns = ["status", TRUE_LABEL, "label_map", *map(probability_column, CLASSES)]
    rows = pd.concat([read_part(f"{catalog}/{name}", columns).to_pandas() for name in list_parts(catalog)])
    rows = rows[rows["status"] == OK]
    probabilities = rows[list(map(probability_column, CLASSES))].to_numpy(np.float64)
    encoded = (GALAXY_ZOO.encode(rows[name].to_numpy()) for name in (TRUE_LABEL, "label_map"))
    return (*encoded, probabilities)  # type: ignore[return-value]


def trial(
    truth: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    rare: int,
    kept_rare: float,
    kept_others: float,
    draws: int,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """For each estimate and class, how often its interval holds the truth, and how wide it is."""
    generator = np.random.default_rng(0)
    held = {name: np.zeros(len(CLASSES)) for name in ESTIMATES}
    widths = {name: np.zeros(len(CLASSES)) for name in ESTIMATES}
    for draw in range(draws):
        known = generator.random(len(truth)) < 0.5
        kept = generator.random(len(truth)) < np.where(truth == rare, kept_rare, kept_others)
        sample = np.flatnonzero(~known & kept)
        counts = np.bincount(labels[sample], minlength=len(CLASSES))
        table = class_fractions(
            pd.DataFrame([counts], columns=list(CLASSES)),
            confusion_matrix(truth[known], labels[known], len(CLASSES)),
            {0: SaidOfGalaxies(labels[sample], probabilities[sample])},
            np.bincount(truth[known], minlength=len(CLASSES)) / known.sum(),
            seed=draw,
        )
        shares = np.bincount(truth[sample], minlength=len(CLASSES)) / len(sample)
        for name in ESTIMATES:
            low, high = (table[f"{name}_{end}"].to_numpy() for end in ("low", "high"))
            held[name] += ((low <= shares) & (shares <= high)) / draws
            widths[name] += (high - low) / draws
    return held, widths


if __name__ == "__main__":
    main()
