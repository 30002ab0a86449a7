"""What a process computes on, chosen by what the machine has."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

__all__ = ["ComputePlan", "choose_compute", "cpu_has_bfloat16"]


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
        )

    def describe(self) -> str:
        """A few words for logs and metrics tables."""
        precision = str(self.autocast_dtype or torch.float32).removeprefix("torch.")
        return f"{self.device.type} {precision}"


def choose_compute(device: torch.device | None = None) -> ComputePlan:
    """How to compute on a device; by default the first GPU that this process sees, else the CPU.

    A GPU computes in bfloat16 where it has the instructions.

    On a CPU everything stays float32: bfloat16 is some ten times slower without the instructions for it,
    and a catalog should not depend on which node of a cluster computed a row.

    Parameters
    ----------
    device : torch.device, optional
        Given by whoever hands out devices, such as Ray Train to its workers.
    """
    if device is None:
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        return ComputePlan(
            device=device,
            autocast_dtype=torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else None,
            can_compile=torch.cuda.get_device_capability(device) >= (7, 0),
        )
    return ComputePlan(
        device=device,
        autocast_dtype=None,
        # Inductor writes C++ for CPUs and needs a compiler to turn it into code.
        can_compile=shutil.which("g++") is not None or shutil.which("clang++") is not None,
    )


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 by itself; without the instructions it is ten times slower."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
