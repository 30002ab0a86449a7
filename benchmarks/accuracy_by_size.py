"""How accurate a scored catalog is for small and large, faint and bright galaxies.

    hiwl evaluate galaxyzoo 'galaxyzoo/val-*.parquet' --id-column GalaxyID --label-column class --out scores
    python benchmarks/accuracy_by_size.py scores/catalog 'galaxyzoo/val-*.parquet' --id-column GalaxyID

Galaxy Zoo's composites are scaled by the Petrosian radius and carry no magnitudes, so both are taken from the
pixels: the radius that holds half of the light above the sky within the central 192 pixels, and the light's
mean level there. Thirds of the galaxies by each, with Wilson intervals.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from hiwl_core.cutouts import center_crop
from hiwl_core.decoding import decode_pixels
from hiwl_core.metrics import wilson
from hiwl_core.statuses import OK
from pipeline.catalog.catalog_schema import TRUE_LABEL
from pipeline.catalog.parts import list_parts, read_part
from pipeline.shards.cutout_shards import Columns, iter_rows, list_shards

SIDE = 192
THIRDS = ("lowest third", "middle", "highest third")


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("catalog")
    parser.add_argument("shards")
    parser.add_argument("--id-column", default="object_id")
    options = parser.parse_args()
    columns = ["object_id", "status", TRUE_LABEL, "label_map"]
    parts = [
        read_part(f"{options.catalog}/{name}", columns).to_pandas() for name in list_parts(options.catalog)
    ]
    scored = pd.concat(parts).set_index("object_id")
    rows = []
    for shard in list_shards(options.shards):
        for table in iter_rows(shard, Columns(id=options.id_column), ["object_id", "image"], []):
            for identifier, image in zip(
                table["object_id"].to_pylist(), table["image"].to_pylist(), strict=True
            ):
                row = scored.loc[identifier]
                if row["status"] == OK:
                    rows.append((*light(decode_pixels(image).pixels), row[TRUE_LABEL] == row["label_map"]))
    galaxies = pd.DataFrame(rows, columns=["half-light radius, px", "mean level", "right"])
    print("| by | | galaxies | accuracy of label_map |\n|---|---|---|---|")
    for proxy in ("half-light radius, px", "mean level"):
        third = pd.qcut(galaxies[proxy], 3, labels=THIRDS)
        for name, group in galaxies.groupby(third, observed=True):
            low, high = wilson(int(group["right"].sum()), len(group))
            extent = f"{group[proxy].min():.1f} to {group[proxy].max():.1f}"
            print(
                f"| {proxy} | {name}, {extent} | {len(group)} | {group['right'].mean():.4f} "
                f"[{low:.4f}, {high:.4f}] |"
            )


def light(pixels: np.ndarray) -> tuple[float, float]:
    """Half-light radius, pixels, and mean level above the sky within it."""
    gray = center_crop(pixels, SIDE).mean(axis=2)
    # The corners of the crop are sky in nearly all of these images.
    sky = np.median(np.concatenate([gray[:20, :20].ravel(), gray[-20:, -20:].ravel()]))
    flux = np.clip(gray - sky, 0, None)
    places = np.arange(SIDE) - (SIDE - 1) / 2
    radius = np.hypot(*np.meshgrid(places, places)).ravel()
    order = np.argsort(radius)
    growth = np.cumsum(flux.ravel()[order])
    half = float(radius[order][np.searchsorted(growth, growth[-1] / 2)])
    return half, float(flux.ravel()[radius <= half].mean())


if __name__ == "__main__":
    main()
