"""Classifications at which faults are thrown at random moments: each ends, after resumes, whole.

python -m tests.faults --rounds 100 --seed 0

In each round `hiwl classify` makes a catalog of a small survey, on a disk of 4 MB or in a real S3 store, on a
Ray cluster of two nodes. One to three faults come at random moments: SIGKILL of the driver, of a process that
classifies, or of a node; a disk that is full for a while; a store that fails for a while, in part or whole,
or is killed and started again; the same command a second time. What ended unfinished is then started again
until it says that it is done. With `--way separate` other processes read for those that classify, on three
nodes, and are killed too.

Whatever came: each run ends by itself, with a line and the code of what happened. In the end `verify` calls
the catalog whole, its rows are those of an undisturbed run, and no process of any of the runs is left.

The networks are left out of it (`tests.stand_in_stages.LightCascadeStage`), and waits for a store are a
fiftieth of what they are, as are its outages: at most twelve seconds, which stand for ten minutes.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Timer

import psutil

from pipeline import storage
from pipeline.catalog.verify import verify
from tests.fault_ground import PATIENCE, SHARDS, WAYS, Ground, content, make_ground
from tests.fault_runs import Run

__all__ = ["FAULTS", "Round", "play"]

FAULTS = {
    "disk": ("driver", "worker", "node", "full disk", "second start"),
    "S3": ("driver", "worker", "node", "failing store", "restarted store", "second start"),
}
MOST_FAULTS = 3
MOST_STARTS = 8
# For what runs have started to be gone after them.
SECONDS_TO_GO = 30.0
SECONDS_FULL = 2.0
OUTAGES = (0.5, 2.0, 12.0)
REFUSALS = ("is being written by", "is claimed by several runs", "was planned by another run")


class Round:
    """One catalog, and what befalls it.

    Parameters
    ----------
    ground : Ground
    seed : int
    """

    def __init__(self, ground: Ground, seed: int) -> None:
        self._ground, self._chance = ground, random.Random(seed)
        places = [place for place in FAULTS if place == "S3" or ground.disk is not None]
        self.place = self._chance.choice(places)
        faults = (*FAULTS[self.place], *(["reader"] if ground.way == "separate" else []))
        self.faults = self._chance.choices(faults, k=self._chance.randint(1, MOST_FAULTS))
        # Each takes seconds of a core to begin.
        self._workers = self._chance.choice((1, 1, 2))
        root = ground.store if self.place == "S3" else str(ground.disk)
        self.out = f"{root}/round-{seed}"
        self.runs: list[Run] = []
        self.hit: list[str] = []
        self.wrong: list[str] = []
        self._ends: list[Timer] = []

    def play(self) -> None:
        """Let it all happen, and look at what has become of it."""
        self._start()
        for fault in self.faults:
            self._wait_for_a_moment()
            if any(run.running for run in self.runs):
                self.hit.append(fault)
            getattr(self, f"_{fault.replace(' ', '_')}")()
        for end in self._ends:
            end.join()
        self._ground.network.failing = 0.0
        self._resume()
        self._look()

    def _wait_for_a_moment(self) -> None:
        """Of a run's time, or of its work, which is the smaller part of it."""
        if self._chance.random() < 0.4:
            until, parts = time.monotonic() + self._chance.random() * self._ground.seconds, SHARDS + 1
        else:
            until, parts = time.monotonic() + self._ground.seconds, self._chance.randrange(SHARDS)
        while time.monotonic() < until and any(run.running for run in self.runs) and self._parts() < parts:
            time.sleep(0.02)
        time.sleep(self._chance.random() * 0.2)

    def _start(self) -> None:
        self.runs.append(self._ground.start(self.out, self._workers))

    def _parts(self) -> int:
        with suppress(OSError):
            return len(storage.list_files(self.out))
        return 0

    def _driver(self) -> None:
        running = [run for run in self.runs if run.running]
        if running:
            self._chance.choice(running).kill()
        self._start()

    def _worker(self) -> None:
        self._kill_one_of(self._ground.workers)

    def _reader(self) -> None:
        self._kill_one_of(self._ground.readers)

    def _kill_one_of(self, who: Callable[[], list[psutil.Process]]) -> None:
        until = time.monotonic() + self._ground.seconds
        while not (there := who()) and time.monotonic() < until and any(run.running for run in self.runs):
            time.sleep(0.02)
        with suppress(psutil.NoSuchProcess):
            if there:
                self._chance.choice(there).kill()

    def _node(self) -> None:
        self._ground.kill_node(self._chance.randrange(len(WAYS[self._ground.way][0])))

    def _full_disk(self) -> None:
        assert self._ground.disk is not None
        filled = self._ground.disk / "filled"
        with filled.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        self._later(self._chance.random() * SECONDS_FULL, lambda: filled.unlink(missing_ok=True))

    def _failing_store(self) -> None:
        network = self._ground.network
        network.failing = self._chance.choice((0.3, 1.0))
        self._later(self._chance.choice(OUTAGES), lambda: setattr(network, "failing", 0.0))

    def _restarted_store(self) -> None:
        self._ground.restart()

    def _second_start(self) -> None:
        self._start()

    def _later(self, seconds: float, action: Callable[[], object]) -> None:
        self._ends.append(Timer(seconds, action))
        self._ends[-1].start()

    def _resume(self) -> None:
        """Until a run says that it is done; each must end, and say why it did."""
        while True:
            for run in self.runs:
                run.wait(PATIENCE)
            if any(run.code == 0 for run in self.runs) or len(self.runs) >= MOST_STARTS:
                break
            self._start()
        if all(run.code for run in self.runs):
            self.wrong.append(f"no run of {len(self.runs)} was ever done")
        self.wrong += [words for run in self.runs if (words := run.ended_badly(REFUSALS))]

    def _look(self) -> None:
        found = verify(self.out)
        if not found.passed:
            self.wrong.append(f"verify: {found.findings}")
        if content(self.out) != self._ground.expected:
            self.wrong.append("the rows are not those of an undisturbed run")
        until = time.monotonic() + SECONDS_TO_GO
        ground = self._ground
        while left := [
            *ground.workers(),
            *ground.readers(),
            *(one for run in self.runs for one in run.left()),
        ]:
            if time.monotonic() > until:
                self.wrong.append(f"left running: {left}")
                break
            time.sleep(0.1)
        storage.remove(self.out)


def play(ground: Ground, seed: int) -> Round:
    """One round; what was wrong with it is in its `wrong`."""
    made = Round(ground, seed)
    try:
        made.play()
    except Exception:
        made.wrong.append(traceback.format_exc())
    finally:
        for run in made.runs:
            run.kill()
        ground.network.failing = 0.0
        if ground.disk is not None:
            (ground.disk / "filled").unlink(missing_ok=True)
    made.wrong += [run.said for run in made.runs if made.wrong]
    return made


def main() -> None:
    """Play the rounds, and print what came of them."""
    from tests.bundles import random_bundle

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", choices=WAYS, default="fused")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="hiwl-"))
    thrown, hit, codes, wrong = Counter[str](), Counter[str](), Counter[int | None](), []
    longest = 0.0
    with make_ground(work, random_bundle(work / "model"), options.way) as ground:
        print(f"an undisturbed run takes {ground.seconds:.1f} s", flush=True)
        for seed in range(options.seed, options.seed + options.rounds):
            started = time.monotonic()
            made = play(ground, seed)
            thrown.update(made.faults)
            hit.update(made.hit)
            codes.update(run.code for run in made.runs)
            ends = " ".join(str(run.code) for run in made.runs)
            line = f"{made.place}, {' + '.join(made.faults)}; exit codes {ends}"
            longest = max(longest, *(run.seconds for run in made.runs))
            print(f"seed {seed}: {time.monotonic() - started:.1f} s: {line}", flush=True)
            if made.wrong:
                wrong.append(seed)
                print(f"seed {seed} is wrong: {'; '.join(made.wrong)}", file=sys.stderr, flush=True)
    shutil.rmtree(work, ignore_errors=True)
    print("| fault | rounds had it | of those a run at work |\n|---|---|---|")
    for fault, count in sorted(thrown.items()):
        print(f"| {fault} | {count} | {hit[fault]} |")
    spent = sum(os.times()[:4])
    print(f"{spent:.0f} s of CPU, in all processes")
    print(f"exit codes of {codes.total()} runs: {dict(codes)}; the longest took {longest:.1f} s")
    print(f"{options.way}: {options.rounds} rounds from seed {options.seed}, {len(wrong)} wrong: {wrong}")
    sys.exit(int(bool(wrong)))


if __name__ == "__main__":
    main()
