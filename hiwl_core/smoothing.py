"""Label smoothing as the paper defines it, and what torch calls by the same name.

The paper (Ma et al. 2023, MNRAS 519, 4765) puts ``1 - e`` on the true class and ``e / (K - 1)`` on each other
one. torch's ``label_smoothing=a`` (after Szegedy et al. 2016) puts ``a / K`` on every class and the rest on
the true one; the two targets are equal for ``a = e K / (K - 1)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hiwl_core.errors import UserError

__all__ = ["smooth_targets", "torch_label_smoothing"]


def smooth_targets(targets: Tensor, num_classes: int, epsilon: float) -> Tensor:
    """Smoothed target distributions.

    Parameters
    ----------
    targets : Tensor of int64, shape (N,)
        Class indices.
    num_classes : int
        K.
    epsilon : float
        Probability taken from the true class, in ``[0, 1)``.

    Returns
    -------
    Tensor of float32, shape (N, K)
        ``1 - epsilon`` at the true class, ``epsilon / (K - 1)`` elsewhere.

    Raises
    ------
    UserError
        If `epsilon` is outside ``[0, 1)`` or there are fewer than two classes.
    """
    _check(num_classes, epsilon)
    smoothed = torch.full((len(targets), num_classes), epsilon / (num_classes - 1), device=targets.device)
    return smoothed.scatter_(1, targets.unsqueeze(1), 1.0 - epsilon)


def torch_label_smoothing(num_classes: int, epsilon: float) -> float:
    """The ``label_smoothing`` argument of `torch.nn.functional.cross_entropy` that means `epsilon` here.

    Returns
    -------
    float
        ``epsilon * K / (K - 1)``.

    Raises
    ------
    UserError
        As `smooth_targets`.
    """
    _check(num_classes, epsilon)
    return epsilon * num_classes / (num_classes - 1)


def _check(num_classes: int, epsilon: float) -> None:
    if num_classes < 2:
        raise UserError(f"label smoothing needs two classes or more, not {num_classes}")
    if not 0.0 <= epsilon < 1.0:
        raise UserError(f"label smoothing must be in [0, 1), not {epsilon}")
