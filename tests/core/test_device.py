from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hiwl_core import device
from hiwl_core.device import check_device, choose_compute, cpu_has_bfloat16, granted_compute
from hiwl_core.errors import UserError
from hiwl_core.precision_trial import quickest_training


def test_the_cpu_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    compute = choose_compute()
    assert (compute.device.type, compute.autocast_dtype) == ("cpu", None)
    with compute.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert compute.describe() == "cpu float32"


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, None)])
@pytest.mark.parametrize(("capability", "compiles"), [((8, 0), True), ((6, 1), False)])
def test_a_gpu_is_chosen_with_what_it_can_do(
    monkeypatch: pytest.MonkeyPatch,
    bf16: bool,
    dtype: torch.dtype | None,
    capability: tuple[int, int],
    compiles: bool,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    compute = choose_compute(torch.device("cuda", 1))
    assert compute.device == torch.device("cuda", 1)
    assert compute.autocast_dtype == dtype
    assert compute.can_compile is compiles
    assert choose_compute().device == torch.device("cuda", 0)
    assert choose_compute(torch.device("cpu")).autocast_dtype is None


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver."
PROC = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27\nGCC version:  gcc 9.3.0\n"


def fake_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], built: list[str], kernel: str = ""
) -> None:
    """Torch's answers on a machine with a GPU; `kernel` is what a first kernel raises."""

    def ones(count: int, **settings: Any) -> torch.Tensor:
        if kernel:
            raise RuntimeError(kernel)
        return torch.full((count,), 1.0)

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Tesla P100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch, "ones", ones)


@pytest.mark.parametrize(
    ("capability", "built"),
    [
        ((9, 0), ["sm_80", "sm_90"]),
        ((8, 9), ["sm_80", "sm_90"]),  # a later minor version
        ((12, 0), ["sm_80", "compute_90"]),  # PTX, compiled when it is loaded
        ((10, 0), ["sm_100a"]),
        ((9, 0), []),
    ],
)
def test_a_gpu_that_the_wheel_has_code_for_is_used(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], built: list[str]
) -> None:
    fake_gpu(monkeypatch, capability, built)
    check_device()


def test_a_gpu_that_cannot_be_used_is_one_line_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(device, "DRIVER_FACTS", tmp_path / "version")

    def told() -> str:
        with pytest.raises(UserError) as told:
            check_device()
        line = str(told.value)
        assert "\n" not in line
        assert "--no-gpu" in line
        assert torch.__version__ in line
        return line

    monkeypatch.setattr("socket.gethostname", lambda: "node7")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    assert "on node7 was given a GPU that PyTorch cannot use: this wheel was built for CPUs" in told()

    def no_driver() -> None:
        raise RuntimeError(TOO_OLD)

    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", no_driver)
    assert "driver on your system is too old (found version 11040) (torch" in told()
    assert "driver not found" in told()
    (tmp_path / "version").write_text(PROC)
    assert "driver 470.82.01)" in told()

    fake_gpu(monkeypatch, (6, 0), ["sm_75", "sm_80"])
    assert "it has no kernels for Tesla P100 (sm_60), only for sm_75 sm_80" in told()
    fake_gpu(monkeypatch, (8, 0), ["sm_80"], kernel="CUDA error: all devices are busy\nCompile with ...")
    assert "cannot use: CUDA error: all devices are busy (torch" in told()


def test_only_a_worker_with_a_gpu_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert granted_compute(gpu=False).device.type == "cpu"
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    with pytest.raises(UserError, match="built for CPUs"):
        granted_compute(gpu=True)


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert choose_compute().can_compile is False


@pytest.mark.parametrize(
    ("flags", "has"),
    [({}, False), ({"avx512_bf16": False}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)],
)
def test_the_flags_of_a_cpu_say_whether_it_has_bfloat16(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], has: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert cpu_has_bfloat16() is has


class Slow(nn.Module):
    """A network that is slower by a factor in one of the two precisions."""

    def __init__(self, slow: torch.dtype) -> None:
        super().__init__()
        self.slow, self.weight, self.steps = slow, nn.Parameter(torch.ones(4, 4)), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = images @ self.weight
        for _ in range(300 if out.dtype == self.slow else 1):
            out = out @ self.weight.softmax(0)
        return out


@pytest.mark.parametrize(("slow", "expected"), [(torch.float32, torch.bfloat16), (torch.bfloat16, None)])
def test_training_takes_the_precision_that_is_faster_here(
    monkeypatch: pytest.MonkeyPatch, slow: torch.dtype, expected: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    network, compute = Slow(slow), choose_compute(torch.device("cpu"))
    assert quickest_training(compute, network, torch.ones(4, 4)).autocast_dtype == expected
    assert network.weight.grad is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert quickest_training(compute, network, torch.ones(4, 4)) == compute
