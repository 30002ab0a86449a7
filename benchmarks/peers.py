"""How fast is ``hiwl classify`` beside what astronomers use, on the same images and the same weights?

    python benchmarks/peers.py IMAGES [--backbone efficientnet_b1] [--size 240] [--rounds 3] [--json FILE]
    python benchmarks/peers.py IMAGES --bundle run/bundle --zoobot zoobot/bin/python --json peers.json

IMAGES is a folder of JPEGs, such as Galaxy Zoo's of 424 px. Each round runs all of them in turn, each in a
process of its own, in an order that changes by round:

hiwl              the command, on cutout shards: the images repeated under ids of their own to --images rows
dataloader, ray-data, ray-data-tuned    the loops of `benchmarks/peer_loops.py`
zoobot            Zoobot's own prediction by `benchmarks/zoobot_predict.py`, in the Python given by --zoobot,
                  with a network of as many multiply-adds; it has no second stage, so it does a little less

The peers see the images repeated to --peer-images, each image at least once, as loose files. Rates are those
of the loop alone, without imports, the making of networks and the start of Ray, from the end of the first
batch to the end of the last; for hiwl from the end of its first part to that of its last, by the catalog's
ledger, which takes more than 500 rows. What the command itself says, with the start of its workers, is
`hiwl as it says`; `whole` is the life of the process. Ratios are of the same round. Labels are compared on
all different images; where one differs, `margins` says how far the peer was from a tie. Memory is the peak of
all processes together, looked at once a second: PSS divides what they share, RSS counts it in each of them.

Without --bundle the weights are random, with the statistics and the spread of logits that real images give
them; a bundle that averages over several views is run with one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import ROOT, watched
from peer_table import HIWL, agreement, facts_of, table_of

from hiwl_core.bundle import ModelBundle, bundle_files, load_bundle
from pipeline.catalog.ledger import read_ledger
from pipeline.shards.cutout_shards import encode_shard, shard_name
from tests.bundles import random_bundle

ZOOBOT = "zoobot"
LOOPS = ("dataloader", "ray-data", "ray-data-tuned")
SUBJECTS = (HIWL, *LOOPS, ZOOBOT)
FIRST_ID = 588 * 10**15
SHARD_ROWS = 500
CROP = 240
IMAGES_TO_SPREAD = 50


def make_bundle(options: argparse.Namespace, images: list[Path], work: Path) -> ModelBundle:
    """The bundle that all of them run, in the folder ``bundle`` of `work`."""
    if options.bundle:
        given = replace(load_bundle(options.bundle), views=1)
        if given.stages["stage1"].preprocessing != given.stages["stage2"].preprocessing:
            sys.exit(f"{options.bundle}: the peers' loops need stages that see the same pixels")
        (work / "bundle").mkdir(parents=True, exist_ok=True)
        for name, content in bundle_files(given).items():
            (work / "bundle" / name).write_bytes(content)
    else:
        some = [path.read_bytes() for path in images[:: -(-len(images) // IMAGES_TO_SPREAD)]]
        crop = max(CROP, options.size)
        random_bundle(work / "bundle", 0, crop, options.size, options.backbone, some)
    return load_bundle(work / "bundle")


def fill(folder: Path, images: list[Path], rows: int) -> None:
    """Cutout shards of the images, repeated under ids of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = [path.read_bytes() for path in images]
    count = -(-rows // SHARD_ROWS)
    for index in range(count):
        chosen = np.arange(index * SHARD_ROWS, min((index + 1) * SHARD_ROWS, rows))
        table = pa.table(
            {
                "object_id": pa.array(FIRST_ID + chosen),
                "ra": pa.array(chosen * (360 / rows)),
                "dec": pa.array(np.zeros(len(chosen))),
                "image": pa.array([contents[row % len(contents)] for row in chosen], pa.binary()),
            }
        )
        (folder / shard_name("sky", index, count)).write_bytes(encode_shard(table, "benchmarks/peers.py"))


def run_hiwl(work: Path, number: int) -> dict[str, Any]:
    """Classify the shards into a catalog of the round's own."""
    catalog = work / f"catalog-{number}"
    command = [sys.executable, "-m", "jobs.cli", "classify", work / "bundle", work / "sky", catalog]
    run = watched(list(map(str, command)), own=True)
    line = re.search(r"(\d+) images in ([\d.]+) s", run.pop("said"))
    if line is None:
        raise RuntimeError("hiwl classify did not say its rate")
    entries = sorted(
        (entries[-1] for entries in read_ledger(str(catalog)).values()), key=lambda e: e.finished
    )
    # Workers that began with others end their first parts with them too: the clock starts after these.
    first = sum(entry.finished - entry.seconds < entries[0].finished for entry in entries)
    seconds = entries[-1].finished - entries[first - 1].finished
    timed = sum(entry.rows for entry in entries[first:])
    return {
        **run,
        "images": int(line[1]),
        "timed_images": timed,
        "seconds": seconds,
        "rate": timed / seconds if timed else float("nan"),
        "said_rate": int(line[1]) / float(line[2]),
    }


def run_peer(subject: str, bundle: ModelBundle, work: Path, number: int, zoobot: str) -> dict[str, Any]:
    """Run a peer on the list of images."""
    listing = work / "images.txt"
    if subject == ZOOBOT:
        stage = bundle.stages["stage1"]
        command = [zoobot, ROOT / "benchmarks/zoobot_predict.py", listing, "--backbone", stage.backbone]
        run = watched([*map(str, command), "--size", str(stage.preprocessing.input_size)], own=False)
        found = json.loads(run.pop("said").splitlines()[-1])
        return {**run, **found}
    out = work / f"{subject}-{number}.json"
    command = [sys.executable, ROOT / "benchmarks/peer_loops.py", subject, work / "bundle", listing, out]
    run = watched(list(map(str, command)), own=True)
    run.pop("said")
    return {**run, **json.loads(out.read_text())}


def catalog_of(work: Path, number: int, images: list[Path]) -> pd.DataFrame:
    """The catalog's rows, with the path of each one's image."""
    rows = pa.dataset.dataset(list(map(str, (work / f"catalog-{number}").glob("*.parquet")))).to_table()
    table = rows.to_pandas()
    table["path"] = [str(images[row % len(images)]) for row in table["object_id"] - FIRST_ID]
    return table


def main() -> None:
    """Run all of them in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="IMAGES", help="folder of JPEGs")
    parser.add_argument("--backbone", default="efficientnet_b1")
    parser.add_argument("--size", type=int, default=240, help="pixels on a side that the network sees")
    parser.add_argument("--bundle", metavar="FOLDER", help="run this one instead of random weights")
    parser.add_argument("--images", type=int, default=6000, help="rows of hiwl's shards")
    parser.add_argument("--peer-images", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--zoobot", metavar="PYTHON", help="a Python that has Zoobot")
    parser.add_argument("--only", nargs="*", choices=SUBJECTS, default=SUBJECTS)
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="folder for the data; default one that is removed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements here")
    options = parser.parse_args()
    # So that what it started is ended too when this script is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    images = sorted(path.resolve() for path in options.folder.glob("*.jp*g"))
    if not images:
        sys.exit(f"{options.folder}: no *.jpg there")
    subjects = [one for one in SUBJECTS if one in options.only or one == HIWL]
    if ZOOBOT in subjects and not options.zoobot:
        subjects.remove(ZOOBOT)
        print("zoobot is left out: --zoobot PYTHON says where it is installed", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        if options.work:
            options.work.mkdir(parents=True, exist_ok=True)
        # Catalogs of an earlier run would be taken for done.
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.work))).resolve()
        bundle = make_bundle(options, images, work)
        fill(work / "sky", images, max(options.images, len(images)))
        listed = max(options.peer_images, len(images))
        (work / "images.txt").write_text("".join(f"{images[row % len(images)]}\n" for row in range(listed)))
        runs: list[dict[str, Any]] = []
        for number in range(options.rounds):
            turn = number % len(subjects)
            for subject in (*subjects[turn:], *subjects[:turn]):
                if subject == HIWL:
                    run = run_hiwl(work, number)
                else:
                    run = run_peer(subject, bundle, work, number, options.zoobot)
                runs.append({"subject": subject, "round": number, **run})
                said = f"{run['rate']:.1f} images/s, {run['whole']:.0f} s in all"
                print(f"round {number + 1}: {subject}: {said}", file=sys.stderr, flush=True)
        catalog = catalog_of(work, 0, images)
        facts = facts_of(bundle, images, catalog)
        agreements = {
            subject: agreement(catalog, pd.read_parquet(work / f"{subject}-0.parquet"), bundle)
            for subject in subjects
            if subject in LOOPS
        }
    measured = pd.DataFrame(runs)
    measured["subject"] = pd.Categorical(measured["subject"], subjects).astype(object)
    table = table_of(measured.sort_values("round"), agreements)
    print(f"{facts['backbone']} at {facts['input_size']} px, {facts['routed_to_stage2']:.0%} in stage 2 too")
    print(table.to_string(index=False))
    for subject, found in agreements.items():
        print(
            f"{subject}: {found['labels_differ']} of {found['images']} labels differ {found['margins'] or ''}"
        )
    if options.json:
        written = {
            **facts,
            "rounds": options.rounds,
            "table": table.to_dict("records"),
            "agreement": agreements,
            "runs": runs,
        }
        options.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
