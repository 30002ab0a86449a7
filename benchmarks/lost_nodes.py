"""A training that loses a node in each stage: does it end with the draws and weights of the undisturbed one?

python benchmarks/lost_nodes.py

A cluster whose nodes, of two CPUs each, are started as they are needed (Ray's own scheduler of nodes with
its stand-in for a cloud; all of them processes of this machine) trains the cascade on drawings with two
workers, one on each node. Once the first epoch of a stage is saved, the raylet of a node is killed, and its
worker with it: Ray has another node started, and Ray Train begins again with the last saved epoch. The same
training, on another such cluster, is left in peace.

A line for each stage: epochs that were computed a second time, the largest difference of a loss, and whether
the weights are equal bit for bit. The exit code is 1 if they are not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil
from safetensors.torch import load_file

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.autoscaled import autoscaled_ray
from tests.conftest import TINY
from tests.drawings import write_labeled_shard

STAGES = ("stage1", "stage2")
EPOCHS = 4
PATIENCE = 300.0
DRAWINGS = {"CRS": 18, "IBS": 18, "CSS": 6, "EO": 12, "SPI": 16}


def main() -> None:
    """Train twice, and print how the two differ."""
    with tempfile.TemporaryDirectory(prefix="hiwl-") as name:
        work = Path(name)
        for index in range(2):
            path = work / "train" / f"train-{index:05d}-of-00002.parquet"
            write_labeled_shard(path, DRAWINGS, first_id=1000 * index)
        write_labeled_shard(work / "val.parquet", dict.fromkeys(DRAWINGS, 10), first_id=9000)
        calm, seconds = trained(work, "calm", ())
        lost, with_losses = trained(work, "lost", STAGES)
        print(f"undisturbed {seconds:.0f} s, with {len(STAGES)} lost nodes {with_losses:.0f} s\n")
        print("| stage | epochs | largest difference of a loss | equal weights |\n|---|---|---|---|")
        equal = True
        for stage in STAGES:
            tables = [pd.read_csv(run / f"{stage}_epochs.csv") for run in (calm, lost)]
            losses = [table[["train_loss", "val_loss"]].to_numpy() for table in tables]
            weights = [load_file(run / "bundle" / f"{stage}.safetensors") for run in (calm, lost)]
            same = all(value.equal(weights[1][key]) for key, value in weights[0].items())
            equal = equal and same and tables[1]["epoch"].tolist() == list(range(1, EPOCHS + 1))
            difference = abs(losses[0] - losses[1]).max()
            print(f"| {stage} | {len(tables[1])} | {difference:.1e} | {'yes' if same else 'no'} |")
    sys.exit(int(not equal))


def trained(work: Path, name: str, losing: tuple[str, ...]) -> tuple[Path, float]:
    """Train on a cluster of its own; return the run's folder, and how long it took."""
    folder, out = work / f"cluster-{name}", work / name
    folder.mkdir()
    words = ["--data", str(work / "train"), "--val", str(work / "val.parquet"), "--out", str(out)]
    words += ["--recipe", "demo", "--workers", "2"]
    settings = [f"{stage}.epochs={EPOCHS}" for stage in STAGES]
    words += [word for key in (*TINY, *settings) for word in ("--set", key)]
    started = time.monotonic()
    with autoscaled_ray(folder, warm=0, most=2) as environment, (work / f"{name}.log").open("w+") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "train", *words],
            env=os.environ | environment,
            cwd=Path(__file__).parents[1],
            stdout=log,
            stderr=log,
        )
        for stage in losing:
            _wait_for(out / stage / "epoch_0001" / "state.pt", run, log.name)
            victim = _worker_node(environment["RAY_ADDRESS"])
            print(f"{stage}: epoch 1 is saved; the raylet {victim.pid} of a node is killed", flush=True)
            victim.send_signal(signal.SIGKILL)
        if run.wait(PATIENCE):
            raise RuntimeError(Path(log.name).read_text())
    return out, time.monotonic() - started


def _wait_for(file: Path, run: subprocess.Popen[bytes], log: str) -> None:
    until = time.monotonic() + PATIENCE
    while not file.exists():
        if run.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"no {file}: {Path(log).read_text()}")
        time.sleep(0.05)


def _worker_node(address: str) -> psutil.Process:
    """The raylet of a node of a cluster that has CPUs."""
    for process in psutil.process_iter(["name", "cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if process.info["name"] == "raylet" and f"--gcs-address={address}" in words and "CPU,2" in words:
            return process
    raise RuntimeError(f"no node of {address} has CPUs")


if __name__ == "__main__":
    main()
