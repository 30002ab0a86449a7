"""Train a cascade: both stages by Ray Train, the nine pairs on validation, the best of them as a bundle."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from hiwl_core.backbones import create_backbone, spec
from hiwl_core.bundle import ModelBundle, StageModel, bundle_files
from hiwl_core.cutouts import Preprocessing
from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe, StageRecipe
from pipeline import storage
from pipeline.cluster import ClusterResources, connected
from pipeline.cutout_store import CutoutStore, LabelledShards, check_labelled, load_cutouts
from pipeline.pairs import StageCandidates, score_pairs
from pipeline.run_folder import Candidate, RunFolder
from pipeline.shards import Columns, fingerprint, list_shards
from pipeline.stage_worker import StageJob, say, train_stage

__all__ = ["TrainingResult", "train"]

BEST_KEPT = 3
STAGES = ("stage1", "stage2")


@dataclass(frozen=True)
class TrainingResult:
    """What a training made.

    Parameters
    ----------
    bundle : str
        Folder of the model bundle.
    pairs : pandas.DataFrame or None
        The scored pairs, best first; None if the run was complete before.
    seconds : float
        From the call to the bundle; of a resumed run, its last part.
    """

    bundle: str
    pairs: pd.DataFrame | None
    seconds: float


def train(
    data: str,
    val: str,
    recipe: Recipe,
    out: str,
    columns: Columns | None = None,
    workers: int | None = None,
    gpu: bool | None = None,
) -> TrainingResult:
    """Train both stages and bundle the pair that is best on validation.

    A run that was killed goes on from its last checkpoint when it is started again with the same arguments.

    Parameters
    ----------
    data, val : str
        Labelled shards to train on and to select by: a file, a folder or a glob.
    recipe : Recipe
    out : str
        The run folder; see `pipeline.run_folder`. On a cluster, storage that all nodes share.
    columns : Columns, optional
        What the columns of the shards are called.
    workers : int, optional
        Data-parallel workers; default: one a GPU, or one in all without GPUs.
    gpu : bool, optional
        Whether each worker takes a GPU; default: if the cluster has any now. An autoscaled cluster that
        starts GPU nodes on demand needs True, and `workers`.

    Raises
    ------
    UserError
        Before any work: for missing files, columns or classes, and for a run folder of another run.
    """
    started = time.monotonic()
    columns = columns or Columns()
    train_shards, val_shards = (
        check_labelled(list_shards(path), columns, recipe.taxonomy) for path in (data, val)
    )
    _check_classes(recipe, train_shards, val_shards)
    if (
        workers is not None
        and not 1 <= workers <= min(recipe.stage1.batch_size, recipe.stage2.batch_size) // 2
    ):
        raise UserError(
            f"--workers {workers}: a batch must hold two images for each worker, and one worker is least"
        )
    initial = {name: _initial_weights(recipe.stage(name)) for name in STAGES}
    folder = RunFolder(out)
    resumed = folder.claim(_description(recipe, train_shards, val_shards))
    if folder.is_bundled():
        return TrainingResult(folder.bundle, None, time.monotonic() - started)
    say(f"{'going on with' if resumed else 'starting'} the run in {folder.path}")

    # A training worker and its feed each take a slot.
    with connected(min_cpus=(workers or 1) + 1) as cluster:
        use_gpu = cluster.gpus > 0 if gpu is None else gpu
        preprocessing = {name: stage_preprocessing(recipe.stage(name)) for name in STAGES}
        stores = _load(recipe, train_shards, val_shards)
        candidates: dict[str, list[Candidate]] = {}
        for name in STAGES:
            weights = (
                candidates["stage1"][0].weights() if recipe.stage(name).init == "stage1" else initial[name]
            )
            job = StageJob(
                stage=name,
                recipe=recipe,
                preprocessing=preprocessing[name],
                train=stores["train"],
                val=stores["val"],
                initial_weights=weights,
                out=folder.path,
                feed_cpus=0.5,
            )
            candidates[name] = folder.finished_stage(name) or _fit(job, folder, cluster, workers, use_gpu)
        stages = {
            name: StageCandidates(recipe.stage(name).backbone, preprocessing[name], candidates[name])
            for name in STAGES
        }
        say(f"scoring {len(candidates['stage1'])} x {len(candidates['stage2'])} pairs on validation")
        frequencies = _member_frequencies(recipe, train_shards)
        pairs = score_pairs(recipe, stages, stores["val"], frequencies, num_gpus=1 if use_gpu else 0)
        folder.write_pairs(pairs)
        bundle = _bundle(recipe, stages, pairs, frequencies, train_shards, val_shards)
        for file, content in bundle_files(bundle).items():
            storage.write_bytes(f"{folder.bundle}/{file}", content)
    return TrainingResult(folder.bundle, pairs, time.monotonic() - started)


def stage_preprocessing(recipe: StageRecipe) -> Preprocessing:
    """What a stage does to a cutout at prediction, with the backbone's normalization if none is given."""
    entry = spec(recipe.backbone)
    return Preprocessing(
        recipe.center_crop, recipe.input_size, recipe.mean or entry.mean, recipe.std or entry.std
    )


def _initial_weights(recipe: StageRecipe) -> dict[str, torch.Tensor] | None:
    """ImageNet's or a file's weights, found before any work; None where a stage starts otherwise."""
    spec(recipe.backbone)
    if recipe.init in ("random", "stage1"):
        return None
    pretrained = True if recipe.init == "imagenet" else recipe.init
    return create_backbone(recipe.backbone, 2, pretrained, recipe.input_size).trunk.state_dict(
        prefix="trunk."
    )


def _check_classes(recipe: Recipe, labelled: LabelledShards, val: LabelledShards) -> None:
    missing = [name for name, count in labelled.class_counts.items() if count == 0]
    if missing:
        counts = ", ".join(f"{name} {count}" for name, count in labelled.class_counts.items())
        raise UserError(
            f"no training galaxy of class {', '.join(missing)} (there are {counts}): nothing to learn it from"
        )
    if not any(val.class_counts[name] for name in recipe.taxonomy.combined):
        members = " or ".join(recipe.taxonomy.combined)
        raise UserError(f"no validation galaxy of class {members}: stage 2 cannot be validated")


def _description(recipe: Recipe, train_shards: LabelledShards, val_shards: LabelledShards) -> dict[str, Any]:
    return {
        "recipe": recipe.to_dict(),
        "train": {shard.rsplit("/", 1)[-1]: fingerprint(shard) for shard in train_shards.shards},
        "val": {shard.rsplit("/", 1)[-1]: fingerprint(shard) for shard in val_shards.shards},
    }


def _load(recipe: Recipe, train_shards: LabelledShards, val_shards: LabelledShards) -> dict[str, CutoutStore]:
    stages = [recipe.stage(name) for name in STAGES]
    smallest = {
        "train": max(stage.augmentation.center_crop for stage in stages),
        "val": max(stage.center_crop for stage in stages),
    }
    stores = {}
    for part, labelled in (("train", train_shards), ("val", val_shards)):
        stores[part] = store = load_cutouts(labelled, recipe.taxonomy, smallest[part])
        left_out = {**store.left_out, **({"unlabelled": labelled.unlabelled} if labelled.unlabelled else {})}
        note = f"; left out: {', '.join(f'{n} {why}' for why, n in left_out.items())}" if left_out else ""
        counts = ", ".join(f"{name} {n}" for name, n in labelled.class_counts.items())
        say(f"{part}: {len(store.class_indices)} galaxies in {len(labelled.shards)} shards ({counts}){note}")
        if not len(store.class_indices):
            raise UserError(f"no readable cutout of {smallest[part]} px or more among the {part} shards")
    return stores


def _fit(
    job: StageJob, folder: RunFolder, cluster: ClusterResources, workers: int | None, gpu: bool
) -> list[Candidate]:
    """Train one stage, going on from its last checkpoint if there is one; returns the best, best first."""
    started = time.monotonic()
    trainer = TorchTrainer(
        train_stage,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers or max(1, cluster.gpus),
            use_gpu=gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if gpu else {})},
        ),
        run_config=RunConfig(
            name=job.stage,
            storage_path=folder.path,
            checkpoint_config=CheckpointConfig(
                num_to_keep=BEST_KEPT, checkpoint_score_attribute="val_accuracy", checkpoint_score_order="max"
            ),
            # A lost node or worker is a fault of the machine: retried from the last checkpoint, with a bound.
            failure_config=FailureConfig(max_failures=3),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    result = trainer.fit()
    # Ray keeps the latest checkpoint beside the best ones, to go on from.
    kept = sorted(result.best_checkpoints, key=lambda kept: (-kept[1]["val_accuracy"], kept[1]["epoch"]))[
        :BEST_KEPT
    ]
    candidates = [
        Candidate(
            int(metrics["epoch"]),
            float(metrics["val_accuracy"]),
            f"{folder.path}/{job.stage}/{str(checkpoint.path).rstrip('/').rsplit('/', 1)[-1]}",
        )
        for checkpoint, metrics in kept
    ]
    folder.finish_stage(job.stage, candidates, time.monotonic() - started)
    return candidates


def _member_frequencies(recipe: Recipe, labelled: LabelledShards) -> np.ndarray:
    counts = np.array(
        [labelled.class_counts[name] for name in recipe.taxonomy.stage2_classes], dtype=np.float64
    )
    return counts / counts.sum()


def _bundle(
    recipe: Recipe,
    stages: dict[str, StageCandidates],
    pairs: pd.DataFrame,
    frequencies: np.ndarray,
    train_shards: LabelledShards,
    val_shards: LabelledShards,
) -> ModelBundle:
    best = pairs.iloc[0]
    models = {}
    for name, stage in stages.items():
        candidate = next(c for c in stage.candidates if c.epoch == best[f"{name}_epoch"])
        models[name] = StageModel(
            stage.backbone, stage.preprocessing, recipe.stage(name).label_smoothing, candidate.weights()
        )
    return ModelBundle(
        taxonomy=recipe.taxonomy,
        stages=models,
        member_frequencies=frequencies,
        views=recipe.views,
        metrics={"validation": {name: round(float(value), 6) for name, value in best.items()}},
        provenance={
            **_description(recipe, train_shards, val_shards),
            "class_counts": train_shards.class_counts,
            "ray": ray.__version__,
        },
    )
