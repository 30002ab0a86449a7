"""A ResNet-18 of which half is differential equations, after the neural ODE for galaxies of Gupta, Srijith
& Desai (2022, Astronomy and Computing 38, 100543).

Each stage is a residual block and an ODE block. That takes maps h(0) to h(1) along dh/dt = f(h), where f is
what a residual block adds to its input (Chen et al. 2018, arXiv:1806.07366; for images Zhuang et al. 2020,
arXiv:2006.02493). Layers, widths, input size, solver and tolerance are those of the code that the paper's
first author has published, github.com/rg321/torch_ACA_gz_aug. There the number of ODE blocks in a stage
changes between versions; here it is one, as in Zhuang et al.

Their network is called NODE-ACA after the adaptive checkpoint adjoint, by which it is trained: its
gradients go back along the steps that an adaptive solver has accepted, whose lengths count as constants. So
do those of torchdiffeq's adaptive solver when its steps are differentiated as they are, which takes more
memory, since ACA keeps the states alone and computes the rest anew.

What differs is the trained network, whose steps are of one length. With steps chosen by a batch the class
of a galaxy would depend on the galaxies beside it, and no engine but PyTorch could run the network.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hiwl_core.backbones.backbone_spec import any_size, galaxy_spec
from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.errors import UserError, if_missing

__all__ = ["SPEC"]

NAME = "neural_ode"
INPUT_SIZE = 32
STAGE_WIDTHS = (64, 128, 256, 512)
# Relative and absolute, of the solutions in training.
TOLERANCE = 0.01
# Of the trained network, which is then closer to the solution than it was in training, at no more cost.
STEPS = 2

Derivative = Callable[[Tensor], Tensor]
"""dh/dt at a state, the same at all times."""


class ResidualDerivative(nn.Module):
    """What a residual block adds to its input, as the rate at which a state changes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()

    def forward(self, state: Tensor) -> Tensor:
        """dh/dt, in the shape and type of the state (N, width, H, W)."""
        inner = self.relu(self.norm1(self.conv1(state)))
        return self.relu(self.norm2(self.conv2(inner))).to(state.dtype)


class OdeBlock(nn.Module):
    """From maps at time 0 to those at time 1: by adaptive steps in training, then by steps of one length."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.derivative = ResidualDerivative(width)
        self._solve = adaptive_solver()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (N, width, H, W) to the same shape, in float32: the differences between steps are small."""
        if self.training:
            return self._solve(self.derivative, maps.float())
        return runge_kutta(self.derivative, maps.float(), STEPS)


def adaptive_solver() -> Callable[[Derivative, Tensor], Tensor]:
    """A solver from time 0 to 1 in steps of Heun & Euler that are as long as the tolerance allows.

    Returns
    -------
    callable
        From a derivative and a state to the state at time 1, through which gradients flow. Raises UserError
        where there is none.

    Raises
    ------
    UserError
        If torchdiffeq is not installed.
    """
    # Its coefficients are tensors made when it is imported: not on the device of who builds a network.
    with if_missing(f"{NAME} needs the package torchdiffeq: pip install 'hiwl[ode]'"), torch.device("cpu"):
        from torchdiffeq import odeint

    def solve(derivative: Derivative, state: Tensor) -> Tensor:
        times = torch.tensor([0.0, 1.0], device=state.device)
        # A step ends at time 1, rather than beyond it with an interpolation back.
        options = {"step_t": times[1:]}
        try:
            states = odeint(
                lambda _time, at: derivative(at),
                state,
                times,
                rtol=TOLERANCE,
                atol=TOLERANCE,
                method="adaptive_heun",
                options=options,
            )
        except AssertionError as error:
            # What follows is the whole state.
            reason = str(error).partition(":")[0]
            raise UserError(
                f"the differential equation of {NAME} has no solution ({reason}): the training diverges; "
                "set stage1.optimizer.lr or stage2.optimizer.lr lower"
            ) from None
        return states[-1]

    # A compiler would make a graph of each of its steps, which depend on the data.
    return torch.compiler.disable(solve)


def runge_kutta(derivative: Derivative, state: Tensor, steps: int) -> Tensor:
    """The state at time 1, by the classical method of fourth order in steps of one length.

    Unlike torchdiffeq's, whose checks depend on data, it becomes a graph that other engines take.

    Parameters
    ----------
    derivative : callable
    state : Tensor
        At time 0.
    steps : int
    """
    length = 1.0 / steps
    for _ in range(steps):
        rate1 = derivative(state)
        rate2 = derivative(state + length / 2 * rate1)
        rate3 = derivative(state + length / 2 * rate2)
        rate4 = derivative(state + length * rate3)
        state = state + length / 6 * (rate1 + 2 * (rate2 + rate3) + rate4)
    return state


def _stage(width_in: int, width: int, stride: int) -> nn.Module:
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride > 1:
        shortcut = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
    residual = BasicBlock(width_in, width, stride, shortcut)
    return nn.Sequential(OrderedDict(residual=residual, ode=OdeBlock(width)))


def _build(num_classes: int, _input_size: int) -> ImageClassifier:
    """The network with random weights, after He et al. (2015, arXiv:1502.01852)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Conv2d(3, STAGE_WIDTHS[0], 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(STAGE_WIDTHS[0]),
        relu=nn.ReLU(),
    )
    width_in = STAGE_WIDTHS[0]
    for number, width in enumerate(STAGE_WIDTHS, 1):
        layers[f"stage{number}"] = _stage(width_in, width, stride=1 if number == 1 else 2)
        width_in = width
    layers.update(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1))
    trunk = nn.Sequential(layers)
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return ImageClassifier(trunk, width_in, num_classes, dropout=0.0)


SPEC = galaxy_spec(NAME, INPUT_SIZE, STAGE_WIDTHS[-1], "trunk.stage4", _build, check_input=any_size)
