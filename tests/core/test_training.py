from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from hiwl_core.cutouts import Preprocessing
from hiwl_core.device import ComputePlan
from hiwl_core.errors import UserError
from hiwl_core.recipe import load_recipe
from hiwl_core.recipe_sections import StageRecipe
from hiwl_core.sampling import batch_bounds, rank_share
from hiwl_core.training import StageLearner, early_stop, ema_decay

PREPROCESSING = Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COMPUTE = ComputePlan(torch.device("cpu"), None, can_compile=False)
LINE = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])


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


@pytest.mark.parametrize("smoothing", ["uniform", "online"])
def test_a_resumed_learner_goes_on_exactly(smoothing: str) -> None:
    recipe = stage("stage1.ema_memory=0.2", f"stage1.smoothing={smoothing}")

    def run(trained: StageLearner, steps: range) -> None:
        for i in steps:
            trained.train_step(*batch(i), global_batch=12)
            if i % 4 == 3:
                trained.end_epoch()

    whole, first, second = learner(recipe), learner(recipe), learner(recipe)
    run(whole, range(10))
    run(first, range(5))
    second.load_state_dict(first.state_dict())
    run(second, range(5, 10))
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


def losses_of(*overrides: str, **options: object) -> list[float]:
    """Mean losses of two short epochs."""
    trained = learner(stage("stage1.optimizer.lr=0.01", *overrides), **options)
    losses = []
    for _ in range(2):
        losses += [float(trained.train_step(*batch(i), global_batch=12)) / 12 for i in range(4)]
        trained.end_epoch()
    return losses


def test_smoothings_that_are_the_same_train_alike() -> None:
    uniform = losses_of()
    same = losses_of("stage1.smoothing=similarity", "stage1.similarity_beta=0", distances=LINE)
    assert same == pytest.approx(uniform, rel=1e-4)
    hard = losses_of("stage1.label_smoothing=0")
    # With all the weight on the hard label it does not matter what the network finds alike.
    assert losses_of("stage1.smoothing=online", "stage1.online_alpha=1") == pytest.approx(hard, rel=1e-4)
    assert hard != pytest.approx(uniform, rel=1e-2)


def test_smoothings_that_differ_train_otherwise() -> None:
    strong = "stage1.label_smoothing=0.3"
    uniform, online = losses_of(strong), losses_of(strong, "stage1.smoothing=online", "stage1.online_alpha=0")
    similar = losses_of(strong, "stage1.smoothing=similarity", distances=LINE)
    # The first epoch's soft labels are the uniform ones, the second's are the network's own.
    assert online[:4] == pytest.approx(uniform[:4], rel=1e-4)
    for other in (online[4:], similar[4:]):
        assert other != pytest.approx(uniform[4:], rel=1e-2)


def test_similarity_without_distances_is_refused() -> None:
    with pytest.raises(UserError, match="needs the distances"):
        learner(stage("stage1.smoothing=similarity"))


def train_online(rank: int, world_size: int, folder: str) -> None:
    """Two epochs on one worker's part of each batch; without batch statistics, which workers do not share."""
    torch.set_num_threads(1)
    several = world_size > 1
    if several:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size
        )

    def total(own: Tensor) -> Tensor:
        if several:
            torch.distributed.all_reduce(own)
        return own

    torch.manual_seed(0)
    trained = StageLearner(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)),
        stage("stage1.smoothing=online", "stage1.ema_memory=0", "stage1.optimizer.lr=0.01"),
        PREPROCESSING,
        3,
        steps_per_epoch=10,
        compute=COMPUTE,
        distribute=DistributedDataParallel if several else None,
    )
    pixels, targets = batch(0, 61)
    for _ in range(2):
        for start, stop in batch_bounds(61, 12):
            own = rank_share(start, stop, rank, world_size)
            trained.train_step(pixels[own], targets[own], stop - start, world_size)
        trained.end_epoch(total)
    torch.save(trained.state_dict(), f"{folder}/{world_size}-{rank}.pt")


def test_two_workers_find_the_same_classes_alike_as_one(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    train_online(0, 1, str(tmp_path))
    torch.set_num_threads(threads)
    spawn(train_online, (2, str(tmp_path)), nprocs=2)
    one, *two = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    soft = one["online"]["soft"]
    torch.testing.assert_close(soft.sum(1), torch.ones(3))
    assert (soft - torch.eye(3)).abs().max() > 0.1
    assert torch.equal(two[0]["online"]["soft"], two[1]["online"]["soft"])
    torch.testing.assert_close(two[0]["online"]["soft"], soft, rtol=1e-4, atol=1e-5)


def test_one_cycle_of_a_single_step_is_made_at_the_peak() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    recipe = stage("stage1.epochs=1", "stage1.optimizer.lr=0.01")
    trained = StageLearner(model, recipe, PREPROCESSING, 3, steps_per_epoch=1, compute=COMPUTE)
    assert trained.learning_rate == 0.01
    assert np.isfinite(float(trained.train_step(*batch(0), global_batch=12)))


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
    ("losses", "accuracies", "patience", "stop"),
    [
        ([3, 2, 1], [0.9, 0.9, 0.9], 2, False),
        ([1, 2, 3], [0.9, 0.9, 0.9], 2, True),
        # Surer of its mistakes, and yet right more often.
        ([1, 2, 3], [0.8, 0.8, 0.9], 2, False),
        ([1, 2, 3, 3], [0.8, 0.9, 0.9, 0.8], 2, True),
        ([1, 2], [0.9, 0.8], 2, False),
        ([2, 1, 1, 1], [0.9] * 4, 3, False),
        ([2, 1, 1, 1, 1], [0.9] * 5, 3, True),
        ([1, 2, 3, 4, 5], [0.9] * 5, 0, False),
    ],
)
def test_early_stop(losses: list[float], accuracies: list[float], patience: int, stop: bool) -> None:
    assert early_stop(losses, accuracies, patience) is stop
