"""The paper's figures from the runs of a grid, and its confusion matrix as a heat map."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hiwl_core.explanation import ExplainedModel, HeatChecks, Separation, central_share, separation, tsne
from hiwl_core.published_results import TRAININGS
from hiwl_core.taxonomy import Taxonomy
from pipeline import storage
from pipeline.classification.shard_classifier import read_bundle
from pipeline.progress import say
from pipeline.reproduction.experiments import Request
from pipeline.reproduction.scores import ScoredPart
from pipeline.shards.labeled_sample import LabeledSample, TrainedOn, sample_labeled
from pipeline.training.checks import stage_preprocessing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PICTURES", "PictureInputs"]

# Of the training galaxies, as in the paper; of those that are scored no more either, for the time it takes.
EMBEDDED = 5000
SHOWN_PER_CLASS = 3

Picture = tuple["Figure", list[str]]
"""A figure, and what it shows in words."""


@dataclass(frozen=True)
class PictureInputs:
    """What a picture is made of.

    Parameters
    ----------
    request : Request
    runs : mapping of str
        Run folders of the first seed, by method.
    scored : ScoredPart
    """

    request: Request
    runs: Mapping[str, str]
    scored: ScoredPart

    def galaxies(
        self,
        shards: Sequence[str],
        count: int | None = None,
        per_class: int | None = None,
        trained_on: bool = False,
    ) -> LabeledSample:
        """Some galaxies, the same for the same seed, or some of those that the runs were trained on."""
        recipe = self.request.recipe
        stages = recipe.stages.values()
        trained_size = max(stage.augmentation.center_crop for stage in stages)
        taken = None
        if trained_on and recipe.train_galaxies:
            taken = TrainedOn(recipe.train_galaxies, trained_size)
        return sample_labeled(
            shards,
            self.request.options.columns,
            recipe.taxonomy,
            max(trained_size, *(stage.center_crop for stage in stages)),
            recipe.rgb,
            recipe.seed,
            count,
            per_class,
            taken,
            self.request.options.scale,
        )


def confusion_picture(inputs: PictureInputs) -> Picture:
    """Table 3 as a heat map."""
    from hiwl_core.figures import draw_confusion_heat_map

    taxonomy = inputs.request.recipe.taxonomy
    scores = inputs.scored.read(inputs.runs["hiwl"], taxonomy)
    title = f"HIWL on {len(scores.ids):,} {inputs.scored.name} galaxies"
    return draw_confusion_heat_map(scores.confusion, taxonomy.classes, title), []


def augmentation_picture(inputs: PictureInputs) -> Picture:
    """Figure 4: a spiral on its way through the train transform."""
    from hiwl_core.figures import draw_augmentation_steps

    recipe = inputs.request.recipe
    sample = inputs.galaxies(inputs.request.train_shards, per_class=1)
    # The last class: for Galaxy Zoo spirals, of which the rotation is easy to see.
    row = int(sample.class_indices.argmax())
    figure = draw_augmentation_steps(
        sample.images[row],
        recipe.stage1.augmentation,
        stage_preprocessing(recipe.stage1),
        recipe.seed,
        f"Galaxy {sample.ids[row]}",
        recipe.rgb,
    )
    return figure, []


def learning_picture(inputs: PictureInputs) -> Picture:
    """Figure 5: loss and accuracy of the stages by epoch."""
    from hiwl_core.figures import draw_learning_curves

    folder = inputs.runs["hiwl"]
    epochs, kept, sentences = {}, {}, []
    for stage in inputs.request.recipe.stages:
        if not storage.exists(f"{folder}/{stage}.json"):
            continue
        with storage.open_input(f"{folder}/{stage}_epochs.csv") as file:
            epochs[stage] = pd.read_csv(file)
        best = json.loads(storage.read_bytes(f"{folder}/{stage}.json"))["best"]
        kept[stage] = [candidate["epoch"] for candidate in best]
        ours = {candidate["epoch"]: candidate["accuracy"] for candidate in best}
        sentence = f"{stage}: {len(epochs[stage])} epochs, the best {_best_epochs(ours)}"
        if paper := TRAININGS.get(stage):
            sentence += f"; in the paper {paper.epochs} epochs, the best {_best_epochs(paper.best)}"
        sentences.append(f"{sentence}.")
    figure = draw_learning_curves(epochs, kept)
    return figure, sentences


def _best_epochs(accuracies: Mapping[int, float]) -> str:
    return ", ".join(f"{accuracy:.4f} (epoch {epoch})" for epoch, accuracy in sorted(accuracies.items()))


def embedding_picture(inputs: PictureInputs) -> Picture:
    """Figure 6: features of the plain network and of HIWL, each class by the stage that owns it."""
    from hiwl_core.figures import EmbeddingPanel, draw_embedding_map

    recipe, taxonomy = inputs.request.recipe, inputs.request.recipe.taxonomy
    # A recipe that is content with a sample shows no more.
    scored = min(EMBEDDED, recipe.val_galaxies or EMBEDDED)
    samples = {
        "training": inputs.galaxies(inputs.request.train_shards, EMBEDDED, trained_on=True),
        inputs.scored.name: inputs.galaxies(inputs.scored.shards, scored),
    }
    panels, sentences = [], []
    for method in ("plain", "hiwl"):
        model = ExplainedModel(read_bundle(f"{inputs.runs[method]}/bundle"))
        row = []
        for name, sample in samples.items():
            say(f"t-SNE of {len(sample.images):,} {name} galaxies, {method}")
            features = model.features_by_owner(sample.images, sample.class_indices)
            apart = separation(features, sample.class_indices)
            row.append(EmbeddingPanel(tsne(features, seed=recipe.seed), sample.class_indices, apart))
            sentences.append(f"{method}, {name}: {_separation(apart)}.")
            if method == "hiwl":
                of_stage1 = separation(model.features(sample.images), sample.class_indices)
                sentences.append(
                    f"hiwl, {name}, all by stage 1, which needs no true class: {_separation(of_stage1)}."
                )
        panels.append(row)
    figure = draw_embedding_map(panels, ["plain", "HIWL"], list(samples), taxonomy.classes)
    return figure, sentences


def attention_picture(inputs: PictureInputs) -> Picture:
    """Figure 7: where the plain network and HIWL look, for some galaxies of each class."""
    from hiwl_core.figures import AttentionExample, draw_attention_grid

    taxonomy = inputs.request.recipe.taxonomy
    sample = inputs.galaxies(inputs.scored.shards, per_class=SHOWN_PER_CLASS)
    maps, sentences = {}, []
    for method, name in (("plain", "plain"), ("hiwl", "HIWL")):
        model = ExplainedModel(read_bundle(f"{inputs.runs[method]}/bundle"))
        maps[name] = model.heat_maps(sample.images, sample.class_indices)
        # The stages' maps may differ in size.
        central = np.nanmean([central_share(one.heat[np.newaxis])[0] for one in maps[name]])
        checks = model.check_heat(maps[name], sample.class_indices)
        sentences.append(
            f"{name}: {central:.0%} of the heat is in the central quarter of the image; "
            f"{_heat_checks(checks, sample.class_indices, taxonomy)}."
        )
    examples = [
        AttentionExample(
            label=taxonomy.classes[index],
            cutout=maps["HIWL"][row].cutout,
            maps={name: of_model[row] for name, of_model in maps.items()},
            caption=identifier,
        )
        for row, (index, identifier) in enumerate(zip(sample.class_indices, sample.ids, strict=True))
    ]
    figure = draw_attention_grid(examples, list(maps), taxonomy.classes)
    return figure, sentences


PICTURES: dict[str, Callable[[PictureInputs], Picture]] = {
    "confusion": confusion_picture,
    "figure4": augmentation_picture,
    "figure5": learning_picture,
    "figure6": embedding_picture,
    "figure7": attention_picture,
}
"""By the kind of an experiment."""


def _heat_checks(checks: HeatChecks, class_indices: np.ndarray, taxonomy: Taxonomy) -> str:
    """The deletion curves by class, and how much the maps are those of a network that knows nothing."""
    areas = [
        f"{name} {checks.hottest_first[rows].mean():.2f} / {checks.coldest_first[rows].mean():.2f}"
        for index, name in enumerate(taxonomy.classes)
        if (rows := class_indices == index).any()
    ]
    return (
        "of the class's probability, while sky takes the place of the hottest / of the coldest pixels, there "
        f"remains {', '.join(areas)} on average; the rank correlation with the maps of shuffled weights is "
        f"{np.nanmedian(checks.random_likeness):.2f}"
    )


def _separation(apart: Separation) -> str:
    return f"neighbor purity {apart.purity:.3f}, silhouette {apart.silhouette:.3f}"
