import pytest
import torch
from torch.nn.functional import cross_entropy

from hiwl_core.errors import UserError
from hiwl_core.smoothing import smooth_targets, torch_label_smoothing


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
