"""Machines with a network each: a head, two workers, an S3 server. A worker's link is cut: is all whole?

sudo python benchmarks/separate_machines.py

Four network namespaces of this machine stand for four machines that share a switch and nothing else of each
other's network. Ray's head and driver are on the first; a worker of two CPUs on each of two; SeaweedFS on the
fourth. From shards in the bucket, `hiwl train --workers 2` writes its run into the bucket, and `hiwl
classify` its catalog. In the midst of each the link of a worker is cut for thirty seconds, and joined again.
What Ray gave up meanwhile is started again, as a supervisor of machines would.

One line a verb: seconds, what happened to the node that was cut off, and whether what it left is whole: the
run's epochs without a gap and its bundle read, the catalog by `hiwl verify` and equal to the undisturbed one.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import psutil

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline import storage
from pipeline.catalog.parts import list_parts, read_part
from pipeline.catalog.verify import verify
from pipeline.classification.shard_classifier import read_bundle
from tests.conftest import TINY
from tests.drawings import write_labeled_shard
from tests.object_store import BUCKET, store_environment

NETWORK = "10.213.77"
SWITCH = "hiwl-switch"
MACHINES = ("head", "worker-1", "worker-2", "store")
RAY_PORT, STORE_PORT = 6379, 8333
PATIENCE = 600.0
MOMENT = 60.0
SHARDS = 60
DRAWINGS = {"CRS": 18, "IBS": 18, "CSS": 6, "EO": 12, "SPI": 16}


def address(machine: str) -> str:
    """Of a machine, on the switch."""
    return f"{NETWORK}.{MACHINES.index(machine) + 1}"


def ip(*words: str) -> None:
    """Change the network."""
    subprocess.run(["ip", *words], check=True)


@contextmanager
def machines() -> Iterator[None]:
    """Namespaces, and the switch between them, for the length of a ``with`` block."""
    ip("link", "add", SWITCH, "type", "bridge")
    made = []
    try:
        # This process looks into the bucket, as from a desk.
        ip("address", "add", f"{NETWORK}.254/24", "dev", SWITCH)
        ip("link", "set", SWITCH, "up")
        for number, machine in enumerate(MACHINES):
            ip("netns", "add", f"hiwl-{machine}")
            made.append(machine)
            link = f"hiwl-{number}"
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", f"hiwl-{machine}")
            ip("link", "set", link, "master", SWITCH, "up")
            inside = ("-n", f"hiwl-{machine}")
            ip(*inside, "link", "set", "lo", "up")
            ip(*inside, "address", "add", f"{address(machine)}/24", "dev", "eth0")
            ip(*inside, "link", "set", "eth0", "up")
        yield
    finally:
        for machine in made:
            ip("netns", "delete", f"hiwl-{machine}")
        ip("link", "delete", SWITCH)


def start(machine: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command on a machine, with the bucket's credentials."""
    environment = os.environ | store_environment(STORE_PORT, address("store"))
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": f"{address('head')}:{RAY_PORT}"}
    with log.open("ab") as output:
        return subprocess.Popen(
            ["ip", "netns", "exec", f"hiwl-{machine}", *command],
            env=environment,
            cwd=Path(__file__).parents[1],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


class Cluster:
    """Ray and the S3 server on their machines."""

    def __init__(self, work: Path) -> None:
        self._work = work
        ray = str(Path(sys.executable).with_name("ray"))
        usual = ["--block", "--object-store-memory=100000000"]
        self._commands = {
            "store": [
                sys.executable,
                "-m",
                "tests.object_store",
                str(work / "objects"),
                *("--port", str(STORE_PORT), "--address", address("store")),
            ],
            "head": [
                *(ray, "start", "--head", f"--node-ip-address={address('head')}", f"--port={RAY_PORT}"),
                *("--num-cpus=0", "--include-dashboard=false", f"--temp-dir={work / 'ray'}", *usual),
            ],
        }
        for worker in ("worker-1", "worker-2"):
            self._commands[worker] = [
                *(ray, "start", f"--address={address('head')}:{RAY_PORT}", "--num-cpus=2"),
                *(f"--node-ip-address={address(worker)}", *usual),
            ]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        for machine, ready in (("store", "Ctrl-C"), ("head", "--block"), ("worker-1", "--block")):
            self.bring_up(machine)
            until_true(lambda machine=machine, ready=ready: ready in self._log(machine).read_text())
        self.bring_up("worker-2")
        return self

    def __exit__(self, *_: object) -> None:
        everything = []
        for process in self._running.values():
            with suppress(psutil.NoSuchProcess):
                one = psutil.Process(process.pid)
                everything += [one, *one.children(recursive=True)]
        for one in everything:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(everything, timeout=10)

    def bring_up(self, machine: str) -> None:
        """Start what a machine is for."""
        self._running[machine] = start(machine, self._commands[machine], self._log(machine))

    def cut_off(self, machine: str, seconds: float) -> str:
        """Cut a machine's link for a time; start what it is for again if that ended. Says what happened."""
        link = f"hiwl-{MACHINES.index(machine)}"
        ip("link", "set", link, "down")
        time.sleep(seconds)
        ip("link", "set", link, "up")
        # Ray's head tells a node which it took for dead to end; that may be a moment later.
        with suppress(subprocess.TimeoutExpired):
            self._running[machine].wait(MOMENT)
        if self._running[machine].poll() is None:
            return "kept its place"
        self.bring_up(machine)
        return "was taken for dead, and started again"

    def _log(self, machine: str) -> Path:
        return self._work / f"{machine}.log"


def until_true(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait, at most for `PATIENCE`, and not for a process that has ended."""
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until or (process is not None and process.poll() is not None):
            raise RuntimeError(f"in vain, exit code {process.poll() if process else 'none'}")
        time.sleep(0.1)


def main() -> None:
    """Build the machines, run both verbs, and print what became of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cut", type=float, default=30, help="seconds")
    arguments = parser.parse_args()
    os.environ.update(store_environment(STORE_PORT, address("store")))
    with tempfile.TemporaryDirectory(prefix="hiwl-") as name, machines(), Cluster(Path(name)) as cluster:
        whole = check(cluster, Path(name), arguments.cut)
    sys.exit(int(not whole))


def check(cluster: Cluster, work: Path, cut: float) -> bool:
    """Train and classify with a link that is cut, and compare."""
    root = f"s3://{BUCKET}"
    for part, first in (("train/a", 0), ("train/b", 1000), ("val/a", 9000)):
        counts = DRAWINGS if part != "val/a" else dict.fromkeys(DRAWINGS, 10)
        copy_shard(work, f"{root}/{part}.parquet", counts, first)
    for index in range(SHARDS):
        copy_shard(work, f"{root}/sky/{index:03d}.parquet", dict.fromkeys(DRAWINGS, 20), 10_000 + 100 * index)
    run, calm, catalog = f"{root}/run", f"{root}/calm", f"{root}/catalog"

    print("| verb | seconds | the worker that was cut off | whole |\n|---|---|---|---|", flush=True)
    keys = (*TINY, "stage1.epochs=12", "stage2.epochs=4")
    words = ["--data", f"{root}/train", "--val", f"{root}/val", "--out", run, "--workers", "2"]
    words += ["--recipe", "demo", *(word for key in keys for word in ("--set", key))]
    train = Driver(work, "train", *words)
    until_true(lambda: "stage1 epoch 2/12" in train.said(), train.process)
    happened = cluster.cut_off("worker-1", cut)
    good = train.finished() and whole_run(run, {"stage1": 12, "stage2": 4})
    print(f"| train | {train.seconds:.0f} | {happened} | {'yes' if good else 'no'} |", flush=True)

    undisturbed = Driver(work, "classify", f"{run}/bundle", f"{root}/sky", calm)
    good = undisturbed.finished() and verify(calm).passed and good
    print(f"| classify, undisturbed | {undisturbed.seconds:.0f} | | {'yes' if good else 'no'} |", flush=True)
    classify = Driver(work, "classify", f"{run}/bundle", f"{root}/sky", catalog)
    until_true(lambda: len(list_parts(catalog)) > 2, classify.process)
    happened = cluster.cut_off("worker-2", cut)
    same = classify.finished() and verify(catalog).passed and equal(rows(catalog), rows(calm))
    print(f"| classify | {classify.seconds:.0f} | {happened} | {'yes' if same else 'no'} |", flush=True)
    return good and same


class Driver:
    """A verb at work on the head."""

    def __init__(self, work: Path, *words: str) -> None:
        self._log = work / f"{words[0]}-{time.monotonic_ns()}.log"
        self._began = time.monotonic()
        self.seconds = 0.0
        self.process = start("head", [sys.executable, "-m", "jobs.cli", *words], self._log)

    def said(self) -> str:
        """So far."""
        return self._log.read_text()

    def finished(self) -> bool:
        """Wait for its end; say what it said if that was none to be wished for."""
        code = self.process.wait(PATIENCE)
        self.seconds = time.monotonic() - self._began
        if code:
            print(self.said(), file=sys.stderr)
        return code == 0


def copy_shard(work: Path, url: str, counts: dict[str, int], first_id: int) -> None:
    """Draw a shard into the bucket."""
    drawn = write_labeled_shard(work / "shard.parquet", counts, first_id=first_id)
    storage.write_bytes(url, drawn.read_bytes())


def whole_run(run: str, epochs: dict[str, int]) -> bool:
    """Whether each epoch is in a run's tables once, and its bundle is read."""
    for stage, last in epochs.items():
        table = pd.read_csv(io.BytesIO(storage.read_bytes(f"{run}/{stage}_epochs.csv")))
        if table["epoch"].tolist() != list(range(1, last + 1)):
            return False
    return bool(read_bundle(f"{run}/bundle").model_id)


def rows(catalog: str) -> pd.DataFrame:
    """All of a catalog, by object."""
    tables = [read_part(f"{catalog}/{part}").to_pandas() for part in list_parts(catalog)]
    return pd.concat(tables).sort_values("object_id", ignore_index=True)


def equal(found: pd.DataFrame, expected: pd.DataFrame) -> bool:
    """Whether the rows are the same, but for the last digits, which depend on the threads granted."""
    with suppress(AssertionError):
        pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)
        return True
    return False


if __name__ == "__main__":
    main()
