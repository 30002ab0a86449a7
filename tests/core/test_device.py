import pytest
import torch

from hiwl_core.device import choose_compute


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
