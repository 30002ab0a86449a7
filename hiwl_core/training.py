"""One stage being trained: network, optimizer, schedule and averaged weights, step by step.

Nothing here knows where images come from or how many workers there are; `StageLearner` takes one worker's
part of a global batch and keeps a state from which a killed run goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hiwl_core.cutouts import Preprocessing, normalize
from hiwl_core.device import ComputePlan
from hiwl_core.errors import UserError
from hiwl_core.precision_trial import quickest_training
from hiwl_core.recipe_sections import StageRecipe
from hiwl_core.smoothing import OnlineTargets, similarity_targets, torch_label_smoothing

__all__ = ["StageLearner", "early_stop", "ema_decay"]

# Compiling takes about a minute, a trial of precisions some seconds, and what a step gains differs by machine
# (benchmarks/training_step.py): only a long training can win.
MIN_STEPS_TO_TRY = 1000


class StageLearner:
    """Trains one stage's network.

    Parameters
    ----------
    model : Module
        From images to logits; moved to the device.
    recipe : StageRecipe
    preprocessing : Preprocessing
        Its normalization is applied to the pixels on the device.
    num_classes : int
    steps_per_epoch : int
    compute : ComputePlan
    compile_model : bool
        Whether to compile the network where that pays.
    distribute : callable, optional
        Wraps the network for data-parallel training.
    distances : numpy.ndarray of float, shape (num_classes, num_classes), optional
        Between the classes, which similarity smoothing needs.

    Raises
    ------
    UserError
        If it needs them and there are none.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: StageRecipe,
        preprocessing: Preprocessing,
        num_classes: int,
        steps_per_epoch: int,
        compute: ComputePlan,
        compile_model: bool = True,
        distribute: Callable[[nn.Module], nn.Module] | None = None,
        distances: np.ndarray | None = None,
    ) -> None:
        self.recipe, self.compute = recipe, compute
        self._mean = torch.tensor(preprocessing.mean, device=compute.device)
        self._std = torch.tensor(preprocessing.std, device=compute.device)
        self.smoothing = torch_label_smoothing(num_classes, recipe.label_smoothing)
        self._similar = _similar_targets(recipe, distances, compute.device)
        self._online = (
            OnlineTargets(num_classes, recipe.label_smoothing, recipe.online_alpha, compute.device)
            if recipe.smoothing == "online"
            else None
        )
        if recipe.batch_norm_momentum is not None:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = recipe.batch_norm_momentum
        self.model = model.to(compute.device).to(memory_format=torch.channels_last)
        self.averaged = _averaged_model(self.model, recipe, steps_per_epoch)
        self.optimizer = _optimizer(self.model, recipe)
        self.schedule = _schedule(self.optimizer, recipe, steps_per_epoch)
        self._wrapped = distribute(self.model) if distribute else self.model
        self._long = recipe.epochs * steps_per_epoch >= MIN_STEPS_TO_TRY
        # One graph for the batch size; the odd last batch of an epoch runs without it.
        self._compiled = (
            torch.compile(self._wrapped, dynamic=False)
            if compile_model and compute.can_compile and self._long
            else self._wrapped
        )
        self._compiled_size: int | None = None

    def train_step(self, pixels: Tensor, targets: Tensor, global_batch: int, world_size: int = 1) -> Tensor:
        """One optimizer step on one worker's part of a global batch.

        Parameters
        ----------
        pixels : Tensor of uint8, shape (N, H, W, 3)
        targets : Tensor of int64, shape (N,)
        global_batch : int
            Images of the batch over all workers.
        world_size : int
            Number of workers, whose gradients are averaged.

        Returns
        -------
        Tensor of float32, shape ()
            Sum of the losses of this worker's images, on the device.
        """
        self.model.train()
        if self._compiled_size is None:
            self._compiled_size = len(pixels)
        forward = self._compiled if len(pixels) == self._compiled_size else self._wrapped
        with self.compute.autocast():
            logits = forward(self._inputs(pixels))
        targets = self._on_device(targets)
        total = self._loss(logits.float(), targets)
        # Workers may have one image more or less; their averaged gradients are then those of the whole batch.
        (total * world_size / global_batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.recipe.optimizer.schedule == "one_cycle":
            self.schedule.step()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        return total.detach()

    def choose_precision(self, size: int) -> None:
        """Go on in whatever is faster here for images of `size` pixels, if a long training can win by it."""
        if self._long:
            images = torch.zeros((self.recipe.batch_size, size, size, 3), dtype=torch.uint8)
            self.compute = quickest_training(self.compute, self.model, self._inputs(images))

    def end_epoch(self, total: Callable[[Tensor], Tensor] = lambda own: own) -> None:
        """Advance what runs by the epoch: schedules, and targets that follow the network.

        Parameters
        ----------
        total : callable
            From a tensor of this worker to its sum over all workers, who all call it.
        """
        if self._online is not None:
            self._online.end_epoch(total)
        if self.recipe.optimizer.schedule != "one_cycle":
            self.schedule.step()

    @property
    def learning_rate(self) -> float:
        """The optimizer's learning rate now."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def best_weights(self) -> nn.Module:
        """The network to validate and to keep: with averaged weights where the recipe averages."""
        return self.averaged.module if self.averaged is not None else self.model

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> Tensor:
        """Validation logits of `best_weights`.

        Parameters
        ----------
        pixels : Tensor of uint8, shape (N, H, W, 3)

        Returns
        -------
        Tensor of float32, shape (N, num_classes)
        """
        network = self.best_weights.eval()
        with self.compute.autocast():
            return network(self._inputs(pixels)).float()

    def state_dict(self) -> dict[str, Any]:
        """All that a killed run needs to go on."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "online": self._online.state_dict() if self._online is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.model.load_state_dict(state["model"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self._online is not None:
            self._online.load_state_dict(state["online"])

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Sum of the losses of a worker's images, by the recipe's smoothing."""
        if self._online is not None:
            self._online.observe(logits, targets)
            return cross_entropy(logits, self._online.table[targets], reduction="sum")
        if self._similar is not None:
            return cross_entropy(logits, self._similar[targets], reduction="sum")
        return cross_entropy(logits, targets, label_smoothing=self.smoothing, reduction="sum")

    def _inputs(self, pixels: Tensor) -> Tensor:
        return normalize(self._on_device(pixels), self._mean, self._std)

    def _on_device(self, tensor: Tensor) -> Tensor:
        """A copy that a GPU makes beside its computing, which it can from pinned memory alone."""
        if self.compute.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.compute.device, non_blocking=True)


def ema_decay(memory: float, total_steps: int) -> float:
    """Decay of an exponential moving average that remembers a share of a training.

    An average with decay d has a memory of ``1 / (1 - d)`` steps; here that is ``memory * total_steps``, so
    that short trainings do not end with the weights they began with.
    """
    return 1.0 - 1.0 / max(1.0, memory * total_steps)


def early_stop(losses: list[float], accuracies: list[float], patience: int) -> bool:
    """Whether the last `patience` epochs brought neither a lower validation loss nor a higher accuracy.

    Parameters
    ----------
    losses, accuracies : list of float
        Of the validation galaxies, by epoch.
    patience : int
        With 0 never.

    Notes
    -----
    The paper trains until the loss no longer decreases and the accuracy no longer increases (its section
    4.3). A network that grows too sure of itself loses the first long before the second.
    """
    if patience == 0 or len(losses) <= patience:
        return False
    no_lower_loss = min(losses[-patience:]) >= min(losses[:-patience])
    return no_lower_loss and max(accuracies[-patience:]) <= max(accuracies[:-patience])


def _similar_targets(
    recipe: StageRecipe, distances: np.ndarray | None, device: torch.device
) -> Tensor | None:
    if recipe.smoothing != "similarity":
        return None
    if distances is None:
        raise UserError("similarity smoothing needs the distances of the classes")
    table = similarity_targets(torch.from_numpy(distances), recipe.label_smoothing, recipe.similarity_beta)
    return table.to(device)


def _averaged_model(model: nn.Module, recipe: StageRecipe, steps_per_epoch: int) -> AveragedModel | None:
    if recipe.ema_memory == 0:
        return None
    decay = ema_decay(recipe.ema_memory, recipe.epochs * steps_per_epoch)
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def _optimizer(model: nn.Module, recipe: StageRecipe) -> torch.optim.Optimizer:
    settings = recipe.optimizer
    if settings.name == "sgd":
        return torch.optim.SGD(
            model.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)


def _schedule(optimizer: torch.optim.Optimizer, recipe: StageRecipe, steps_per_epoch: int) -> LRScheduler:
    settings = recipe.optimizer
    total = recipe.epochs * steps_per_epoch
    # A single step has no cycle: it is made at the peak.
    if settings.schedule == "one_cycle" and total > 1:
        # torch divides by the number of warmup steps less one.
        return OneCycleLR(
            optimizer, settings.lr, total_steps=total, pct_start=max(settings.warmup, 1.5 / total)
        )
    if settings.schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=settings.t_max or recipe.epochs, eta_min=0.0)
    return ConstantLR(optimizer, factor=1.0)
