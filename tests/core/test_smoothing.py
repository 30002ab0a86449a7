import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from hiwl_core.errors import UserError
from hiwl_core.smoothing import OnlineTargets, similarity_targets, smooth_targets, torch_label_smoothing

CPU = torch.device("cpu")
# A line of three classes, a step apart.
LINE = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])


def test_class_3_of_5() -> None:
    target = smooth_targets(torch.tensor([2]), num_classes=5, epsilon=0.1)
    torch.testing.assert_close(target, torch.tensor([[0.025, 0.025, 0.9, 0.025, 0.025]]))


@pytest.mark.parametrize("num_classes", [2, 4, 5])
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.1, 0.3])
def test_torch_argument_means_the_same_loss(num_classes: int, epsilon: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(64, num_classes, generator=generator)
    targets = torch.randint(num_classes, (64,), generator=generator)
    ours = cross_entropy(logits, smooth_targets(targets, num_classes, epsilon))
    torchs = cross_entropy(logits, targets, label_smoothing=torch_label_smoothing(num_classes, epsilon))
    torch.testing.assert_close(ours, torchs)


def test_torch_argument_of_the_paper() -> None:
    assert torch_label_smoothing(4, 0.05) == pytest.approx(0.05 * 4 / 3)
    assert torch_label_smoothing(2, 0.05) == pytest.approx(0.1)


@pytest.mark.parametrize(("num_classes", "epsilon"), [(1, 0.1), (5, 1.0), (5, -0.1)])
def test_nonsense_is_refused(num_classes: int, epsilon: float) -> None:
    with pytest.raises(UserError):
        smooth_targets(torch.tensor([0]), num_classes, epsilon)


def test_similarity_by_hand() -> None:
    # exp(-b d) is 1/2 a step away and 1/4 two steps away.
    table = similarity_targets(LINE, epsilon=0.1, beta=math.log(2))
    expected = torch.tensor([[0.9, 0.2 / 3, 0.1 / 3], [0.05, 0.9, 0.05], [0.1 / 3, 0.2 / 3, 0.9]])
    torch.testing.assert_close(table, expected)


@pytest.mark.parametrize("num_classes", [2, 4, 5])
def test_similarity_is_uniform_where_all_are_alike(num_classes: int) -> None:
    uniform = smooth_targets(torch.arange(num_classes), num_classes, 0.05)
    apart = 1.0 - torch.eye(num_classes)
    torch.testing.assert_close(similarity_targets(apart, 0.05, beta=3.0), uniform)
    torch.testing.assert_close(similarity_targets(torch.rand(apart.shape) * apart, 0.05, beta=0.0), uniform)


def test_far_classes_get_nothing_and_no_nan() -> None:
    table = similarity_targets(1e4 * LINE, epsilon=0.1, beta=30.0)
    torch.testing.assert_close(table[0], torch.tensor([0.9, 0.1, 0.0]))
    assert similarity_targets(LINE, epsilon=0.0, beta=1.0).tolist() == torch.eye(3).tolist()


def seen(online: OnlineTargets) -> None:
    """Of class 0 two right samples and a wrong one, of class 1 a right one, of class 2 a wrong one."""
    probabilities = [[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]]
    online.observe(torch.tensor(probabilities).log(), torch.tensor([0, 0, 0, 1, 2]))


def test_online_by_hand() -> None:
    online = OnlineTargets(3, epsilon=0.1, alpha=0.25, device=CPU)
    first = smooth_targets(torch.arange(3), 3, 0.1)
    torch.testing.assert_close(online.table, 0.25 * torch.eye(3) + 0.75 * first)
    seen(online)
    torch.testing.assert_close(online.soft, first)
    online.end_epoch()
    # The mean of the right ones; class 2 has none and keeps what it had.
    expected = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9]])
    torch.testing.assert_close(online.soft, expected)
    torch.testing.assert_close(online.table, 0.25 * torch.eye(3) + 0.75 * expected)
    online.end_epoch()
    torch.testing.assert_close(online.soft, expected)


def test_the_online_target_has_the_loss_of_the_paper() -> None:
    online = OnlineTargets(3, epsilon=0.1, alpha=0.5, device=CPU)
    seen(online)
    online.end_epoch()
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(20, 3, generator=generator), torch.arange(20) % 3
    hard, soft = cross_entropy(logits, targets), cross_entropy(logits, online.soft[targets])
    torch.testing.assert_close(cross_entropy(logits, online.table[targets]), 0.5 * hard + 0.5 * soft)


def test_online_targets_go_on_where_they_were() -> None:
    whole, second = (OnlineTargets(3, epsilon=0.1, alpha=0.5, device=CPU) for _ in range(2))
    seen(whole)
    whole.end_epoch()
    seen(whole)
    second.load_state_dict(whole.state_dict())
    for online in (whole, second):
        online.observe(torch.eye(3), torch.arange(3))
        online.end_epoch()
    assert torch.equal(whole.soft, second.soft)


@pytest.mark.parametrize(("epsilon", "alpha"), [(1.0, 0.5), (0.1, 1.5), (0.1, -0.1)])
def test_nonsense_is_refused_online_too(epsilon: float, alpha: float) -> None:
    with pytest.raises(UserError, match="must be in"):
        OnlineTargets(3, epsilon, alpha, CPU)
