"""What a run was: its method, networks, data, machine and time, in words for a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from hiwl_core.methods import method_name
from hiwl_core.recipe import Recipe
from hiwl_core.recipe_sections import StageRecipe
from hiwl_core.taxonomy import FIRST_STAGE
from pipeline.pages.numbers import duration, percent
from pipeline.reporting.finished_run import FinishedRun

__all__ = [
    "ClassFacts",
    "Headline",
    "class_facts",
    "headline",
    "run_facts",
    "stage_settings",
    "tiles",
    "which_data",
]

# What the paper calls the method that each set of switches makes.
METHOD_WORDS = {
    "hiwl": "HIWL: hierarchy, weighted sampling after stage 1, label smoothing",
    "slwslm": "SLWSLM: one network for all classes, weighted sampling, label smoothing",
    "unweighted": "Hierarchy and label smoothing, without weighted sampling",
    "hmws": "HMWS: hierarchy, weighted sampling after stage 1, no label smoothing",
    "plain": "One network for all classes, plain sampling, no label smoothing",
    "similarity": "HIWL, smoothed by the likeness of the classes",
    "online": "HIWL, smoothed by what the network takes for alike",
}


class Headline(NamedTuple):
    """A headline figure."""

    name: str
    value: str
    note: str


class ClassFacts(NamedTuple):
    """A class and its galaxies."""

    name: str
    description: str
    trained: int
    scored: int


def headline(run: FinishedRun) -> str:
    """Method and networks in a line."""
    backbones = dict.fromkeys(
        f"{stage.backbone} at {stage.input_size} px" for stage in run.recipe.stages.values()
    )
    method = method_name(run.recipe)
    return f"{METHOD_WORDS[method] if method else 'Switches of its own'}; {' and '.join(backbones)}"


def tiles(run: FinishedRun, metrics: pd.DataFrame) -> list[Headline]:
    """The figures to look at first.

    Parameters
    ----------
    run : FinishedRun
    metrics : pandas.DataFrame
        See `hiwl_core.metrics.class_table`.
    """
    rarest = run.rarest_class
    wanted = {
        f"Accuracy, {len(run.taxonomy.classes)} classes": ("all", "accuracy"),
        "Mean recall of the classes": ("average", "recall"),
        f"Recall of {rarest}, the rarest class": (rarest, "recall"),
    }
    rows = {(row["class"], row["metric"]): row for row in metrics.to_dict("records")}
    found = []
    for name, key in wanted.items():
        figure = rows[key]
        if np.isnan(figure["value"]):
            found.append(Headline(name, "–", "no galaxy of it was scored"))
        else:
            low, high = percent(figure["low"]).removesuffix(" %"), percent(figure["high"])
            found.append(Headline(name, percent(figure["value"]), f"95 % interval {low} to {high}"))
    return found


def run_facts(run: FinishedRun, scored: int, fingerprints: Sequence[str]) -> dict[str, str]:
    """What was trained, on what, how long, and with which libraries, by the name of the fact.

    Parameters
    ----------
    run : FinishedRun
    scored : int
        Galaxies that were scored.
    fingerprints : sequence of str
        Of their shards.
    """
    recipe, provenance = run.recipe, run.bundle.provenance
    method = method_name(recipe)
    count = sum(run.class_counts.values())
    trained = f"{count:,} galaxies"
    if recipe.train_galaxies == count:
        trained += ", a stratified sample"
    known = f" {scored:,}" if set(fingerprints) == set(run.fingerprints["val"]) else ""
    if recipe.val_galaxies and (not known or recipe.val_galaxies < scored):
        selected = f"a stratified sample of {recipe.val_galaxies:,} of the{known} galaxies"
    else:
        selected = f"all{known} galaxies"
    selected += f" held out of them: {run.held_out}" if run.held_out else " of the validation shards"
    machines = dict.fromkeys(
        f"{compute}, {workers} worker{'s' if workers > 1 else ''}"
        for epochs in run.epochs.values()
        for compute, workers in zip(epochs["compute"], epochs["workers"], strict=True)
    )
    versions = {**provenance.get("versions", {}), "ray": provenance.get("ray", "")}
    return {
        "Recipe": f"{recipe.name}: {recipe.description}",
        "Method": f"{method} ({METHOD_WORDS[method]})" if method else "none by name; see its settings below",
        "Trained on": trained + _from(run, "data"),
        "Selected by": selected + ("" if run.held_out else _from(run, "val")),
        "Seed": str(recipe.seed),
        "Views at prediction": str(recipe.views),
        "Compute": "; ".join(machines),
        "Time": f"{duration(run.seconds)} for the epochs",
        "Libraries": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "Model": run.bundle.model_id,
        "Run folder": run.path,
    }


def stage_settings(recipe: Recipe) -> dict[str, list[str]]:
    """How each stage is trained: a line a setting, a value a stage, or a single one if all have the same."""
    stages = list(recipe.stages.values())
    settings: dict[str, list[str]] = {
        "Backbone": [stage.backbone for stage in stages],
        "Starts from": [{FIRST_STAGE: "stage 1's weights"}.get(stage.init, stage.init) for stage in stages],
        "Input": [f"{stage.input_size} px, from the central {stage.center_crop} px" for stage in stages],
        "Epochs at most": [f"{stage.epochs}{_patience(stage)}" for stage in stages],
        "Batch": [str(stage.batch_size) for stage in stages],
        "Sampling": [stage.sampling for stage in stages],
        "Label smoothing": [_smoothing(stage) for stage in stages],
        "Optimizer": [_optimizer(stage) for stage in stages],
        "Averaged weights": [
            f"over {100 * stage.ema_memory:g} % of the steps" if stage.ema_memory else "none"
            for stage in stages
        ],
        "Random crop": [
            f"{_span(crop.scale)} of the area of the central {crop.center_crop} px, aspect ratio "
            f"{_span(crop.aspect_ratio)}"
            for crop in (stage.augmentation for stage in stages)
        ],
        "Turned, flipped": [
            f"±{stage.augmentation.rotation:g}°, {stage.augmentation.horizontal_flip:g} and "
            f"{stage.augmentation.vertical_flip:g}"
            for stage in stages
        ],
    }
    return {name: values if len({*values}) > 1 else values[:1] for name, values in settings.items()}


def class_facts(run: FinishedRun, confusion: pd.DataFrame) -> list[ClassFacts]:
    """The classes with their galaxies in training and among the scored ones."""
    taxonomy = run.taxonomy
    descriptions = taxonomy.descriptions or ("",) * len(taxonomy.classes)
    scored = confusion.sum(axis=1)
    return [
        ClassFacts(name, words, run.class_counts[name], int(scored[name]))
        for name, words in zip(taxonomy.classes, descriptions, strict=True)
    ]


def which_data(run: FinishedRun, scored: int, fingerprints: Sequence[str]) -> str:
    """What the scored galaxies were to the run, which decides how far its figures can be trusted.

    Parameters
    ----------
    run : FinishedRun
    scored : int
        Galaxies that were scored.
    fingerprints : sequence of str
        Of their shards.
    """
    shards, chosen_by = set(fingerprints), set(run.fingerprints["val"])
    if shards & set(run.fingerprints["train"]) and not (run.held_out and shards == chosen_by):
        return "Among them are galaxies that the model was trained on: the figures say nothing of others."
    if shards == chosen_by and scored <= (run.recipe.val_galaxies or scored):
        return (
            "These are the galaxies that the epochs were chosen by, which flatters the model a little: what "
            "it is worth is known from test data, named with --val."
        )
    if shards & chosen_by:
        return "Some of them are galaxies that the epochs were chosen by, which flatters the model a little."
    return "These shards are not those of the training, nor those that the epochs were chosen by."


def _from(run: FinishedRun, part: str) -> str:
    return f", {run.sources[part]}" if part in run.sources else ""


def _patience(stage: StageRecipe) -> str:
    return (
        f", fewer after {stage.patience} without a lower loss or a higher accuracy" if stage.patience else ""
    )


def _smoothing(stage: StageRecipe) -> str:
    if not stage.label_smoothing and stage.smoothing != "online":
        return "none"
    extra = {"similarity": f", β {stage.similarity_beta:g}", "online": f", α {stage.online_alpha:g}"}
    return f"{stage.label_smoothing:g}, {stage.smoothing}{extra.get(stage.smoothing, '')}"


def _optimizer(stage: StageRecipe) -> str:
    how = stage.optimizer
    schedule = how.schedule.replace("_", " ")
    return f"{how.name}, {schedule}, learning rate {how.lr:g}, weight decay {how.weight_decay:g}"


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"
