"""Where the networks look: heat maps of some galaxies of each class, as a figure and as tiles for a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from hiwl_core.decoding import Cutout
from pipeline.catalog.catalog_schema import TRUE_LABEL
from pipeline.pages.embedded_files import Picture, small_jpeg
from pipeline.pages.sky_viewers import SkyViewer, sky_viewers
from pipeline.reporting.finished_run import FinishedRun

if TYPE_CHECKING:  # packages that draw come with it
    from hiwl_core.explanation import ExplainedModel

__all__ = ["EXPLAINED_PER_CLASS", "Attention", "HeatedGalaxy", "encoded_images", "explain"]

EXPLAINED_PER_CLASS = 3
METHOD = "Grad-CAM"
PIXELS = 160


class HeatedGalaxy(NamedTuple):
    """A galaxy as the model sees it, and the heat map over it: JPEGs."""

    object_id: str
    galaxy: bytes
    heat: bytes
    viewers: Sequence[SkyViewer]


class Attention(NamedTuple):
    """Heat maps.

    Parameters
    ----------
    picture : Picture
        All in one figure, to save.
    tiles : dict of list of Tile
        By class, to look at.
    """

    picture: Picture
    tiles: dict[str, list[HeatedGalaxy]]


def explain(
    run: FinishedRun,
    model: ExplainedModel,
    explained: pd.DataFrame,
    pictures: Mapping[Any, Cutout | None],
) -> Attention:
    """Make the heat maps of some galaxies.

    Parameters
    ----------
    run : FinishedRun
    model : ExplainedModel
        Its bundle's.
    explained : pandas.DataFrame
        Rows of `pipeline.evaluation.galaxies.read_galaxies`.
    pictures : mapping of Cutout
        By index in the table.
    """
    from hiwl_core.figures import AttentionExample, draw_attention_grid, figure_files, heated

    labels = explained[TRUE_LABEL].tolist()
    maps = model.heat_maps(encoded_images(explained, pictures), run.taxonomy.encode(labels))
    ids = explained["object_id"].astype(str).tolist()
    examples = [
        AttentionExample(label, heat.cutout, {METHOD: heat}, caption=object_id)
        for label, heat, object_id in zip(labels, maps, ids, strict=True)
    ]
    figure = draw_attention_grid(examples, [METHOD], run.taxonomy.classes)
    tiles: dict[str, list[HeatedGalaxy]] = {name: [] for name in run.taxonomy.classes if name in labels}
    for label, heat, object_id, ra, dec in zip(
        labels, maps, ids, explained["ra"], explained["dec"], strict=True
    ):
        over = np.round(255 * np.clip(heated(heat), 0, 1)).astype(np.uint8)
        pair = [small_jpeg(Image.fromarray(pixels), PIXELS) for pixels in (heat.cutout, over)]
        tiles[label].append(HeatedGalaxy(object_id, pair[0], pair[1], sky_viewers(ra, dec)))
    return Attention(Picture.of_pixels("grad_cam", figure_files(figure, "grad_cam")), tiles)


def encoded_images(galaxies: pd.DataFrame, pictures: Mapping[Any, Cutout | None]) -> list[bytes]:
    """The encoded images of some galaxies, by their index in the table; empty where there is none."""
    cutouts = (pictures[index] for index in galaxies.index)
    return [(cutout and cutout.image) or b"" for cutout in cutouts]
