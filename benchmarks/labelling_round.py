"""What is one round of labeling worth? Train on 100 labels, classify, label 100 more, train again.

    python benchmarks/labelling_round.py FOLDER [--pool 1500] [--test 1000] [--labels 100] [--seeds 0,1,2]

The galaxies are simulated, and the person who labels is the simulated truth. A model is trained on a random
draw of the pool, from the network of the model in the box, and classifies the pool. Of what has no label yet
are labeled, in turn, those that `hiwl sample --for-labelling` chooses (a third uncertain, a third diverse, a
third random), the least confident, and another random draw; on all labels together a model is trained anew,
as docs/labelling.md does it, a fifth held out to choose the epochs by; and one on those alone that `sample`
chose, which are no fair draw. All are scored on test galaxies that nobody labels. Everything goes through the
functions behind `hiwl classify`, `sample` and `train`.

The table has accuracy and recalls of `label` on the test galaxies: the mean over the seeds, which are of the
draws and of the training, with the smallest and the largest; first those of the model in the box, which has
seen no simulated galaxy but was taught these very classes. Where a choice lacks a class, which cannot be
trained then, it is said. What is in FOLDER already is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from hiwl_core.metrics import accuracy, confusion_matrix, recall
from hiwl_core.recipe import load_recipe
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.classify import classify
from pipeline.exploring.labeling_choice import choose_for_labeling
from pipeline.querying.query import query
from pipeline.simulate import simulate
from pipeline.training.train import train

START = "galaxyzoo"
ONE_LOOK = CatalogContents(["truth"], views=1, precision="float32")
CHOICES = ("chosen", "uncertain", "random")
# As docs/finetune.md has them, with smaller batches and more passes for so few labels.
SETTINGS = (
    f"stage1.init={START}",
    "stage1.input_size=128",
    "stage1.center_crop=192",
    "stage1.epochs=10",
    "stage2.epochs=8",
    "stage1.batch_size=16",
    "stage2.batch_size=16",
    "stage1.optimizer.lr=4e-4",
    "views=1",
    "finish=none",
)


def choose(catalog: str, out: Path, choice: str, count: int, seed: int, known: list[str]) -> list[str]:
    """Ids of the galaxies to label, beside those that have a label."""
    others = f"object_id NOT IN ({', '.join(known)})" if known else "true"
    if choice == "chosen":
        out.unlink(missing_ok=True)
        choose_for_labeling(catalog, str(out), count, where=others, seed=seed)
        return pd.read_csv(out, dtype=str)["object_id"].tolist()
    # Another draw than that of the first labels.
    drawn = f"md5(concat(object_id, ':', {seed}, ':', {len(known)}))"
    order = {"uncertain": "confidence, object_id", "random": drawn}[choice]
    sql = f"SELECT object_id FROM catalog WHERE status = 'ok' AND {others} ORDER BY {order} LIMIT {count}"
    return query(catalog, sql).table()["object_id"].cast(pa.string()).to_pylist()


def labeled(pool: str, ids: list[str], out: Path) -> Counter[str]:
    """A shard of these galaxies with the simulated truth as their labels; how many of each class."""
    wanted = pa.array(ids)
    tables = [pq.read_table(path) for path in sorted(Path(pool).glob("*.parquet"))]
    table = pa.concat_tables(tables)
    table = table.filter(pc.is_in(table["object_id"].cast(pa.string()), value_set=wanted))
    place = table.schema.get_field_index("label")
    pq.write_table(table.set_column(place, "label", table["truth"]), out)
    return Counter(table["truth"].to_pylist())


def score(bundle: str, shards: str, catalog: str) -> dict[str, float]:
    """Accuracy and recalls of what a model says of galaxies whose truth is known."""
    classify(bundle, shards, catalog, contents=ONE_LOOK)
    rows = query(catalog, "SELECT truth, label FROM catalog WHERE status = 'ok'").table()
    truth, found = (GALAXY_ZOO.encode(rows[name].to_pylist()) for name in ("truth", "label"))
    matrix = confusion_matrix(truth, found, len(GALAXY_ZOO.classes))
    recalls = dict(zip(GALAXY_ZOO.classes, recall(matrix).tolist(), strict=True))
    return {
        "accuracy": float(accuracy(matrix)),
        "mean recall": float(np.mean(list(recalls.values()))),
        **recalls,
    }


def trained(folder: Path, pool: str, ids: list[str], seed: int) -> str | None:
    """The bundle of a model that was trained on these galaxies; None if they lack a class."""
    folder.mkdir(exist_ok=True)
    if (folder / "run" / "bundle" / "bundle.json").exists():
        return str(folder / "run" / "bundle")
    classes = labeled(pool, ids, folder / "labeled.parquet")
    print(f"{folder.name}: {', '.join(f'{name} {classes[name]}' for name in GALAXY_ZOO.classes)}", flush=True)
    recipe = load_recipe("cpu", [*SETTINGS, f"seed={seed}"])
    try:
        return train(str(folder / "labeled.parquet"), 0.2, recipe, str(folder / "run")).bundle
    except UserError as error:
        print(f"  {error}", flush=True)
        return None


def one_round(folder: Path, sky: dict[str, str], count: int, seed: int) -> Iterator[dict[str, object]]:
    """Scores of the first labels and of each choice of the next ones."""
    catalog = str(folder / "catalog")
    first = choose(catalog, folder / "first.csv", "random", count, seed, [])
    place = folder / f"first-{seed}"
    bundle = trained(place, sky["pool"], first, seed)
    if bundle is None:
        return
    yield {"labels": f"{count} random", "seed": seed, **score(bundle, sky["test"], str(place / "test"))}
    classify(bundle, sky["pool"], str(place / "pool"), contents=ONE_LOOK)
    for choice in CHOICES:
        here = folder / f"{choice}-{seed}"
        here.mkdir(exist_ok=True)
        more = choose(str(place / "pool"), here / "ids.csv", choice, count, seed, first)
        again = trained(here, sky["pool"], first + more, seed)
        if again is not None:
            scores = score(again, sky["test"], str(here / "test"))
            yield {"labels": f"{count} random, {count} {choice}", "seed": seed, **scores}
        if choice == "chosen":
            alone = folder / f"alone-{seed}"
            bundle = trained(alone, sky["pool"], more, seed)
            if bundle is not None:
                yield {
                    "labels": f"{count} {choice}",
                    "seed": seed,
                    **score(bundle, sky["test"], str(alone / "test")),
                }


def main() -> None:
    """Make the galaxies, go round, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pool", type=int, default=1500, help="galaxies to choose from")
    parser.add_argument("--test", type=int, default=1000, help="galaxies to be judged by")
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    folder = options.folder.absolute()
    sky = {
        name: simulate(str(folder / name), count, seed=seed, ambiguous=0.0).cutouts
        for name, count, seed in (("pool", options.pool, 11), ("test", options.test, 12))
    }
    classify(START, sky["pool"], str(folder / "catalog"), contents=ONE_LOOK)
    rows = [{"labels": START, "seed": None, **score(START, sky["test"], str(folder / "before"))}]
    print(json.dumps(rows[0]), flush=True)
    for seed in map(int, options.seeds.split(",")):
        for row in one_round(folder, sky, options.labels, seed):
            rows.append(row)
            print(json.dumps(row), flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(folder / "rounds.csv", index=False)
    measures = ["accuracy", "mean recall", *GALAXY_ZOO.classes]
    lines = []
    for labels, of_labels in table.groupby("labels", sort=False):
        cells = [
            f"{values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]"
            if len(values) > 1
            else f"{values.iloc[0]:.3f}"
            for values in (of_labels[name] for name in measures)
        ]
        lines.append(f"| {labels} | {len(of_labels)} | {' | '.join(cells)} |")
    print("| labels | rounds |", " | ".join(measures), "|")
    print("|---" * (2 + len(measures)) + "|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
