"""Sections of `benchmarks/gpu_acceptance.py` that run the verbs themselves, through Ray."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from gpu_ground import ROOT, Ground, Note, verdict

__all__ = ["classified", "killed_training", "several_gpus"]

# Rows of a shard, and seconds that a training may take to its first epoch.
SHARD = 256
PATIENCE = 240.0


def classified(ground: Ground, note: Note) -> None:
    """A catalog by `hiwl classify`: its parts must say that the device made them, and `hiwl verify` agree."""
    catalog = ground.folder / "catalog"
    said = _verb(note, "classify", ground.bundle, str(_shards(ground)), str(catalog), _flag(ground))
    note("as it says", "INFO", next((line for line in said.splitlines() if "images/s" in line), ""))
    parts = [pq.read_schema(part).metadata[b"hiwl.part"] for part in catalog.glob("*.parquet")]
    made_by = {json.loads(part)["engine"] for part in parts}
    on_it = bool(made_by) and all(("cuda" in engine) == ground.on_gpu for engine in made_by)
    note("the device made the parts", verdict(on_it), "; ".join(sorted(made_by)))
    _verb(note, "verify", str(catalog))


def killed_training(ground: Ground, note: Note) -> None:
    """A training that is killed after an epoch and started again: it goes on, and on the device."""
    words = [*_training(ground), "--out", str(ground.folder / "run"), _flag(ground)]
    epochs = ground.folder / "run" / "stage1_epochs.csv"
    # Names the checkpoints that it would go on from; the table is written before.
    snapshot = ground.folder / "run" / "stage1" / "checkpoint_manager_snapshot.json"
    command = [sys.executable, "-m", "jobs.cli", *words]
    first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + PATIENCE
    while not snapshot.exists() and first.poll() is None and time.monotonic() < until:
        time.sleep(0.2)
    first.kill()
    first.wait()
    begun = epochs.read_text().splitlines() if epochs.exists() else []
    note("killed after an epoch", verdict(len(begun) > 1), f"{max(0, len(begun) - 1)} epochs were done")
    _verb(note, *words)
    lines = epochs.read_text().splitlines()
    note("went on from there", verdict(lines[: len(begun)] == begun), f"{len(lines) - 1} epochs in all")
    note("the device trained", verdict(("cuda" in lines[-1]) == ground.on_gpu), lines[-1][:120])


def several_gpus(ground: Ground, note: Note) -> None:
    """A training with a worker on each GPU."""
    count = torch.cuda.device_count()
    _verb(note, *_training(ground), "--out", str(ground.folder / "many"), "--gpu", "--workers", str(count))


def _verb(note: Note, *words: str) -> str:
    """Run a verb; what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words], cwd=ROOT, capture_output=True, text=True
    )
    last = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else "exit code 0"
    note(f"hiwl {words[0]}", verdict(done.returncode == 0), last[:200])
    return done.stdout


def _flag(ground: Ground) -> str:
    return "--gpu" if ground.on_gpu else "--no-gpu"


def _training(ground: Ground) -> list[str]:
    """A small training on the ground's galaxies."""
    shards = str(_shards(ground))
    keys = [f"backbone={ground.backbone}", f"input_size={ground.size}"]
    changes = [f"{stage}.{key}" for stage in ("stage1", "stage2") for key in keys]
    settings = [word for change in changes for word in ("--set", change)]
    return ["train", "--data", shards, "--val", "0.2", "--recipe", "trial", *settings]


def _shards(ground: Ground) -> Path:
    """Folder with the galaxies as cutout shards, made when it is first asked for."""
    folder = ground.folder / "shards"
    if not folder.exists():
        folder.mkdir()
        for first in range(0, len(ground.galaxies), SHARD):
            labels, images = zip(*ground.galaxies[first : first + SHARD], strict=True)
            ids = pa.array(range(first, first + len(labels)), pa.int64())
            table = pa.table({"object_id": ids, "image": pa.array(images), "label": pa.array(labels)})
            pq.write_table(table, folder / f"sky-{first // SHARD:05d}.parquet")
    return folder
