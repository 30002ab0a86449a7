"""Train a cascade: its stages by Ray Train, the nine pairs on validation, the best of them as a bundle.

Without hierarchy the only stage is trained alike, and its candidates take the place of the pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from operator import call
from typing import Any

import numpy as np
import pandas as pd
import ray
import torch

from hiwl_core.bundle import ModelBundle, StageModel, bundle_files
from hiwl_core.recipe import Recipe
from hiwl_core.taxonomy import FIRST_STAGE
from pipeline import storage
from pipeline.classification.small_work import ThisProcess
from pipeline.cluster import ClusterResources, connected
from pipeline.in_notebooks import InNotebooks
from pipeline.lease import Lease
from pipeline.progress import say
from pipeline.relay import relayed_lines
from pipeline.shards.cutout_shards import CONTRACT_NAMES, Columns
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale
from pipeline.training.checks import (
    StageSetup,
    TrainingPlan,
    check_classes,
    initial_weights,
    plan_training,
    stage_preprocessing,
    stage_setup,
)
from pipeline.training.cutout_store import CutoutStore
from pipeline.training.finishing import finished
from pipeline.training.held_out import galaxies_of
from pipeline.training.leaks import check_apart, tell_shared
from pipeline.training.pairs import StageCandidates, score_pairs
from pipeline.training.run_folder import Candidate, RunFolder
from pipeline.training.small_training import is_small_training, small_training
from pipeline.training.stage_epochs import StageJob
from pipeline.training.stores import Stores, load_stores, sampled
from pipeline.training.tracking import WantedTracker, parse_trackers, tracked
from pipeline.waiting import waiting_lines

__all__ = ["TrainingResult", "run_training", "train"]


@dataclass(frozen=True)
class TrainingResult(InNotebooks):
    """What a training made.

    Parameters
    ----------
    bundle : str
        Folder of the model bundle.
    pairs : pandas.DataFrame or None
        The scored pairs of checkpoints, best first; None if the run was complete before.
    seconds : float
        From the call to the bundle; of a resumed run, its last part.
    selected_by : str
        The shards with the galaxies that it was selected by.
    """

    bundle: str
    pairs: pd.DataFrame | None
    seconds: float
    selected_by: str


def train(
    data: str,
    val: str | float,
    recipe: Recipe,
    out: str,
    columns: Columns = CONTRACT_NAMES,
    workers: int | None = None,
    gpu: bool | None = None,
    scale: WantedScale = AS_IT_IS,
    group_by: str | None = None,
    track: Sequence[str] = (),
) -> TrainingResult:
    """Train the recipe's stages and bundle the checkpoints that are best on validation.

    A run that was killed goes on from its last checkpoint when it is started again with the same arguments.

    Parameters
    ----------
    data : str
        Labeled shards to train on: a file, a folder or a glob.
    val : str or float
        Those to select by, or the share of each class of `data` that is held out for that, such as 0.1.
    recipe : Recipe
    out : str
        The run folder; see `pipeline.training.run_folder`. On a cluster, storage that all nodes share.
    columns : Columns
        What the columns of the shards are called.
    workers : int, optional
        Data-parallel workers; default: one a GPU with at least 32 images of each batch, or one in all.
    gpu : bool, optional
        Whether each worker takes a GPU; default: if the cluster has any now. An autoscaled cluster that
        starts GPU nodes on demand needs True, and `workers`.
    scale : WantedScale
        The pixel scale at which the model is to see galaxies, which the bundle keeps; default: the images as
        they are.
    group_by : str, optional
        A column of the shards whose equal values stay on one side where a share is held out, or ``sky``.
    track : sequence of str
        Who is told of each epoch: ``tensorboard`` or ``mlflow``, with a place behind a colon if it is not the
        usual one; see `pipeline.training.tracking`.

    Raises
    ------
    UserError
        Before any work: for missing files, columns or classes, for a shard to train on that is one to select
        by, and for a run folder of another run.
    IncompleteError
        If a stage failed again and again; its checkpoints are kept.
    """
    trackers = parse_trackers(track)
    plan = plan_training(data, val, recipe, out, columns, workers, scale=scale, group_by=group_by)
    if plan.held_out:
        _say_held_out(plan)
    elif not plan.begun:
        check_apart({"--data": plan.train}, "--val", plan.val)
    return run_training(plan, workers, gpu, track=trackers)


def _say_held_out(plan: TrainingPlan) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in plan.val.class_counts.items())
    say(
        f"held out of --data, to select by: {plan.val.galaxies:,} galaxies ({counts}), {plan.held_out}; "
        f"{plan.folder.path}/held_out.csv will name them"
    )
    none = [name for name, count in plan.val.class_counts.items() if not count]
    if none:
        say(f"warning: of {', '.join(none)} there are too few to hold one out: nothing is selected by them")
    if not plan.begun:
        tell_shared("those to train on", plan.train, "the held-out part", plan.val)


def run_training(
    plan: TrainingPlan,
    workers: int | None = None,
    gpu: bool | None = None,
    stores: Callable[[TrainingPlan], Stores] | None = None,
    track: Sequence[WantedTracker] = (),
) -> TrainingResult:
    """Do what was planned.

    Parameters
    ----------
    plan : TrainingPlan
    workers, gpu
        As `train`.
    stores : callable, optional
        Loads the cutouts of a plan, for who has trainings that share them; default: `load_stores`.
    track : sequence of WantedTracker
        Who is told of each epoch.

    Raises
    ------
    UserError, IncompleteError
        As `train`.
    """
    started, folder = time.monotonic(), plan.folder
    if folder.is_bundled():
        return TrainingResult(folder.bundle, None, time.monotonic() - started, plan.selected_by)
    with Lease(folder.path, "hiwl train", keep=False) as lease:
        # Another run may have begun here, or even ended, since this one was planned.
        plan = replace(plan, begun=folder.check(plan.description))
        if folder.is_bundled():
            return TrainingResult(folder.bundle, None, time.monotonic() - started, plan.selected_by)
        with tracked(track, plan) as tracking:
            pairs = _trained(plan, workers, gpu, stores, lease)
            tracking.finish(pairs)
    return TrainingResult(folder.bundle, pairs, time.monotonic() - started, plan.selected_by)


def _trained(
    plan: TrainingPlan,
    workers: int | None,
    gpu: bool | None,
    stores: Callable[[TrainingPlan], Stores] | None,
    lease: Lease,
) -> pd.DataFrame:
    """Train all stages and bundle the best in a folder that is this run's; the scored pairs."""
    recipe, folder = plan.recipe, plan.folder
    here = stores is None and is_small_training(plan, workers, gpu)
    with ExitStack() as stack:
        if here:
            cluster: ClusterResources = ThisProcess()
            small, relay = stack.enter_context(small_training()), None
        else:
            # A training worker and its feed each take a slot.
            slots = (workers or torch.cuda.device_count() or 1) + 1
            cluster = stack.enter_context(connected(min_cpus=slots))
            small, relay = None, stack.enter_context(relayed_lines())
        with waiting_lines(_waited_for):
            loaded = sampled(recipe, stores(plan) if stores else load_stores(plan, here))
        counts = {part: _class_counts(recipe, store) for part, store in loaded.items()}
        for part in loaded:
            check_classes(recipe, part, counts[part])
        setup = stage_setup(recipe, counts["train"], cluster, workers, gpu)
        held_out = galaxies_of(plan.val).to_pandas() if plan.held_out else None
        folder.claim(plan.description, plan.sources, held_out)
        say(f"{'going on with' if plan.begun else 'starting'} the run in {folder.path}")
        preprocessing = {name: stage_preprocessing(stage) for name, stage in recipe.stages.items()}
        candidates: dict[str, list[Candidate]] = {}
        for name, stage in recipe.stages.items():
            start = (
                candidates[FIRST_STAGE][0].weights()
                if stage.init == FIRST_STAGE
                else initial_weights(name, stage)
            )
            job = StageJob(
                stage=name,
                recipe=recipe,
                preprocessing=preprocessing[name],
                train=loaded["train"],
                val=loaded["val"],
                initial_weights=start,
                out=folder.path,
                relay=relay,
                stopped=small.stopped if small else None,
            )
            candidates[name] = folder.finished_stage(name) or (
                small.fit(job, folder) if small else _fit_on_ray(job, folder, setup)
            )
            lease.check()
        stages = {
            name: StageCandidates(stage.backbone, preprocessing[name], candidates[name])
            for name, stage in recipe.stages.items()
        }
        say(f"scoring {' x '.join(str(len(best)) for best in candidates.values())} checkpoints on validation")
        frequencies = recipe.taxonomy.member_frequencies(counts["train"])
        run = small.run if small else call
        pairs = run(score_pairs, recipe, stages, loaded["val"], frequencies, setup.gpu, counts["train"])
        folder.write_table("pairs.csv", pairs)
        provenance = {**plan.description, "class_counts": counts["train"], "ray": ray.__version__}
        bundle = replace(
            _bundle(recipe, stages, pairs, frequencies, provenance), scale=plan.train.scale.to_dict()
        )
        bundle = bundle.in_half() if recipe.weights == "float16" else bundle
        if recipe.finish != "none":
            bundle = run(finished, bundle, loaded["train"], loaded["val"], setup.gpu, relay)
        lease.check()
        for file, content in bundle_files(bundle).items():
            storage.write_bytes(f"{folder.bundle}/{file}", content)
    return pairs


def _fit_on_ray(job: StageJob, folder: RunFolder, setup: StageSetup) -> list[Candidate]:
    # Here, since Ray Train takes two seconds to import.
    from pipeline.training.stage_fit import fit_stage

    return fit_stage(job, folder, setup)


def _waited_for() -> list[str] | None:
    if not ray.is_initialized():
        return None
    has = ray.cluster_resources().get("CPU", 0)
    return [] if has else ["the cutouts are read as soon as there is a node: the cluster has no CPU"]


def _class_counts(recipe: Recipe, store: CutoutStore) -> dict[str, int]:
    """Readable galaxies of each class."""
    classes = recipe.taxonomy.classes
    counts = np.bincount(store.class_indices, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def _bundle(
    recipe: Recipe,
    stages: dict[str, StageCandidates],
    pairs: pd.DataFrame,
    frequencies: dict[str, np.ndarray],
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
        views=recipe.views if recipe.finish != "none" else recipe.most_views,
        rgb=recipe.rgb,
        metrics={"validation": {name: round(float(value), 6) for name, value in best.items()}},
        provenance=provenance,
    )
