"""What each Ray Train worker does: the epochs of one stage, from the last checkpoint on."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from hiwl_core.backbones import create_backbone, load_weights
from hiwl_core.cutouts import Preprocessing
from hiwl_core.device import ComputePlan, choose_compute
from hiwl_core.errors import UserError
from hiwl_core.metrics import accuracy, confusion_matrix, recall
from hiwl_core.recipe import Recipe
from hiwl_core.training import StageLearner, early_stop
from pipeline.cores import usable_cores
from pipeline.training.cutout_store import CutoutStore
from pipeline.training.feed import StageFeed
from pipeline.training.run_folder import WEIGHTS, RunFolder

__all__ = ["StageJob", "stage_learner", "train_epoch", "train_stage", "worker_compute"]

STATE = "state.pt"
SECONDS_BETWEEN_LINES = 15.0


@dataclass(frozen=True)
class StageJob:
    """All that a worker needs to train one stage.

    Parameters
    ----------
    stage : str
        Such as ``"stage1"``.
    recipe : Recipe
    preprocessing : Preprocessing
    train, val : CutoutStore
    initial_weights : dict of Tensor or None
        Where the network starts; None for random weights.
    out : str
        The run folder.
    feed_cpus : float
        Logical CPUs of a decoding task.
    relay : ActorHandle
        Takes the lines of progress; see `pipeline.relay`.
    """

    stage: str
    recipe: Recipe
    preprocessing: Preprocessing
    train: CutoutStore
    val: CutoutStore
    initial_weights: dict[str, torch.Tensor] | None
    out: str
    feed_cpus: float
    relay: Any

    def say(self, line: str) -> None:
        """A line of progress, which the driver prints."""
        self.relay.add.remote(line)


def train_stage(config: dict[str, StageJob]) -> None:
    """The training function of Ray Train's workers."""
    job = config["job"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    recipe, taxonomy = job.recipe.stage(job.stage), job.recipe.taxonomy
    classes = taxonomy.stage_classes(job.stage)
    compute = worker_compute()
    if job.recipe.precision == "float32":
        compute = replace(compute, autocast_dtype=None)
    seed = stage_seed(job.recipe.seed, job.stage)
    feeds = {
        part: StageFeed(
            store,
            taxonomy,
            job.stage,
            recipe,
            job.preprocessing,
            seed,
            job.feed_cpus,
        )
        for part, store in (("train", job.train), ("val", job.val))
    }
    learner = stage_learner(job, feeds["train"].steps_per_epoch, compute, world_size)
    history = _resume(learner)
    tried = 0
    for epoch in range(len(history), recipe.epochs):
        # Before an epoch, not after one: a run that was killed where it should stop does not train on.
        losses, accuracies = ([row[key] for row in history] for key in ("val_loss", "val_accuracy"))
        if early_stop(losses, accuracies, recipe.patience):
            if rank == 0:
                job.say(
                    f"{job.stage}: neither a lower validation loss nor a higher accuracy in "
                    f"{recipe.patience} epochs: stopped early"
                )
            break
        if job.recipe.precision == "auto" and recipe.train_size(epoch) != tried:
            tried = recipe.train_size(epoch)
            learner.choose_precision(tried)
        started = time.monotonic()
        # A new seed for dropout in each epoch, so that a resumed epoch is the one that was interrupted.
        torch.manual_seed(seed + 1000 * epoch + rank)
        try:
            loss = train_epoch(job, learner, feeds["train"], epoch, rank, world_size)
        except torch.OutOfMemoryError as error:
            images, size = recipe.batch_size // world_size, recipe.train_size(epoch)
            raise UserError(
                f"{job.stage}: {images} images of {size} px do not fit into the memory of {compute.device}: "
                f"set a smaller {job.stage}.batch_size, or give more --workers"
            ) from error
        trained = time.monotonic()
        metrics = _validate(learner, feeds["val"], classes, rank, world_size)
        history.append(
            {
                "epoch": epoch + 1,
                "learning_rate": learner.learning_rate,
                "train_loss": loss,
                **metrics,
                "images_per_second": feeds["train"].size / (trained - started),
                "seconds": time.monotonic() - started,
                "input_size": recipe.train_size(epoch),
                "compute": learner.compute.describe(),
                "workers": world_size,
            }
        )
        learner.end_epoch(partial(_summed, world_size=world_size))
        if rank == 0:
            RunFolder(job.out).write_epochs(job.stage, history)
            job.say(_epoch_line(job.stage, recipe.epochs, history))
        _report(learner, history, rank)


def stage_seed(seed: int, stage: str) -> int:
    """A stage's own seed, so that the two do not draw alike."""
    return int(np.random.SeedSequence([seed, int(stage.removeprefix("stage"))]).generate_state(1)[0] % 2**31)


def worker_compute() -> ComputePlan:
    """The device of this worker, and the threads of its process set for it."""
    compute = choose_compute(ray.train.torch.get_device())
    if compute.device.type == "cpu":
        # Ray grants a worker one thread for each logical CPU; training wants the cores of the machine.
        workers_here = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, usable_cores() // workers_here))
    return compute


def stage_learner(job: StageJob, steps_per_epoch: int, compute: ComputePlan, world_size: int) -> StageLearner:
    """The stage's network and optimizer as they are before the first step."""
    recipe = job.recipe.stage(job.stage)
    num_classes = len(job.recipe.taxonomy.stage_classes(job.stage))
    # Every worker starts from the same weights, the random head among them.
    torch.manual_seed(stage_seed(job.recipe.seed, job.stage))
    model = create_backbone(recipe.backbone, num_classes, input_size=recipe.input_size)
    if job.initial_weights is not None:
        load_weights(model, job.initial_weights, source=f"initial weights of {job.stage}")
    return StageLearner(
        model,
        recipe,
        job.preprocessing,
        num_classes,
        steps_per_epoch,
        compute,
        compile_model=job.recipe.compile == "auto",
        distribute=ray.train.torch.prepare_model if world_size > 1 else None,
        distances=job.recipe.stage_distances(job.stage),
    )


def _resume(learner: StageLearner) -> list[dict[str, Any]]:
    """Load the last checkpoint, if there is one; the table of the epochs that are done."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return []
    with checkpoint.as_directory() as folder:
        state = torch.load(os.path.join(folder, STATE), map_location="cpu", weights_only=True)
    learner.load_state_dict(state["learner"])
    history: list[dict[str, Any]] = state["history"]
    return history


def _report(learner: StageLearner, history: list[dict[str, Any]], rank: int) -> None:
    metrics = {"epoch": history[-1]["epoch"], "val_accuracy": history[-1]["val_accuracy"]}
    if rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = {
            name: tensor.cpu().contiguous() for name, tensor in learner.best_weights.state_dict().items()
        }
        save_file(weights, Path(folder) / WEIGHTS)
        torch.save({"learner": learner.state_dict(), "history": history}, Path(folder) / STATE)
        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint.from_directory(folder),
            checkpoint_dir_name=f"epoch_{metrics['epoch']:04d}",
        )


def train_epoch(
    job: StageJob, learner: StageLearner, feed: StageFeed, epoch: int, rank: int, world_size: int
) -> float:
    """Train one epoch; the mean loss over all workers."""
    total = torch.zeros((), device=learner.compute.device)
    steps, seen, epochs = feed.steps_per_epoch, 0, job.recipe.stage(job.stage).epochs
    started = last_line = time.monotonic()
    for step, batch in enumerate(feed.train_batches(epoch, rank, world_size), start=1):
        total += learner.train_step(batch.pixels, batch.targets, batch.global_size, world_size)
        seen += batch.global_size
        now = time.monotonic()
        if rank == 0 and now - last_line >= SECONDS_BETWEEN_LINES and step < steps:
            last_line, speed = now, seen / (now - started)
            left = (feed.size * (epochs - epoch) - seen) / speed
            job.say(
                f"{job.stage} epoch {epoch + 1}/{epochs}: step {step}/{steps}, {speed:.0f} images/s, "
                f"about {left / 60:.0f} min to the stage's end"
            )
    return float(_summed(total, world_size)) / feed.size


def _validate(
    learner: StageLearner, feed: StageFeed, classes: tuple[str, ...], rank: int, world_size: int
) -> dict[str, float]:
    """Accuracy, loss and recall of each class on the validation galaxies of the stage."""
    device = learner.compute.device
    if world_size > 1:
        # Each worker's batch normalization has seen its own images; what is kept, and so judged, is rank 0's.
        for buffer in learner.best_weights.buffers():
            torch.distributed.broadcast(buffer, 0)
    matrix = torch.zeros((len(classes), len(classes)), dtype=torch.float64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for batch in feed.eval_batches(rank, world_size):
        logits = learner.logits(batch.pixels)
        loss += cross_entropy(logits, batch.targets.to(device), reduction="sum")
        counts = confusion_matrix(batch.targets.numpy(), logits.argmax(1).cpu().numpy(), len(classes))
        matrix += torch.from_numpy(counts).to(device)
    counts = _summed(matrix, world_size).cpu().numpy()
    return {
        "val_loss": float(_summed(loss, world_size)) / feed.size,
        "val_accuracy": float(accuracy(counts)),
        **{f"val_recall_{name}": float(share) for name, share in zip(classes, recall(counts), strict=True)},
    }


def _summed(tensor: torch.Tensor, world_size: int) -> torch.Tensor:
    if world_size > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def _epoch_line(stage: str, epochs: int, history: list[dict[str, Any]]) -> str:
    row = history[-1]
    best = max(r["val_accuracy"] for r in history)
    return (
        f"{stage} epoch {row['epoch']}/{epochs}: train loss {row['train_loss']:.4f}, validation loss "
        f"{row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f} (best {best:.4f}), "
        f"{row['seconds']:.0f} s, {row['images_per_second']:.0f} images/s"
    )
