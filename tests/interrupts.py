"""Ctrl-C in each phase of each long verb: a line, code 130, nothing left running, and it goes on.

python -m tests.interrupts [--only PHASE]

Each command runs as in a terminal, where Ctrl-C reaches all processes of its group, with a Ray of its own.
When the phase has begun it is interrupted, at a random moment of the next second, or of less where all is
over by then; then it is started again and has to end well.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.bundles import random_bundle
from tests.conftest import TINY, without_cluster
from tests.drawings import CLASSES, draw_galaxy, write_labeled_shard

__all__ = ["PHASES", "Phase", "Place", "interrupted", "make_place"]

PATIENCE = 900.0
SECONDS_TO_GO = 20.0
# After the phase has begun, at most; shorter where the work was over by then.
SECONDS_AFTER = (1.0, 0.3, 0.1, 0.0)
COUNTS = dict.fromkeys(CLASSES, 12)


@dataclass(frozen=True)
class Phase:
    """A moment of a verb's work.

    Parameters
    ----------
    name : str
    command : tuple of str
        After ``hiwl``; ``OUT`` stands for an output of its own.
    said : str, optional
        A regular expression that what it has printed matches when the phase has begun.
    there : str, optional
        A glob below the output that finds a file when it has.
    """

    name: str
    command: tuple[str, ...]
    said: str = ""
    there: str = ""

    def begun(self, log: Path, out: Path) -> bool:
        """Whether it has."""
        if self.said and not re.search(self.said, log.read_text(errors="replace")):
            return False
        return not self.there or next(out.glob(self.there), None) is not None


HERE = ("train", "--data", "train", "--val", "val", "--recipe", "demo", "--out", "OUT")
TRAIN = (*HERE, "--workers", "1")
SMALL = tuple(word for change in (*TINY, "finish=calibration") for word in ("--set", change))
PHASES = (
    Phase("simulate: rendering", ("simulate", "OUT", "--count", "600"), there="cutouts/*.parquet"),
    Phase("ingest: planning", ("ingest", "images", "OUT"), there="_*"),
    Phase("ingest: packing", ("ingest", "images", "OUT"), there="*.parquet"),
    Phase("train in the command's own process", (*HERE, *SMALL), said="stage1 epoch 2"),
    Phase("train: loading", (*TRAIN, *SMALL), said="train: "),
    Phase("train: stage 1", (*TRAIN, *SMALL), said="stage1 epoch 1"),
    Phase("train: stage 2", (*TRAIN, *SMALL), said="stage2 epoch 1"),
    Phase("train: pairs", (*TRAIN, *SMALL), said="scoring"),
    Phase("train: fitting", (*TRAIN, *SMALL), said="fitting on"),
    Phase(
        "classify: Ray starts", ("classify", "model", "sky", "OUT", "--workers", "1"), there="_catalog.json"
    ),
    Phase("classify: parts", ("classify", "model", "sky", "OUT", "--workers", "1"), there="*.parquet"),
    Phase("evaluate", ("evaluate", "model", "val", "--out", "OUT"), there="catalog/_*"),
    Phase("publish: on Ray", ("publish", "catalog", "OUT", "--workers", "2"), there="*"),
    Phase("report", ("report", "run", "--out", "OUT", "--val", "val"), there="*"),
    Phase(
        "reproduce: a training",
        (
            "reproduce",
            "table4",
            "--data",
            "train",
            "--val",
            "val",
            "--recipe",
            "demo",
            "--out",
            "OUT",
            *SMALL,
        ),
        said="epoch 1",
    ),
)


@dataclass
class Place:
    """Where the commands find what they read.

    Parameters
    ----------
    folder : Path
    log : Path
        What the last command printed.
    """

    folder: Path
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder / "log"

    @staticmethod
    def words(phase: Phase, out: Path) -> list[str]:
        """What is typed after ``hiwl``."""
        return [str(out) if word == "OUT" else word for word in phase.command]

    def start(self, phase: Phase, out: Path) -> subprocess.Popen[bytes]:
        """Begin a command; what it prints goes to `log`."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", *self.words(phase, out)],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=without_cluster() | {"PYTHONPATH": str(Path(__file__).parents[1])},
                start_new_session=True,
            )

    def run(self, phase: Phase, out: Path) -> int:
        """A whole command, and its exit code."""
        return self.start(phase, out).wait(PATIENCE)


def make_place(folder: Path) -> Place:
    """Write what the commands read; the catalog and the run are made by commands."""
    for number in range(4):
        write_labeled_shard(folder / "train" / f"train-{number}.parquet", COUNTS, 1000 * number)
    write_labeled_shard(folder / "val" / "val-0.parquet", COUNTS, first_id=9000)
    for number in range(24):
        write_labeled_shard(folder / "sky" / f"sky-{number:02d}.parquet", COUNTS, 20_000 + 1000 * number)
    (folder / "images").mkdir()
    # Three shards: when the first is there others are under way.
    for number in range(9000):
        (folder / "images" / f"{number}.jpg").write_bytes(draw_galaxy(CLASSES[number % 5], number, 64))
    random_bundle(folder / "model")
    place = Place(folder)
    for name, command in (("catalog", PHASES[9].command), ("run", (*TRAIN, *SMALL))):
        if code := place.run(Phase(name, command), folder / name):
            raise RuntimeError(f"{name}: exit code {code}: {place.log.read_text()}")
    return place


def interrupted(place: Place, phase: Phase, out: Path, chance: random.Random) -> list[str]:
    """What was wrong with a Ctrl-C in a phase; empty if all was well."""
    for within in SECONDS_AFTER:
        shutil.rmtree(out, ignore_errors=True)
        wrong = _interrupted(place, phase, out, chance.random() * within)
        if wrong is not None:
            return wrong
    return ["the work was over each time before it was interrupted"]


def _interrupted(place: Place, phase: Phase, out: Path, seconds: float) -> list[str] | None:
    """The same, so many seconds after the phase has begun; None if the command had said its end by then."""
    process = place.start(phase, out)
    try:
        if not _wait(lambda: phase.begun(place.log, out) or process.poll() is not None, PATIENCE):
            return [f"the phase did not begin: {place.log.read_text()}"]
        time.sleep(seconds)
        if process.poll() is not None:
            return None
        started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(PATIENCE)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    said = place.log.read_text(errors="replace")
    if code in (0, -signal.SIGINT) and "stopped by" not in said and "Traceback" not in said:
        return None
    wrong = [] if code == 130 else [f"code {code}"]
    last = (said.strip().splitlines() or [""])[-1]
    goes_on = shlex.join(["hiwl", *place.words(phase, out)])
    if not last.startswith("Error: stopped by Ctrl-C") or not last.endswith(goes_on) or "Traceback" in said:
        wrong.append(f"said {said}")
    left = psutil.wait_procs(started, SECONDS_TO_GO)[1]
    wrong += [f"left running: {' '.join(one.cmdline()[:3])}" for one in left if one.is_running()]
    if code := place.run(phase, out):
        wrong.append(f"does not go on: {code}: {place.log.read_text()}")
    return wrong


def _wait(until: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def main() -> None:
    """Interrupt them all, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="PHASE", help="those whose names have it")
    options = parser.parse_args()
    chance, any_wrong = random.Random(options.seed), False
    with tempfile.TemporaryDirectory(prefix="hiwl-") as folder:
        place = make_place(Path(folder))
        print("| phase | seconds | |\n|---|---|---|", flush=True)
        for number, phase in enumerate(PHASES):
            if options.only in phase.name:
                started = time.monotonic()
                wrong = interrupted(place, phase, Path(folder, f"out-{number}"), chance)
                any_wrong |= bool(wrong)
                words = "; ".join(wrong) or "a line, code 130, nothing left, goes on"
                print(f"| {phase.name} | {time.monotonic() - started:.0f} | {words} |", flush=True)
    sys.exit(int(any_wrong))


if __name__ == "__main__":
    main()
