"""What a process computes on, chosen by what the machine has."""

from __future__ import annotations

import re
import shutil
import socket
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from hiwl_core.errors import UserError

__all__ = ["ComputePlan", "check_device", "choose_compute", "cpu_has_bfloat16", "granted_compute"]

# The kernel module's own words; they are there without nvidia-smi, in containers too.
DRIVER_FACTS = Path("/proc/driver/nvidia/version")


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


def granted_compute(gpu: bool) -> ComputePlan:
    """How a worker computes that was given a GPU, or none.

    Parameters
    ----------
    gpu : bool
        Whether it was given one, which it then uses.

    Raises
    ------
    UserError
        If PyTorch cannot use it; see `check_device`.
    """
    if not gpu:
        return choose_compute(torch.device("cpu"))
    check_device()
    return choose_compute(torch.device("cuda", 0))


def check_device() -> None:
    """Check that PyTorch can use the GPU that this process was given.

    Without a driver that is new enough `torch.cuda.is_available` is false, and a program that asks it
    computes on the CPU, with the GPU held and nothing said.

    Raises
    ------
    UserError
        If it cannot: it was built for CPUs, the driver is missing or too old for its CUDA, it has no kernels
        for this GPU's architecture, or a first kernel fails. One line with the node, the versions and the
        mend.
    """
    why = _unusable()
    if why:
        raise UserError(
            f"a worker on {socket.gethostname()} was given a GPU that PyTorch cannot use: {why} (torch "
            f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}, driver {_driver()}): install a wheel "
            "of torch for that driver there (docs/gpu.md), or compute on CPUs with --no-gpu"
        )


def _unusable() -> str:
    """Why PyTorch cannot use the first GPU; empty if it can."""
    if not torch.backends.cuda.is_built():
        return "this wheel was built for CPUs"
    try:
        torch.cuda.init()
        if not _has_kernels():
            capability = "sm_{}{}".format(*torch.cuda.get_device_capability(0))
            built = " ".join(torch.cuda.get_arch_list())
            return f"it has no kernels for {torch.cuda.get_device_name(0)} ({capability}), only for {built}"
        torch.ones(8, device="cuda").sum().item()
    except (RuntimeError, AssertionError) as error:
        # A sentence on what is wrong, then several on where to download what.
        return re.split(r"\.\s|\n", str(error).strip())[0][:200].rstrip(".")
    return ""


def _has_kernels() -> bool:
    """Whether the wheel names code that the first GPU runs, or names none.

    Machine code (``sm_``) runs on later minor versions of its major one, PTX (``compute_``) on all that are
    later.
    """
    capability = torch.cuda.get_device_capability(0)
    built = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
    return not built or any(
        capability >= (int(major), int(minor)) and (kind == "compute" or capability[0] == int(major))
        for kind, major, minor in built
    )


def _driver() -> str:
    """Version of the NVIDIA driver, as far as it can be read."""
    try:
        found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", DRIVER_FACTS.read_text())
    except OSError:
        found = None
    return found[1] if found else "not found"


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 by itself; without the instructions it is ten times slower."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
