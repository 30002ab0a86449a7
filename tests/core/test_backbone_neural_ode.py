"""The network of differential equations: what it solves, how well, and what it says when it cannot."""

import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from hiwl_core.backbones import create_backbone
from hiwl_core.backbones.neural_ode import OdeBlock, adaptive_solver, runge_kutta
from hiwl_core.errors import UserError


def errors(block: OdeBlock, maps: Tensor, got: Tensor) -> float:
    """Root mean square distance from the solution of a block's equation, which is a hundred times closer."""
    times = torch.tensor([0.0, 1.0])
    with torch.no_grad():
        states = odeint(lambda _time, state: block.derivative(state), maps, times, rtol=1e-5, atol=1e-5)
    # There is something to solve.
    assert (states[1] - states[0]).square().mean().sqrt() > 0.5
    return float((got.detach() - states[1]).square().mean().sqrt())


@pytest.fixture
def block() -> OdeBlock:
    """A trained block: its normalizations know its maps."""
    torch.manual_seed(0)
    made = OdeBlock(8)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        made(torch.randn(64, 8, 6, 6).relu())
    return made.eval()


@pytest.fixture
def maps() -> Tensor:
    return torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(1)).relu()


def test_steps_of_one_length_are_of_fourth_order() -> None:
    start = torch.ones(1, dtype=torch.float64)
    off = [abs(runge_kutta(lambda state: state, start, steps).item() - math.e) for steps in (2, 4, 8)]
    # Twice the steps, a sixteenth of the error.
    assert off[0] / off[1] == pytest.approx(16, rel=0.2)
    assert off[1] / off[2] == pytest.approx(16, rel=0.1)


def test_a_trained_block_is_closer_to_the_solution_than_in_training(block: OdeBlock, maps: Tensor) -> None:
    after = errors(block, maps, block(maps))
    # In training but for its normalizations, which would change the equation.
    block.training = True
    during = errors(block, maps, block(maps))
    # Of states of order one the tolerance is 0.01 to 0.02 in each of some six steps.
    assert 0 < after < during < 0.05


def test_gradients_are_those_of_the_solution() -> None:
    """Of dh/dt = a h, which leads to h(1) = h(0) exp(a)."""
    rate, start = torch.tensor(0.5, requires_grad=True), torch.ones(3, requires_grad=True)
    adaptive_solver()(lambda state: rate * state, start).sum().backward()
    assert rate.grad is not None
    assert start.grad is not None
    assert rate.grad.item() == pytest.approx(3 * math.exp(0.5), rel=0.05)
    torch.testing.assert_close(start.grad, torch.full((3,), math.exp(0.5)), rtol=0.05, atol=0)


def test_what_becomes_of_a_galaxy_does_not_depend_on_the_others(block: OdeBlock, maps: Tensor) -> None:
    # Stiffer companions would make an adaptive solver take shorter steps for all.
    beside = torch.cat([maps[:1], 100 * maps[1:]])
    torch.testing.assert_close(block(beside)[:1], block(maps[:1]))


def test_autocast_keeps_the_state_in_float32(block: OdeBlock, maps: Tensor) -> None:
    expected = block(maps)
    with torch.autocast("cpu", torch.bfloat16):
        for training in (False, True):
            block.training = training
            got = block(maps.bfloat16())
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05)


def test_a_training_that_diverges_is_told_in_one_line() -> None:
    torch.manual_seed(0)
    model = create_backbone("neural_ode", 4, input_size=8)
    nn.init.constant_(model.trunk.stem.weight, math.inf)  # type: ignore[union-attr, arg-type]
    with pytest.raises(
        UserError, match=r"neural_ode has no solution .*: the training diverges; set"
    ) as caught:
        model(torch.ones(2, 3, 8, 8))
    assert "\n" not in str(caught.value)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(
        UserError, match=r"neural_ode needs the package torchdiffeq: pip install 'hiwl\[ode\]'"
    ):
        create_backbone("neural_ode", 4)


def test_building_one_on_another_device_first_spoils_no_other() -> None:
    # In a process of its own, in which the library was not imported yet.
    script = """
import torch
from hiwl_core.backbones import create_backbone
with torch.device("meta"):
    create_backbone("neural_ode", 4, input_size=8)
print(tuple(create_backbone("neural_ode", 4, input_size=8).train()(torch.rand(2, 3, 8, 8)).shape))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(2, 4)", done.stderr
