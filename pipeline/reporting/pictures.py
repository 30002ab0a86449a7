"""The figures of a report: learning curves, confusion, reliability, where networks look, a map of features.

Importing the packages that draw takes seconds, and not everyone has them: it is left to the functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hiwl_core.decoding import Cutout
from hiwl_core.errors import UserError
from hiwl_core.sampling import stratified_sample
from hiwl_core.taxonomy import Taxonomy
from pipeline.catalog.catalog_schema import TRUE_LABEL
from pipeline.evaluation.evaluate import Evaluation
from pipeline.evaluation.galaxies import scored
from pipeline.pages.embedded_files import Picture
from pipeline.progress import say
from pipeline.reporting.attention import EXPLAINED_PER_CLASS, Attention, encoded_images, explain
from pipeline.reporting.finished_run import FinishedRun

__all__ = ["Drawings", "Examples", "check_drawing", "choose_examples", "draw"]

# Imported as, installed as.
PACKAGES = {"matplotlib": "matplotlib", "sklearn": "scikit-learn", "pytorch_grad_cam": "grad-cam"}
MAPPED_GALAXIES = 1000
FEWEST_MAPPED = 12
SEED = 0


class Examples(NamedTuple):
    """Galaxies that stand for the others.

    Parameters
    ----------
    mapped : pandas.DataFrame
        A stratified sample, whose features are mapped.
    explained : pandas.DataFrame
        Some of each class, of which heat maps are made.
    """

    mapped: pd.DataFrame
    explained: pd.DataFrame


@dataclass(frozen=True)
class Drawings:
    """All figures of a report, and the numbers that belong to them.

    Parameters
    ----------
    learning_curves : dict of Picture
        By stage.
    confusion : Picture
    reliability : Picture or None
        None if nothing is known of the probabilities.
    attention : Attention
    embedding : Picture or None
        None if there are too few galaxies for a map.
    purity, silhouette : float
        How well the features set the classes apart; NaN without a map.
    examples : Examples
        Those that were drawn.
    tables : dict of bytes
        The points of the map as CSV, by file name.
    """

    learning_curves: dict[str, Picture]
    confusion: Picture
    reliability: Picture | None
    attention: Attention
    embedding: Picture | None
    purity: float
    silhouette: float
    examples: Examples
    tables: dict[str, bytes]

    def pictures(self) -> list[Picture]:
        """All of them."""
        drawn = [
            *self.learning_curves.values(),
            self.confusion,
            self.reliability,
            self.attention.picture,
            self.embedding,
        ]
        return [picture for picture in drawn if picture is not None]


def check_drawing() -> None:
    """Check that all packages that draw are there.

    Raises
    ------
    UserError
        Naming the one that is missing.
    """
    for module, package in PACKAGES.items():
        if find_spec(module) is None:
            raise UserError(f"figures need the package {package}: pip install 'hiwl[figures]'")


def choose_examples(galaxies: pd.DataFrame, taxonomy: Taxonomy) -> Examples:
    """Draw, always alike, the galaxies to map and to explain.

    Parameters
    ----------
    galaxies : pandas.DataFrame
        See `pipeline.evaluation.galaxies.read_galaxies`.
    taxonomy : Taxonomy
    """
    rows = scored(galaxies)
    truth = taxonomy.encode(rows[TRUE_LABEL].to_numpy())
    mapped = rows.iloc[stratified_sample(truth, MAPPED_GALAXIES, SEED)]
    shuffled = rows.sample(frac=1, random_state=SEED)
    # Of a class that the model rarely finds, the galaxies that it missed.
    right_first = shuffled.loc[(shuffled[TRUE_LABEL] != shuffled["label"]).sort_values(kind="stable").index]
    explained = right_first.groupby(TRUE_LABEL, sort=False).head(EXPLAINED_PER_CLASS)
    return Examples(mapped, explained)


def draw(
    run: FinishedRun, evaluation: Evaluation, examples: Examples, pictures: Mapping[Any, Cutout | None]
) -> Drawings:
    """Draw all figures.

    Parameters
    ----------
    run : FinishedRun
    evaluation : Evaluation
        Of its bundle.
    examples : Examples
    pictures : mapping of Cutout
        The cutouts of the examples, by index in the table of galaxies.
    """
    from hiwl_core.explanation import ExplainedModel, separation, tsne
    from hiwl_core.figures import EmbeddingPanel, draw_confusion_heat_map, draw_embedding_map, figure_files

    classes = run.taxonomy.classes
    model = ExplainedModel(run.bundle)
    say(f"heat maps of {len(examples.explained)} galaxies")
    attention = explain(run, model, examples.explained, pictures)
    embedding, purity, silhouette, tables = None, np.nan, np.nan, {}
    if len(examples.mapped) >= FEWEST_MAPPED:
        say(f"features of {len(examples.mapped):,} galaxies, and their map")
        features = model.features(encoded_images(examples.mapped, pictures))
        truth = run.taxonomy.encode(examples.mapped[TRUE_LABEL].to_numpy())
        points, apart = tsne(features, seed=SEED), separation(features, truth)
        purity, silhouette = apart.purity, apart.silhouette
        panel = EmbeddingPanel(points, truth, apart)
        figure = draw_embedding_map(
            [[panel]],
            ["features of stage 1" if run.taxonomy.groups else "features"],
            ["scored galaxies"],
            classes,
        )
        alt = (
            f"t-SNE map of the features of {len(truth):,} galaxies, colored by class; the purity of their "
            f"neighborhoods is {purity:.3f}"
        )
        embedding = Picture.drawn("feature_map", alt, figure_files(figure, "feature_map"))
        place = examples.mapped[["object_id", TRUE_LABEL, "label"]].assign(x=points[:, 0], y=points[:, 1])
        tables = {"feature_map.csv": place.to_csv(index=False, float_format="%.5g").encode()}
    heat_map = draw_confusion_heat_map(evaluation.confusion.to_numpy(), classes)
    return Drawings(
        learning_curves=_learning_curves(run),
        confusion=Picture.to_save(figure_files(heat_map, "confusion_matrix")),
        reliability=_reliability(evaluation),
        attention=attention,
        embedding=embedding,
        purity=float(purity),
        silhouette=float(silhouette),
        examples=examples,
        tables=tables,
    )


def _learning_curves(run: FinishedRun) -> dict[str, Picture]:
    """A figure a stage: side by side they would be too small for a phone."""
    from hiwl_core.figures import draw_learning_curves, figure_files

    pictures = {}
    for stage, epochs in run.epochs.items():
        title = stage.replace("stage", "Stage ")
        kept = sorted(candidate.epoch for candidate in run.kept[stage])
        best = epochs.iloc[int(epochs["val_accuracy"].to_numpy().argmax())]
        alt = (
            f"Loss and accuracy of {title.lower()} over {len(epochs)} epochs; its best "
            f"validation accuracy is {best['val_accuracy']:.4f}, in epoch {best['epoch']:.0f}; kept are the "
            f"epochs {', '.join(map(str, kept))}"
        )
        # An only stage needs no name.
        figure = draw_learning_curves({stage: epochs}, {stage: kept}, title if len(run.epochs) > 1 else "")
        name = f"{stage}_learning_curves"
        pictures[stage] = Picture.drawn(name, alt, figure_files(figure, name))
    return pictures


def _reliability(evaluation: Evaluation) -> Picture | None:
    from hiwl_core.figures import figure_files
    from hiwl_core.figures.reliability_diagram import draw_reliability_diagram

    scores = evaluation.probabilities.scores
    if scores is None:
        return None
    figure = draw_reliability_diagram(scores.curves)
    return Picture.to_save(figure_files(figure, "reliability"))
