"""What a process computes on, chosen by what the machine has."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

__all__ = ["ComputePlan", "choose_compute"]


@dataclass(frozen=True)
class ComputePlan:
    """Device and precision of a process.

    Parameters
    ----------
    device : torch.device
    autocast_dtype : torch.dtype or None
        Type of the forward pass's products; None for float32.
    can_compile : bool
        Whether `torch.compile` finds what it needs here.
    """

    device: torch.device
    autocast_dtype: torch.dtype | None
    can_compile: bool

    def autocast(self) -> AbstractContextManager[None]:
        """Context of the forward pass and the loss."""
        return torch.autocast(
            self.device.type, dtype=self.autocast_dtype, enabled=self.autocast_dtype is not None
        )  # fmt: skip

    def describe(self) -> str:
        """A few words for logs and metrics tables."""
        precision = str(self.autocast_dtype or torch.float32).removeprefix("torch.")
        return f"{self.device.type} {precision}"


def choose_compute(local_rank: int = 0) -> ComputePlan:
    """The best this process can do: a CUDA device with bfloat16 where it has it, else the CPU.

    On a CPU everything stays float32: bfloat16 is some ten times slower without the instructions for it,
    and a catalog should not depend on which node of a cluster computed a row.

    Parameters
    ----------
    local_rank : int
        Which of the process's visible CUDA devices to use.
    """
    if torch.cuda.is_available():
        return ComputePlan(
            device=torch.device("cuda", local_rank),
            autocast_dtype=torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else None,
            can_compile=torch.cuda.get_device_capability(local_rank) >= (7, 0),
        )
    return ComputePlan(
        device=torch.device("cpu"),
        autocast_dtype=None,
        # Inductor writes C++ for CPUs and needs a compiler to turn it into code.
        can_compile=shutil.which("g++") is not None or shutil.which("clang++") is not None,
    )
