"""Whether a CPU trains faster in bfloat16: known only by trying, for it depends on chip and sizes."""

from __future__ import annotations

import copy
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from hiwl_core.device import ComputePlan, cpu_has_bfloat16

__all__ = ["quickest_training"]

ROUNDS = 3


def quickest_training(compute: ComputePlan, network: nn.Module, images: Tensor) -> ComputePlan:
    """How to train a network on a CPU: in float32, or in bfloat16 if steps of a copy are faster so.

    Forward and backward passes are timed by turns, some seconds in all; what other processes do meanwhile
    falls on both alike. On a GPU nothing is tried, since there the instructions are always worth it.

    Parameters
    ----------
    compute : ComputePlan
    network : Module
        Left as it is.
    images : Tensor of float32, shape (N, 3, H, W)
        A batch such as it is to train on.

    Returns
    -------
    ComputePlan
        With the type of the forward pass's products that was faster.
    """
    if compute.device.type != "cpu" or not cpu_has_bfloat16():
        return compute
    network = copy.deepcopy(network).train()
    plans = [replace(compute, autocast_dtype=dtype) for dtype in (None, torch.bfloat16)]
    # The first round warms up.
    rounds = [[_step_seconds(plan, network, images) for plan in plans] for _ in range(1 + ROUNDS)][1:]
    float32, bfloat16 = (min(seconds) for seconds in zip(*rounds, strict=True))
    return plans[bfloat16 < float32]


def _step_seconds(compute: ComputePlan, network: nn.Module, images: Tensor) -> float:
    started = time.perf_counter()
    with compute.autocast():
        logits = network(images)
    logits.float().sum().backward()
    network.zero_grad()
    return time.perf_counter() - started
