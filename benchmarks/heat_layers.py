"""Where the heat of `hiwl reproduce figure7` lies, and what it is worth, by class and by layer.

python benchmarks/heat_layers.py galaxyzoo 'galaxyzoo/val-*.parquet' --id-column GalaxyID --label-column class

A line for each class and layer: the share of the heat in the central quarter of the image; what remains of
the class's probability, on average, while sky takes the place of the hottest pixels, and of the coldest; and
the rank correlation with maps of shuffled weights. Heat is on what decides where the first remainder is
small and the second large, and it is of the network where the correlation is low.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from hiwl_core.bundle import load_bundle
from hiwl_core.explanation import ExplainedModel, central_share
from pipeline.shards.cutout_shards import Columns, list_shards
from pipeline.shards.labeled_sample import sample_labeled

# Of the maps, pixels on a side at least: 1 takes each network's last ones.
SIDES = (1, 5, 9)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle")
    parser.add_argument("shards")
    parser.add_argument("--per-class", type=int, default=12)
    parser.add_argument("--id-column", default="object_id")
    parser.add_argument("--label-column", default="label")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle)
    model, taxonomy = ExplainedModel(bundle), bundle.taxonomy
    sample = sample_labeled(
        list_shards(options.shards),
        Columns(id=options.id_column, label=options.label_column),
        taxonomy,
        bundle.smallest_cutout,
        bundle.rgb,
        seed=0,
        per_class=options.per_class,
    )
    rows = []
    for side in SIDES:
        found = model.heat_maps(sample.images, sample.class_indices, side)
        checks = model.check_heat(found, sample.class_indices, side)
        central = np.array([central_share(one.heat[np.newaxis])[0] for one in found])
        for index, name in enumerate(taxonomy.classes):
            here = np.flatnonzero(sample.class_indices == index)
            rows.append(
                {
                    "class": name,
                    "layer": found[here[0]].layer,
                    "central": np.nanmean(central[here]),
                    "hottest gone": checks.hottest_first[here].mean(),
                    "coldest gone": checks.coldest_first[here].mean(),
                    "shuffled": np.nanmedian(checks.random_likeness[here]),
                }
            )
            print(pd.DataFrame(rows[-1:]).to_string(index=False, header=len(rows) == 1), flush=True)


if __name__ == "__main__":
    main()
