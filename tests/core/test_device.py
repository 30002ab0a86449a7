import pytest
import torch
from torch import nn

from hiwl_core.device import choose_compute, cpu_has_bfloat16
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
