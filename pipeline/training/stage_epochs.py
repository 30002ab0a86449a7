"""The epochs of one stage, in whatever process: a worker of Ray Train, or the one that was asked to train."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed
from torch.nn.functional import cross_entropy

from hiwl_core.backbones import create_backbone, load_weights
from hiwl_core.cutouts import Preprocessing
from hiwl_core.device import ComputePlan
from hiwl_core.errors import UserError
from hiwl_core.metrics import accuracy, confusion_matrix, recall
from hiwl_core.recipe import Recipe
from hiwl_core.training import StageLearner, early_stop
from pipeline.pages.numbers import duration
from pipeline.progress import say
from pipeline.training.cutout_store import CutoutStore
from pipeline.training.feed import StageFeed
from pipeline.training.run_folder import RunFolder

__all__ = ["History", "StageJob", "best_weights", "run_epochs", "stage_learner", "train_epoch"]

SECONDS_BETWEEN_LINES = 15.0

History = list[dict[str, Any]]
"""The row of each epoch, as in the table of a stage's epochs."""


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
    relay : ActorHandle or None
        Takes the lines of progress of a worker; see `pipeline.relay`.
    stopped : Event or None
        Of a training in a thread of this process: set when it is to end.
    """

    stage: str
    recipe: Recipe
    preprocessing: Preprocessing
    train: CutoutStore
    val: CutoutStore
    initial_weights: dict[str, torch.Tensor] | None
    out: str
    relay: Any = None
    stopped: threading.Event | None = None

    def say(self, line: str) -> None:
        """A line of progress, which the driver prints."""
        if self.relay is None:
            say(line)
        else:
            self.relay.add.remote(line)


def run_epochs(
    job: StageJob,
    compute: ComputePlan,
    resume: Callable[[StageLearner], History],
    report: Callable[[StageLearner, History], None],
    rank: int = 0,
    world_size: int = 1,
) -> None:
    """Train the epochs that are left.

    Parameters
    ----------
    job : StageJob
    compute : ComputePlan
    resume : callable
        Loads the last checkpoint, if there is one; the table of the epochs that are done.
    report : callable
        Takes the learner and the table after each epoch.
    rank, world_size : int
        Of this worker, and how many there are.

    Raises
    ------
    UserError
        If a GPU has no memory for a batch.
    """
    recipe, taxonomy = job.recipe.stage(job.stage), job.recipe.taxonomy
    classes = taxonomy.stage_classes(job.stage)
    if job.recipe.precision == "float32":
        compute = replace(compute, autocast_dtype=None)
    seed = stage_seed(job.recipe.seed, job.stage)
    feeds = {
        part: StageFeed(store, taxonomy, job.stage, recipe, job.preprocessing, seed)
        for part, store in (("train", job.train), ("val", job.val))
    }
    learner = stage_learner(job, feeds["train"].steps_per_epoch, compute, world_size)
    history = resume(learner)
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
            RunFolder(job.out).write_table(f"{job.stage}_epochs.csv", pd.DataFrame(history))
            job.say(_epoch_line(job.stage, recipe.epochs, history))
        report(learner, history)


def stage_seed(seed: int, stage: str) -> int:
    """A stage's own seed, so that the two do not draw alike."""
    return int(np.random.SeedSequence([seed, int(stage.removeprefix("stage"))]).generate_state(1)[0] % 2**31)


def stage_learner(job: StageJob, steps_per_epoch: int, compute: ComputePlan, world_size: int) -> StageLearner:
    """The stage's network and optimizer as they are before the first step."""
    distribute: Callable[..., Any] | None = None
    if world_size > 1:
        # Here, since it takes two seconds, which a training in this process should not wait for.
        from ray.train.torch import prepare_model

        distribute = prepare_model
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
        distribute=distribute,
        distances=job.recipe.stage_distances(job.stage),
    )


def best_weights(learner: StageLearner) -> dict[str, torch.Tensor]:
    """What a checkpoint keeps of the network: what validation has judged."""
    return {name: tensor.cpu().contiguous() for name, tensor in learner.best_weights.state_dict().items()}


def train_epoch(
    job: StageJob, learner: StageLearner, feed: StageFeed, epoch: int, rank: int, world_size: int
) -> float:
    """Train one epoch; the mean loss over all workers."""
    total = torch.zeros((), device=learner.compute.device)
    steps, seen, epochs = feed.steps_per_epoch, 0, job.recipe.stage(job.stage).epochs
    started = last_line = time.monotonic()
    before = 0
    for step, batch in enumerate(feed.train_batches(epoch, rank, world_size), start=1):
        if job.stopped is not None and job.stopped.is_set():
            raise KeyboardInterrupt
        total += learner.train_step(batch.pixels, batch.targets, batch.global_size, world_size)
        seen += batch.global_size
        now = time.monotonic()
        if step == 1:
            # It waits for what reads, and for libraries and kernels, and says nothing of the steps to come.
            started, before = now, seen
        elif rank == 0 and now - last_line >= SECONDS_BETWEEN_LINES and step < steps:
            last_line, speed = now, (seen - before) / (now - started)
            left = duration((feed.size * (epochs - epoch) - seen) / speed)
            job.say(
                f"{job.stage} epoch {epoch + 1}/{epochs}: step {step}/{steps}, {speed:.0f} images/s, "
                f"about {left} to the stage's end"
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
