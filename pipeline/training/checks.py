"""What is checked before a training begins: data, classes, weights, workers, and the folder it is to fill."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from hiwl_core.backbones import create_backbone, load_weights, spec
from hiwl_core.box import box_models
from hiwl_core.cutouts import Preprocessing
from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe
from hiwl_core.recipe_sections import StageRecipe
from hiwl_core.sampling import batch_bounds
from hiwl_core.taxonomy import FIRST_STAGE
from pipeline import storage
from pipeline.classification.shard_classifier import read_bundle
from pipeline.cluster import ClusterResources
from pipeline.progress import say
from pipeline.shards.cutout_shards import CONTRACT_NAMES, Columns, list_shards
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale
from pipeline.training.feed import FEED_CPUS
from pipeline.training.held_out import HeldOut
from pipeline.training.labeled_shards import LabeledShards, check_labeled
from pipeline.training.run_folder import RunFolder

__all__ = [
    "StageSetup",
    "TrainingPlan",
    "check_classes",
    "check_workers",
    "default_workers",
    "initial_weights",
    "plan_training",
    "stage_preprocessing",
    "stage_setup",
]

# Before the path or the name of a model bundle whose weights a stage starts from.
BUNDLE = "bundle:"
# Of each batch on a GPU: batch normalization of fewer is another method, and the GPU idles between steps.
IMAGES_A_GPU = 32


@dataclass(frozen=True)
class TrainingPlan:
    """A training that was checked and can begin, or go on.

    Parameters
    ----------
    recipe : Recipe
    train, val : LabeledShards
    folder : RunFolder
    description : dict
        What decides the run's result.
    sources : dict
        Where its data are and what their columns are called, for those who look at the run later.
    begun : bool
        Whether the folder holds this run already.
    selected_by : str
        The shards of `val`, as they were given.
    held_out : HeldOut, optional
        How `val` was taken from the shards of `train`, if it was.
    """

    recipe: Recipe
    train: LabeledShards
    val: LabeledShards
    folder: RunFolder
    description: dict[str, Any]
    sources: dict[str, Any]
    begun: bool
    selected_by: str
    held_out: HeldOut | None = None


def plan_training(
    data: str,
    val: str | float,
    recipe: Recipe,
    out: str,
    columns: Columns = CONTRACT_NAMES,
    workers: int | None = None,
    labeled: tuple[LabeledShards, LabeledShards] | None = None,
    scale: WantedScale = AS_IT_IS,
    group_by: str | None = None,
) -> TrainingPlan:
    """Check all that can be checked before any work.

    Parameters
    ----------
    data, val, recipe, out, columns, workers, scale, group_by
        As `pipeline.training.train.train`.
    labeled : (LabeledShards, LabeledShards), optional
        Those of `data` and `val`, for who plans many trainings on the same shards and has read them once.

    Raises
    ------
    UserError
        As `pipeline.training.train.train`.
    """
    held_out = HeldOut.parse(val, recipe.seed, group_by)
    if labeled is not None:
        train_shards, val_shards = labeled
    else:
        train_shards = check_labeled(list_shards(data), columns, recipe.taxonomy, scale)
        if held_out is not None:
            train_shards, val_shards = held_out.apart(train_shards)
        else:
            val_shards = check_labeled(list_shards(str(val)), columns, recipe.taxonomy, scale)
    for part, shards in (("train", train_shards), ("val", val_shards)):
        check_classes(recipe, part, shards.class_counts)
    if workers is not None:
        check_workers(recipe, train_shards.class_counts, workers)
    for name, stage in recipe.stages.items():
        _check_weights(name, stage.backbone, stage.init, stage.input_size)
    folder = RunFolder(out)
    description = _description(recipe, train_shards, val_shards, held_out)
    selected_by = str(val) if held_out is None else data
    places = {"data": storage.absolute(data), "val": storage.absolute(selected_by)}
    return TrainingPlan(
        recipe=recipe,
        train=train_shards,
        val=val_shards,
        folder=folder,
        description=description,
        sources={**places, "columns": asdict(columns)},
        begun=folder.check(description),
        selected_by=selected_by,
        held_out=held_out,
    )


def stage_preprocessing(recipe: StageRecipe) -> Preprocessing:
    """What a stage does to a cutout at prediction, with the backbone's normalization if none is given."""
    entry = spec(recipe.backbone)
    return Preprocessing(
        recipe.center_crop, recipe.input_size, recipe.mean or entry.mean, recipe.std or entry.std
    )


def initial_weights(name: str, recipe: StageRecipe) -> dict[str, torch.Tensor] | None:
    """Weights of a stage's trunk: ImageNet's, a file's or a model bundle's; None where it starts otherwise.

    Parameters
    ----------
    name : str
        Of the stage.
    recipe : StageRecipe

    Raises
    ------
    UserError
        If they are out of reach or do not fit.
    """
    if recipe.init in ("random", FIRST_STAGE):
        return None
    return _given_weights(name, recipe.backbone, recipe.init, recipe.input_size)


def _given_weights(name: str, backbone: str, init: str, input_size: int) -> dict[str, torch.Tensor]:
    if init.startswith(BUNDLE) or init in box_models():
        return _weights_of_bundle(name, backbone, init.removeprefix(BUNDLE), input_size)
    network = create_backbone(backbone, 2, True if init == "imagenet" else init, input_size)
    return network.trunk.state_dict(prefix="trunk.")


def _weights_of_bundle(name: str, backbone: str, path: str, input_size: int) -> dict[str, torch.Tensor]:
    """The trunk of a trained model's stage of the same name, or of its only stage."""
    bundle = read_bundle(path)
    stage = bundle.stages.get(name) or bundle.stages[FIRST_STAGE]
    if stage.backbone != backbone:
        raise UserError(
            f"{name}.init: the model {path!r} has the backbone {stage.backbone!r}, not {backbone!r}; set "
            f"{name}.backbone={stage.backbone}, or start from other weights"
        )
    network = create_backbone(backbone, 2, input_size=input_size)
    load_weights(network, {key: tensor.float() for key, tensor in stage.weights.items()}, source=path)
    return network.trunk.state_dict(prefix="trunk.")


@cache
def _check_weights(name: str, backbone: str, init: str, input_size: int) -> None:
    """Find out before any work whether weights can be had, once for all trainings that start from them."""
    if init not in ("random", FIRST_STAGE):
        _given_weights(name, backbone, init, input_size)


def check_classes(recipe: Recipe, part: str, counts: dict[str, int]) -> None:
    """Each class needs galaxies to learn from, each stage some to be validated on."""
    taxonomy = recipe.taxonomy
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    if part == "train" and not all(counts.values()):
        missing = ", ".join(name for name, count in counts.items() if not count)
        raise UserError(
            f"no training galaxy of class {missing} (there are {listed}): nothing to learn it from"
        )
    for stage in taxonomy.stages:
        seen = taxonomy.classes_seen(stage)
        if part == "val" and not any(counts[name] for name in seen):
            raise UserError(
                f"no validation galaxy of class {' or '.join(seen)} (there are {listed}): {stage} needs some"
            )


def default_workers(recipe: Recipe, gpus: int) -> int:
    """Data-parallel workers where nobody says how many: one a GPU, with enough images of each batch.

    The global batch is the recipe's, whatever the number; each worker gets its part of it.

    Parameters
    ----------
    recipe : Recipe
    gpus : int
        That the cluster has; 0 where the CPU trains.
    """
    batch = min(stage.batch_size for stage in recipe.stages.values())
    return max(1, min(gpus, batch // IMAGES_A_GPU))


def check_workers(recipe: Recipe, counts: dict[str, int], workers: int) -> None:
    """Each worker needs two images of each batch, or batch normalization has nothing to normalize by."""
    taxonomy = recipe.taxonomy
    smallest = min(
        stop - start
        for name, stage in recipe.stages.items()
        for start, stop in batch_bounds(
            sum(counts[seen] for seen in taxonomy.classes_seen(name)), stage.batch_size
        )
    )
    if workers < 1 or smallest < 2 * workers:
        raise UserError(
            f"--workers {workers}: the smallest batch has {smallest} images, which is enough for "
            f"{smallest // 2} workers with two images each; give fewer workers or a larger batch_size"
        )


def _description(
    recipe: Recipe, train_shards: LabeledShards, val_shards: LabeledShards, held_out: HeldOut | None
) -> dict[str, Any]:
    """What decides a run's result: another description is another run."""
    counts = {"train": train_shards.galaxies, "val": val_shards.galaxies}
    return {
        "recipe": recipe.to_dict(),
        "train": list(train_shards.fingerprints),
        "val": list(val_shards.fingerprints),
        **({"held_out": {**held_out.describe(), "galaxies": counts}} if held_out else {}),
        **({"scale": train_shards.scale.to_dict()} if train_shards.scale.asked else {}),
    }


@dataclass(frozen=True)
class StageSetup:
    """How many workers train, and on what."""

    workers: int
    gpu: bool

    @property
    def resources(self) -> dict[str, float]:
        """What each takes, by Ray's names."""
        return {"CPU": 1.0, **({"GPU": 1.0} if self.gpu else {})}


def stage_setup(
    recipe: Recipe, counts: dict[str, int], cluster: ClusterResources, workers: int | None, gpu: bool | None
) -> StageSetup:
    """How many workers train a recipe, and whether on GPUs.

    Parameters
    ----------
    recipe : Recipe
    counts : dict of int
        Training galaxies of each class.
    cluster : ClusterResources
    workers, gpu
        As asked for.

    Raises
    ------
    UserError
        If there are too few CPUs, or images in a batch, for so many.
    """
    gpu = cluster.takes_gpus(gpu)
    if not workers:
        workers = default_workers(recipe, cluster.gpus if gpu else 0)
        if gpu and workers < cluster.gpus:
            say(
                f"{workers} of {cluster.gpus} GPUs: more would have too few images of each batch for batch "
                "normalization; a larger batch_size uses more, or --workers"
            )
    check_workers(recipe, counts, workers)
    # A cluster that has nothing yet is an autoscaled one, which will start what is asked for.
    if 0 < cluster.cpus < workers + FEED_CPUS:
        raise UserError(
            f"{workers} workers and the decoding of their images need {workers + 1} CPUs, the cluster has "
            f"{cluster.cpus}: give fewer --workers"
        )
    return StageSetup(workers, gpu)
