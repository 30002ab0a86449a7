"""Train a cascade: its stages by Ray Train, the nine pairs on validation, the best of them as a bundle.

Without hierarchy the only stage is trained alike, and its candidates take the place of the pairs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch

from hiwl_core.backbones import create_backbone, spec
from hiwl_core.bundle import ModelBundle, StageModel, bundle_files
from hiwl_core.cutouts import Preprocessing
from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe, StageRecipe
from hiwl_core.sampling import batch_bounds
from pipeline import storage
from pipeline.cluster import ClusterResources, connected
from pipeline.relay import relayed_lines, say
from pipeline.shards.cutout_shards import Columns, fingerprint, list_shards
from pipeline.training.cutout_store import CutoutStore, LabeledShards, check_labeled, load_cutouts
from pipeline.training.pairs import StageCandidates, score_pairs
from pipeline.training.run_folder import Candidate, RunFolder
from pipeline.training.stage_fit import StageSetup, fit_stage
from pipeline.training.stage_worker import StageJob

__all__ = ["TrainingResult", "train"]

# Decoding feeds a worker with a fraction of a core; Ray's CPUs are slots, not cores.
FEED_CPUS = 0.5


@dataclass(frozen=True)
class TrainingResult:
    """What a training made.

    Parameters
    ----------
    bundle : str
        Folder of the model bundle.
    pairs : pandas.DataFrame or None
        The scored pairs of checkpoints, best first; None if the run was complete before.
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
    """Train the recipe's stages and bundle the checkpoints that are best on validation.

    A run that was killed goes on from its last checkpoint when it is started again with the same arguments.

    Parameters
    ----------
    data, val : str
        Labeled shards to train on and to select by: a file, a folder or a glob.
    recipe : Recipe
    out : str
        The run folder; see `pipeline.training.run_folder`. On a cluster, storage that all nodes share.
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
    IncompleteError
        If a stage failed again and again; its checkpoints are kept.
    """
    started = time.monotonic()
    columns = columns or Columns()
    train_shards, val_shards = (
        check_labeled(list_shards(path), columns, recipe.taxonomy) for path in (data, val)
    )
    for part, labeled in (("train", train_shards), ("val", val_shards)):
        _check_classes(recipe, part, labeled.class_counts)
    if workers is not None:
        _check_workers(recipe, train_shards.class_counts, workers)
    initial = {name: _initial_weights(stage) for name, stage in recipe.stages.items()}
    folder = RunFolder(out)
    description = _description(recipe, train_shards, val_shards)
    resumed = folder.check(description)
    if folder.is_bundled():
        return TrainingResult(folder.bundle, None, time.monotonic() - started)

    # A training worker and its feed each take a slot.
    slots = (workers or torch.cuda.device_count() or 1) + 1
    with connected(min_cpus=slots) as cluster, relayed_lines() as relay:
        setup = _setup(recipe, train_shards.class_counts, cluster, workers, gpu)
        stores = _load(recipe, train_shards, val_shards)
        counts = {part: _class_counts(recipe, store) for part, store in stores.items()}
        for part in stores:
            _check_classes(recipe, part, counts[part])
        folder.claim(description)
        say(f"{'going on with' if resumed else 'starting'} the run in {folder.path}")
        preprocessing = {name: stage_preprocessing(stage) for name, stage in recipe.stages.items()}
        candidates: dict[str, list[Candidate]] = {}
        for name, stage in recipe.stages.items():
            weights = candidates["stage1"][0].weights() if stage.init == "stage1" else initial[name]
            job = StageJob(
                stage=name,
                recipe=recipe,
                preprocessing=preprocessing[name],
                train=stores["train"],
                val=stores["val"],
                initial_weights=weights,
                out=folder.path,
                feed_cpus=FEED_CPUS,
                relay=relay,
            )
            candidates[name] = folder.finished_stage(name) or fit_stage(job, folder, setup)
        stages = {
            name: StageCandidates(stage.backbone, preprocessing[name], candidates[name])
            for name, stage in recipe.stages.items()
        }
        say(f"scoring {' x '.join(str(len(best)) for best in candidates.values())} checkpoints on validation")
        members = np.array([counts["train"][name] for name in recipe.taxonomy.stage2_classes], dtype=float)
        frequencies = members / members.sum()
        pairs = score_pairs(recipe, stages, stores["val"], frequencies, use_gpu=setup.gpu)
        folder.write_pairs(pairs)
        provenance = {**description, "class_counts": counts["train"], "ray": ray.__version__}
        bundle = _bundle(recipe, stages, pairs, frequencies, provenance)
        for file, content in bundle_files(bundle).items():
            storage.write_bytes(f"{folder.bundle}/{file}", content)
    return TrainingResult(folder.bundle, pairs, time.monotonic() - started)


def _setup(
    recipe: Recipe, counts: dict[str, int], cluster: ClusterResources, workers: int | None, gpu: bool | None
) -> StageSetup:
    gpu = cluster.gpus > 0 if gpu is None else gpu
    workers = workers or (max(1, cluster.gpus) if gpu else 1)
    _check_workers(recipe, counts, workers)
    # A cluster that has nothing yet is an autoscaled one, which will start what is asked for.
    if 0 < cluster.cpus < workers + FEED_CPUS:
        raise UserError(
            f"{workers} workers and the decoding of their images need {workers + 1} CPUs, the cluster has "
            f"{cluster.cpus}: give fewer --workers"
        )
    return StageSetup(workers, gpu)


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


def _check_classes(recipe: Recipe, part: str, counts: dict[str, int]) -> None:
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


def _check_workers(recipe: Recipe, counts: dict[str, int], workers: int) -> None:
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


def _class_counts(recipe: Recipe, store: CutoutStore) -> dict[str, int]:
    """Readable galaxies of each class."""
    classes = recipe.taxonomy.classes
    counts = np.bincount(store.class_indices, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _description(recipe: Recipe, train_shards: LabeledShards, val_shards: LabeledShards) -> dict[str, Any]:
    """What decides a run's result: another description is another run."""
    return {
        "recipe": recipe.to_dict(),
        "train": [fingerprint(shard) for shard in train_shards.shards],
        "val": [fingerprint(shard) for shard in val_shards.shards],
    }


def _load(recipe: Recipe, train_shards: LabeledShards, val_shards: LabeledShards) -> dict[str, CutoutStore]:
    stages = recipe.stages.values()
    smallest = {
        "train": max(stage.augmentation.center_crop for stage in stages),
        "val": max(stage.center_crop for stage in stages),
    }
    stores = {}
    for part, labeled in (("train", train_shards), ("val", val_shards)):
        stores[part] = store = load_cutouts(labeled, recipe.taxonomy, smallest[part], recipe.rgb)
        left_out = {**store.left_out, **({"unlabeled": labeled.unlabeled} if labeled.unlabeled else {})}
        note = f"; left out: {', '.join(f'{n} {why}' for why, n in left_out.items())}" if left_out else ""
        counts = ", ".join(f"{name} {n}" for name, n in labeled.class_counts.items())
        say(f"{part}: {len(store.class_indices)} galaxies in {len(labeled.shards)} shards ({counts}){note}")
        if not len(store.class_indices):
            raise UserError(f"no readable cutout of {smallest[part]} px or more among the {part} shards")
    return stores


def _bundle(
    recipe: Recipe,
    stages: dict[str, StageCandidates],
    pairs: pd.DataFrame,
    frequencies: np.ndarray,
    provenance: dict[str, Any],
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
        rgb=recipe.rgb,
        metrics={"validation": {name: round(float(value), 6) for name, value in best.items()}},
        provenance=provenance,
    )
