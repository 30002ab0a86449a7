"""A new user's first hour, step by step and timed: a folder of images with classes of their own.

    python benchmarks/first_hour.py FOLDER [--galaxies 1600]

The images are simulated galaxies, in folders by what people voted of them: smooth, edge-on, with a bar or
without. Making them is not among the steps. Everything else is a command of `hiwl` as it is typed, and in the
explorer the requests that its page sends for a key that is pressed. The steps are printed as Markdown, with
what each command said last and how long it took.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import pyarrow.parquet as pq

HIWL = (sys.executable, "-m", "jobs.cli")
LINES_SHOWN = 12
LABELS = 20
DATA = "--data 'data/train-*.parquet' --val 'data/val-*.parquet'"
TRAINED = (
    "hiwl taxonomy new images --out bars.toml",
    "hiwl ingest images data --class-folders --taxonomy bars.toml --split 8:1:1",
    f"hiwl train {DATA} --recipe demo --taxonomy bars.toml --out run",
    "hiwl evaluate run/bundle 'data/test-*.parquet' --out scores",
    "hiwl ingest new unknown",
    "hiwl classify run/bundle unknown catalog",
    f"hiwl sample catalog chosen.csv --for-labelling {LABELS}",
)
LABELED = (
    "hiwl explore catalog --export labels.csv",
    "hiwl ingest unknown mine --labels labels.csv --taxonomy bars.toml --drop-unlabeled --name train",
)
TUNED = (
    f"hiwl train {DATA} --recipe demo --taxonomy bars.toml --out tuned "
    "--set stage1.init=bundle:run/bundle --set stage1.epochs=2",
    "hiwl evaluate tuned/bundle 'data/test-*.parquet' --out tuned_scores",
)
CLEAN = 0.6


def main() -> None:
    """Walk it, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of its own; it must not be there")
    parser.add_argument("--galaxies", type=int, default=1600)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True)
    truth = draw_images(folder, options.galaxies)
    began = time.monotonic()
    for command in TRAINED:
        step(folder, command)
    label(folder, truth)
    for command in LABELED:
        step(folder, command)
    shutil.copy(next(folder.glob("mine/*.parquet")), folder / "data" / "train-mine.parquet")
    print("\n    $ cp mine/train-*.parquet data/train-mine.parquet")
    for command in TUNED:
        step(folder, command)
    print(f"\nIn all {(time.monotonic() - began) / 60:.1f} minutes.")


def draw_images(folder: Path, count: int) -> dict[str, str]:
    """Folders of images by class, and one of those that nobody has sorted; the classes of the latter."""
    run(folder, "simulate", "sky", "--count", str(count), "--seed", "7")
    with (folder / "sky" / "votes.csv").open() as file:
        classes = {row["GalaxyID"]: class_of(row) for row in csv.DictReader(file)}
    unsorted: dict[str, str] = {}
    for shard in sorted((folder / "sky" / "cutouts").glob("*.parquet")):
        for row in pq.read_table(shard, columns=["object_id", "image"]).to_pylist():
            name = str(row["object_id"])
            kind = classes[name]
            if kind is None:
                continue
            if int(name) % 5 == 0:
                unsorted[name], kind = kind, ""
            place = folder / "images" / kind if kind else folder / "new"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.jpg").write_bytes(row["image"])
    shutil.rmtree(folder / "sky")
    return unsorted


def class_of(votes: dict[str, str]) -> str | None:
    """What most people see in a galaxy; None where they do not agree."""
    share = {name: float(value) for name, value in votes.items() if name.startswith("Class")}
    if share["Class1.1"] > CLEAN:
        return "smooth"
    if share["Class2.1"] > CLEAN:
        return "edge_on"
    if share["Class2.2"] > CLEAN:
        return "barred" if share["Class3.1"] > share["Class3.2"] else "unbarred"
    return None


def step(folder: Path, command: str) -> None:
    """A command, what it said last, and how long it took."""
    started = time.monotonic()
    said = run(folder, *shlex.split(command)[1:]).rstrip().splitlines()
    seconds = time.monotonic() - started
    print(f"\n    $ {command}")
    for line in ["...", *said[-LINES_SHOWN:]] if len(said) > LINES_SHOWN else said:
        print(f"    {line}")
    print(f"\n*{seconds:.0f} s*", flush=True)


def run(folder: Path, *words: str) -> str:
    """What a command prints."""
    done = subprocess.run([*HIWL, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(words)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def label(folder: Path, truth: dict[str, str]) -> None:
    """Give each chosen galaxy its label on the explorer's page."""
    started = time.monotonic()
    words = ["explore", "catalog", "--only", "chosen.csv", "--who", "ada"]
    with explorer(folder, words) as address:
        asked = {"order": "uncertain"}
        query = urlencode({"asked": json.dumps(asked), "start": 0, "count": LABELS})
        rows = answer(f"{address}api/rows?{query}")["rows"]
        for place, row in enumerate(rows):
            given = {"part": row["part"], "id": row["id"], "answer": truth[row["id"]], "place": place}
            told = answer(f"{address}api/label", {**given, "answer_shown": False, "asked": asked})
    print(f"\n    $ {shlex.join(['hiwl', *words])}")
    print(f"    open {address.rsplit('/', 2)[0]}/...")
    print(f"    {len(rows)} galaxies, {len(rows)} keys: {told['labels']}")
    print(f"\n*{time.monotonic() - started:.0f} s, and the time of a person*", flush=True)


@contextmanager
def explorer(folder: Path, words: Sequence[str]) -> Iterator[str]:
    """The address of an explorer, which serves for the length of a ``with`` block."""
    process = subprocess.Popen([*HIWL, *words], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("open "):
                yield line.split()[1]
                return
        sys.exit(f"{shlex.join(words)}: no address")
    finally:
        process.terminate()
        process.wait()


def answer(url: str, content: dict[str, object] | None = None) -> dict[str, object]:
    """What the page is answered."""
    body = None if content is None else json.dumps(content).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, body, {"Content-Type": "application/json"})
    ) as response:
        return dict(json.load(response))


if __name__ == "__main__":
    main()
