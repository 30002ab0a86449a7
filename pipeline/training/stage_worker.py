"""What each Ray Train worker does: the epochs of one stage, from the last checkpoint on."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import ray.train
import ray.train.torch
import torch
from safetensors.torch import save_file

from hiwl_core.device import ComputePlan, choose_compute
from hiwl_core.training import StageLearner
from pipeline.cores import usable_cores
from pipeline.training.run_folder import WEIGHTS
from pipeline.training.stage_epochs import History, StageJob, best_weights, run_epochs

__all__ = ["train_stage", "worker_compute"]

STATE = "state.pt"


def train_stage(config: dict[str, StageJob]) -> None:
    """The training function of Ray Train's workers."""
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    report = partial(_report, rank=rank)
    run_epochs(config["job"], worker_compute(), _resume, report, rank, world_size)


def worker_compute() -> ComputePlan:
    """The device of this worker, and the threads of its process set for it."""
    compute = choose_compute(ray.train.torch.get_device())
    if compute.device.type == "cpu":
        # Ray grants a worker one thread for each logical CPU; training wants the cores of the machine.
        workers_here = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, usable_cores() // workers_here))
    return compute


def _resume(learner: StageLearner) -> History:
    """Load the last checkpoint, if there is one; the table of the epochs that are done."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        state = torch.load(os.path.join(folder, STATE), map_location="cpu", weights_only=True)
    learner.load_state_dict(state["learner"])
    history: History = state["history"]
    return history


def _report(learner: StageLearner, history: History, rank: int) -> None:
    metrics = {"epoch": history[-1]["epoch"], "val_accuracy": history[-1]["val_accuracy"]}
    if rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        save_file(best_weights(learner), Path(folder) / WEIGHTS)
        torch.save({"learner": learner.state_dict(), "history": history}, Path(folder) / STATE)
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"epoch_{metrics['epoch']:04d}",
        )
