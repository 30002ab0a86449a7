"""Two writers of one output, again and again, each round at other moments: never is the output a mixture.

python -m tests.interleavings --rounds 200 --seed 0

In each round two runs of `classify`, `ingest` or `publish` write into one folder, on a disk or in a real S3
store, from one process. What they ask for differs (another model, other labels, other tiles) or is the same.
A run may sleep for a moment wherever it touches storage: before its claim, the header, the ledger, a part.
In every second round leases die after a moment, so that runs that are alive are taken for dead and followed.

After a round the output is read: it must be one run's, as far as that came, or refuse to be read. Then both
are started again, one after the other: one of them finishes its own, and the other is refused by name. The
whole output must be, file by file, that of an undisturbed run.

One line for each kind of round. The exit code is 1 if anything else came of one.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pyarrow.parquet as pq
import ray

from hiwl_core.errors import IncompleteError, UserError
from pipeline import lease, storage
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.manifest import PlannedShard, read_making
from pipeline.catalog.parts import making_in
from pipeline.catalog.verify import verify
from pipeline.classification.classify import classify
from pipeline.classification.computing import Computing
from pipeline.classification.shard_classifier import ShardClassifier
from pipeline.classification.shard_work import CatalogWork
from pipeline.ingestion.ingest import ingest
from pipeline.ingestion.ingest_options import IngestOptions
from pipeline.publication.publish import publish
from pipeline.querying.query import open_catalog
from tests.catalogs import write_catalog
from tests.drawings import draw_galaxy, write_labeled_shard

__all__ = ["Ground", "Kind", "make_ground", "play"]

# Where a run may be held up, by what the path has in it, and how likely that is.
MOMENTS = {
    "_lease": 0.5,
    "_catalog.json": 0.7,
    "_plan.arrow": 0.7,
    "plan": 0.7,
    "_publish.json": 0.7,
    "_ledger": 0.3,
    ".parquet": 0.3,
}
LONGEST_SLEEP = 0.15
LONGEST_START = 0.4
# Of leases in rounds of the sleepy: a run is often taken for dead, and finds out soon or late.
SLEEPY_DEATH, SLEEPY_SIGN = 0.1, 0.2
ATTEMPTS_AFTERWARDS = 3
TOUCHING = ("create_bytes", "write_bytes", "read_bytes", "exists", "list_files", "remove")


class Kind(NamedTuple):
    """What a round is of."""

    verb: str
    store: str
    same: bool
    sleepy: bool

    def __str__(self) -> str:
        plans = "the same" if self.same else "different"
        return f"{self.verb} | {self.store} | {plans} | {'die' if self.sleepy else 'live'}"


class Ground(NamedTuple):
    """What the runs of all rounds read.

    Parameters
    ----------
    work : Path
    store : str
        Prefix of paths in the object store; empty: there is none.
    models : tuple of str
        Two bundles.
    """

    work: Path
    store: str
    models: tuple[str, str]


def make_ground(work: Path, store: str, models: tuple[str, str]) -> Ground:
    """Shards to classify, images and labels to ingest, a catalog to publish; all small."""
    for number in range(2):
        write_labeled_shard(work / "sky" / f"sky-{number}.parquet", {"CRS": 1, "EO": 1}, first_id=10 * number)
    (work / "images").mkdir()
    for number in range(4):
        (work / "images" / f"{number}.jpg").write_bytes(draw_galaxy("CRS", number))
    for index, label in enumerate(("CRS", "SPI")):
        lines = [f"{number},{label}" for number in range(4)]
        (work / f"labels{index}.csv").write_text("\n".join(["object_id,label", *lines, ""]))
    write_catalog(work / "catalog", 2, 60)
    return Ground(work, store, models)


def run(ground: Ground, kind: Kind, which: int, out: str) -> None:
    """One of the two runs."""
    if kind.verb == "classify":
        classify(
            ground.models[which],
            str(ground.work / "sky"),
            out,
            computing=Computing(workers=1, gpu=False, engine="torch"),
        )
    elif kind.verb == "ingest":
        labels = str(ground.work / f"labels{which}.csv")
        ingest(str(ground.work / "images"), out, IngestOptions(labels, shard_rows=2))
    else:
        publish(str(ground.work / "catalog"), out, max_rows=(30, 40)[which])


_CLASSIFIERS: dict[str, tuple[ShardClassifier, threading.Lock]] = {}
_MAKING = threading.Lock()


def in_this_process(work: CatalogWork, shards: Sequence[PlannedShard], *_: object) -> Iterator[LedgerEntry]:
    """What the actors of a cluster do, without the seconds that they take to start."""
    with _MAKING:
        if work.model_id not in _CLASSIFIERS:
            _CLASSIFIERS[work.model_id] = (ShardClassifier(work, 1), threading.Lock())
    classifier, lock = _CLASSIFIERS[work.model_id]
    for shard in shards:
        with lock:
            entries = classifier.classify([work.task(shard.shard, shard.fingerprint, None)])
        yield from entries


@contextmanager
def held_up(chance: random.Random) -> Iterator[None]:
    """Let whoever touches storage sleep now and then before."""
    lock = threading.Lock()

    def before(function: Callable[..., Any], path: str, *rest: Any) -> Any:
        odds = max((odds for words, odds in MOMENTS.items() if words in path), default=0.0)
        with lock:
            seconds = chance.random() * LONGEST_SLEEP if chance.random() < odds else 0.0
        time.sleep(seconds)
        return function(path, *rest)

    whole = {name: partial(before, getattr(storage, name)) for name in TOUCHING}
    with patch.multiple(storage, **whole):
        yield


def outcome(action: Callable[[], None], wait: float = 0.0) -> str:
    """What became of a run: ``done``, or how it was refused."""
    time.sleep(wait)
    try:
        action()
    except UserError as error:
        return f"refused: {error}"
    except IncompleteError as error:
        return f"incomplete: {error}"
    except Exception:
        return f"broken: {traceback.format_exc()}"
    return "done"


def mixture(kind: Kind, out: str) -> str:
    """What of an output is another run's than the rest, though it can be read; empty if nothing is."""
    if kind.verb != "classify":
        # An ingest and a publication are read when they are whole, which is compared file by file.
        return ""
    try:
        making = read_making(out)
        table = open_catalog(out) if making else None
    except UserError:
        return ""
    if table is None:
        return ""
    for path, _ in storage.list_files(out):
        if path.endswith(".parquet"):
            with storage.open_input(path) as file:
                found = making_in(pq.ParquetFile(file).schema_arrow.metadata)
            if found != making:
                return f"{path} is of another making than the header"
    return ""


def content(kind: Kind, out: str) -> dict[str, Any]:
    """An output's files by their places in it, without what says when and where it was made."""
    files: dict[str, Any] = {}
    root = out.removeprefix("file://")
    for path, _ in storage.list_files(out):
        name = path.removeprefix(root).lstrip("/")
        if name.endswith(".parquet"):
            with storage.open_input(path) as file:
                files[name] = pq.ParquetFile(file).read()
        elif not name.startswith(("_lease", "_ledger", "_ingest", "_plan", "_publish", "_statistics")):
            files[name] = "" if name.endswith(("properties", ".properties")) else storage.read_bytes(path)
    if kind.verb == "classify" and not verify(out).passed:
        files["findings"] = json.dumps(verify(out).findings)
    return files


def same_content(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    """Whether two outputs are the same, file by file."""
    return found.keys() == expected.keys() and all(
        value.equals(expected[name]) if hasattr(value, "equals") else value == expected[name]
        for name, value in found.items()
    )


def play(ground: Ground, kind: Kind, seed: int, expected: dict[tuple[str, int], Any]) -> tuple[str, str]:
    """One round: what came of it in a word, and what was wrong with it, empty if nothing was.

    Parameters
    ----------
    ground : Ground
    kind : Kind
    seed : int
    expected : dict
        Contents of undisturbed runs, by verb and run; they are made when they are first needed.
    """
    chance = random.Random(seed)
    which = (0, 0) if kind.same else (0, 1)
    for one in set(which):
        if (kind.verb, one) not in expected:
            calm = str(ground.work / f"calm-{kind.verb}-{one}")
            with patch("pipeline.classification.shard_stream.classify_shards", in_this_process):
                run(ground, kind, one, calm)
            expected[kind.verb, one] = content(kind, calm)
    out = f"{ground.store}/out-{seed}" if kind.store == "S3" else str(ground.work / f"out-{seed}")
    waits = [0.0, chance.random() * LONGEST_START]
    death = SLEEPY_DEATH if kind.sleepy else lease.SECONDS_TO_DEATH
    watch = 0.0 if kind.sleepy else lease.SECONDS_OF_WATCH
    sign = SLEEPY_SIGN if kind.sleepy else lease.SECONDS_BETWEEN_SIGNS
    with patch("pipeline.classification.shard_stream.classify_shards", in_this_process):
        with (
            patch.multiple(lease, SECONDS_TO_DEATH=death, SECONDS_BETWEEN_SIGNS=sign, SECONDS_OF_WATCH=watch),
            held_up(chance),
            ThreadPoolExecutor(2) as threads,
        ):
            actions = [partial(run, ground, kind, one, out) for one in which]
            outcomes = list(threads.map(outcome, actions, waits))
        wrong = [one for one in outcomes if one.startswith("broken")]
        wrong += [words for words in (mixture(kind, out),) if words]
        if outcomes.count("done") > 1 and not (kind.same or kind.sleepy):
            wrong.append("both say that they are done")
        # A run that was taken for dead and one that follows it are both gone now.
        afterwards = [outcome(partial(run, ground, kind, one, out)) for one in sorted(set(which))]
    finished = [one for one, word in zip(sorted(set(which)), afterwards, strict=True) if word == "done"]
    if len(finished) == 1:
        if not same_content(content(kind, out), expected[kind.verb, finished[0]]):
            wrong.append("the output is not that of an undisturbed run")
        done = [one for one, word in zip(which, outcomes, strict=True) if word == "done"]
        if any(one != finished[0] for one in done):
            wrong.append("a run that said it was done is gone")
    else:
        wrong.append(f"{len(finished)} runs finish afterwards: {afterwards}")
    storage.remove(out)
    word = " + ".join(sorted(one.split(":")[0] for one in outcomes))
    return word, "; ".join([*wrong, *([str(outcomes)] if wrong else [])])


def main() -> None:
    """Play the rounds, and print what came of them."""
    from tests.bundles import random_bundle
    from tests.object_store import free_ports, serve, store_environment

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="a line for each round")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="hiwl-"))
    (port,) = free_ports(1)
    with patch.dict("os.environ", store_environment(port)), serve(work / "store", port) as store:
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
        models = (random_bundle(work / "model0"), random_bundle(work / "model1", seed=1))
        (work / "ground").mkdir()
        ground = make_ground(work / "ground", store.url, models)
        kinds = [
            Kind(verb, place, same, sleepy)
            for same in (False, False, True)
            for sleepy in (False, True)
            for place in ("disk", "S3")
            for verb in ("classify", "ingest", "publish")
        ]
        came, wrong = Counter[tuple[str, str]](), []
        expected: dict[tuple[str, int], Any] = {}
        for number in range(options.rounds):
            kind, seed = kinds[number % len(kinds)], options.seed * 100_000 + number
            started = time.monotonic()
            word, words = play(ground, kind, seed, expected)
            came[str(kind), word] += 1
            if options.verbose:
                print(f"{time.monotonic() - started:6.1f} s: seed {seed}, {kind}: {word}", flush=True)
            if words:
                wrong.append(seed)
                print(f"seed {seed}, {kind}: {words}", file=sys.stderr, flush=True)
        ray.shutdown()
    shutil.rmtree(work, ignore_errors=True)
    print("| verb | store | plans | leases | what came of the two | rounds |\n|---|---|---|---|---|---|")
    for (kind_words, word), count in sorted(came.items()):
        print(f"| {kind_words} | {word} | {count} |")
    print(f"{options.rounds} rounds from seed {options.seed}, {len(wrong)} wrong")
    sys.exit(int(bool(wrong)))


if __name__ == "__main__":
    main()
