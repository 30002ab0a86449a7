"""Label smoothing: as the paper defines it, by the likeness of the classes, and learned on the way.

All three take probability from the true class and differ in who gets it: each other class alike
(`smooth_targets`), those near the true one (`similarity_targets`), or those that the network itself takes for
alike (`OnlineTargets`).

The paper (Ma et al. 2023, MNRAS 519, 4765) puts ``1 - e`` on the true class and ``e / (K - 1)`` on each other
one. torch's ``label_smoothing=a`` (after Szegedy et al. 2016) puts ``a / K`` on every class and the rest on
the true one; the two targets are equal for ``a = e K / (K - 1)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hiwl_core.errors import UserError

__all__ = ["OnlineTargets", "similarity_targets", "smooth_targets", "torch_label_smoothing"]


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


def similarity_targets(distances: Tensor, epsilon: float, beta: float) -> Tensor:
    """Target distributions by the likeness of the classes.

    After the soft labels of Bertinetto et al. (2020, arXiv:1912.09393), y_j ~ exp(-b d(j, c)).
    There the true class takes part, at distance 0, so that b alone says how much is left to it; here it keeps
    ``1 - epsilon`` whatever b is, as in the other smoothings, and the others share `epsilon`:
    ``y_j = epsilon exp(-b d(j, c)) / sum over k != c of exp(-b d(k, c))``.

    Parameters
    ----------
    distances : Tensor of float, shape (K, K)
        Between the classes.
    epsilon : float
        Probability taken from the true class, in ``[0, 1)``.
    beta : float
        b; with 0 all others are alike, as in `smooth_targets`.

    Returns
    -------
    Tensor of float32, shape (K, K)
        In row c the target of a sample of class c.

    Raises
    ------
    UserError
        As `smooth_targets`.
    """
    _check(len(distances), epsilon)
    # Infinitely far from itself, the true class has no part in what is shared.
    others = (-beta * distances.double()).fill_diagonal_(-torch.inf).softmax(dim=1)
    return (epsilon * others).fill_diagonal_(1.0 - epsilon).float()


class OnlineTargets:
    """Target distributions that follow the network: online label smoothing.

    After Zhang et al. (2021, arXiv:2011.12562). In an epoch the softmax of each sample that the
    network classifies right is added to the row of its class; normalized, the rows are the next epoch's soft
    labels S. The loss is ``alpha * CE(hard label) + (1 - alpha) * CE(S)``, which is the cross entropy with
    the target ``alpha * hard label + (1 - alpha) * S``. The first epoch's S is the uniform smoothing, and a
    class without a right sample in an epoch keeps its row.

    Parameters
    ----------
    num_classes : int
        K.
    epsilon : float
        Of the first epoch's uniform smoothing; see `smooth_targets`.
    alpha : float
        Weight of the hard label, in ``[0, 1]``.
    device : torch.device

    Attributes
    ----------
    soft : Tensor of float32, shape (K, K)
        S, with the soft label of class c in row c.
    sums : Tensor of float64, shape (K, K)
        The softmaxes added up so far in this epoch.

    Raises
    ------
    UserError
        As `smooth_targets`, and if `alpha` is outside ``[0, 1]``.
    """

    def __init__(self, num_classes: int, epsilon: float, alpha: float, device: torch.device) -> None:
        if not 0.0 <= alpha <= 1.0:
            raise UserError(f"the weight of the hard label must be in [0, 1], not {alpha}")
        self._alpha = alpha
        self.soft = smooth_targets(torch.arange(num_classes, device=device), num_classes, epsilon)
        self.sums = torch.zeros_like(self.soft, dtype=torch.float64)

    @property
    def table(self) -> Tensor:
        """In row c the target of a sample of class c in this epoch, float32 of shape (K, K)."""
        hard = torch.eye(len(self.soft), device=self.soft.device)
        return self._alpha * hard + (1.0 - self._alpha) * self.soft

    @torch.no_grad()
    def observe(self, logits: Tensor, targets: Tensor) -> None:
        """Add the samples of a batch that are classified right.

        Parameters
        ----------
        logits : Tensor of float, shape (N, K)
        targets : Tensor of int64, shape (N,)
        """
        right = one_hot(targets, len(self.sums)).double() * (logits.argmax(1) == targets)[:, None]
        self.sums += right.T @ logits.double().softmax(dim=1)

    def end_epoch(self, total: Callable[[Tensor], Tensor] = lambda own: own) -> None:
        """Take the epoch's mean softmaxes as the next one's soft labels.

        Parameters
        ----------
        total : callable
            From one worker's sums to those of all workers, who all call it.
        """
        sums = total(self.sums)
        mass = sums.sum(dim=1, keepdim=True)
        self.soft = torch.where(mass > 0, sums / mass, self.soft).float()
        self.sums = torch.zeros_like(sums)

    def state_dict(self) -> dict[str, Tensor]:
        """All that a killed run needs to go on."""
        return {"soft": self.soft, "sums": self.sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict`."""
        # Copies: what is added to one must not be added to the other.
        self.soft, self.sums = (state[name].to(self.soft.device, copy=True) for name in ("soft", "sums"))


def _check(num_classes: int, epsilon: float) -> None:
    if num_classes < 2:
        raise UserError(f"label smoothing needs two classes or more, not {num_classes}")
    if not 0.0 <= epsilon < 1.0:
        raise UserError(f"label smoothing must be in [0, 1), not {epsilon}")
