from dataclasses import replace

import pytest
import torch
from torch import nn

from hiwl_core.cutouts import Preprocessing
from hiwl_core.device import ComputePlan
from hiwl_core.recipe import StageRecipe, load_recipe
from hiwl_core.training import StageLearner, early_stop, ema_decay

PREPROCESSING = Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COMPUTE = ComputePlan(torch.device("cpu"), None, can_compile=False)


def stage(*overrides: str) -> StageRecipe:
    return load_recipe("demo", overrides).stage1


def learner(recipe: StageRecipe, compute: ComputePlan = COMPUTE, **options: object) -> StageLearner:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    return StageLearner(model, recipe, PREPROCESSING, 3, steps_per_epoch=10, compute=compute, **options)  # type: ignore[arg-type]


def batch(seed: int, size: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (size,), generator=generator)
    pixels = torch.randint(60, (size, 8, 8, 3), generator=generator, dtype=torch.uint8)
    for row, target in enumerate(targets):
        pixels[row, ..., target] += 150
    return pixels, targets


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_loss_falls(optimizer: str, schedule: str) -> None:
    trained = learner(
        stage(
            f"stage1.optimizer.name={optimizer}",
            f"stage1.optimizer.schedule={schedule}",
            "stage1.optimizer.lr=0.01",
        )
    )
    losses = [float(trained.train_step(*batch(i), global_batch=12)) for i in range(30)]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_a_resumed_learner_goes_on_exactly() -> None:
    recipe = stage("stage1.ema_memory=0.2")
    whole, first = learner(recipe), learner(recipe)
    for i in range(10):
        whole.train_step(*batch(i), global_batch=12)
        if i < 5:
            first.train_step(*batch(i), global_batch=12)
    second = learner(recipe)
    second.load_state_dict(first.state_dict())
    for i in range(5, 10):
        second.train_step(*batch(i), global_batch=12)
    for name, tensor in whole.best_weights.state_dict().items():
        torch.testing.assert_close(second.best_weights.state_dict()[name], tensor, msg=name)
    assert second.learning_rate == whole.learning_rate


def test_two_unequal_shares_have_the_gradient_of_the_whole_batch() -> None:
    recipe = stage(
        "stage1.optimizer.name=sgd",
        "stage1.optimizer.momentum=0.0",
        "stage1.optimizer.weight_decay=0.0",
        "stage1.optimizer.schedule=constant",
        "stage1.ema_memory=0",
    )
    pixels, targets = batch(0, 13)

    def weights_after(shares: list[slice]) -> torch.Tensor:
        trained = learner(recipe)
        # Without batch statistics a sum over shares is exact.
        trained.model[1] = nn.Identity()
        before = trained.model[-1].weight.detach().clone()
        changes = []
        for share in shares:
            trained.model[-1].weight.data.copy_(before)
            trained.train_step(pixels[share], targets[share], global_batch=13, world_size=len(shares))
            changes.append(trained.model[-1].weight.detach() - before)
        return torch.stack(changes).mean(0)

    torch.testing.assert_close(weights_after([slice(0, 13)]), weights_after([slice(0, 7), slice(7, 13)]))


def test_cosine_runs_by_the_epoch_and_reaches_zero_at_t_max() -> None:
    trained = learner(
        stage(
            "stage1.optimizer.name=sgd",
            "stage1.optimizer.schedule=cosine",
            "stage1.optimizer.t_max=4",
            "stage1.optimizer.lr=0.1",
        )
    )
    rates = []
    for epoch in range(4):
        rates.append(trained.learning_rate)
        trained.train_step(*batch(epoch), global_batch=12)
        trained.end_epoch()
    assert rates == pytest.approx([0.1, 0.0853553, 0.05, 0.0146447], rel=1e-5)
    assert trained.learning_rate == pytest.approx(0.0, abs=1e-12)


def test_averaged_weights_are_those_that_validate() -> None:
    trained = learner(stage("stage1.ema_memory=0.5"))
    for i in range(8):
        trained.train_step(*batch(i), global_batch=12)
    assert trained.best_weights is not trained.model
    assert not torch.equal(trained.best_weights[-1].weight, trained.model[-1].weight)
    assert learner(stage("stage1.ema_memory=0")).best_weights is not None


def test_short_trainings_can_forget_the_old_statistics_sooner() -> None:
    slow, fast = (learner(stage(f"stage1.batch_norm_momentum={momentum}")) for momentum in (0.01, 0.5))
    for trained in (slow, fast):
        for i in range(3):
            trained.train_step(*batch(i), global_batch=12)
    start = torch.zeros(4)
    moved = [(trained.model[1].running_mean - start).abs().sum() for trained in (slow, fast)]
    assert moved[1] > 5 * moved[0]


def test_memory_of_the_average_fits_the_steps() -> None:
    assert ema_decay(0.1, 1500) == pytest.approx(1 - 1 / 150)
    assert ema_decay(0.01, 10) == 0.0


def test_bfloat16_and_compilation_run_the_same_code() -> None:
    compute = replace(COMPUTE, autocast_dtype=torch.bfloat16)
    trained = learner(stage(), compute)
    assert float(trained.train_step(*batch(0), global_batch=12)) > 0
    assert trained.logits(batch(0)[0]).dtype == torch.float32


@pytest.mark.slow
def test_a_compiled_network_trains_as_an_eager_one() -> None:
    recipe = stage("stage1.epochs=100", "stage1.ema_memory=0")
    eager, compiled = learner(recipe), learner(recipe, replace(COMPUTE, can_compile=True))
    assert compiled._compiled is not compiled._wrapped
    for i, size in enumerate((12, 12, 9)):
        losses = [float(one.train_step(*batch(i, size), global_batch=size)) for one in (eager, compiled)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("losses", "patience", "stop"),
    [
        ([3, 2, 1], 2, False),
        ([1, 2, 3], 2, True),
        ([1, 2], 2, False),
        ([2, 1, 1, 1], 3, False),
        ([2, 1, 1, 1, 1], 3, True),
        ([1, 2, 3, 4, 5], 0, False),
    ],
)
def test_early_stop(losses: list[float], patience: int, stop: bool) -> None:
    assert early_stop(losses, patience) is stop
