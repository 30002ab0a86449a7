"""A model bundle opened for explanation: its networks in eager PyTorch, asked by the stage that decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hiwl_core.backbones import spec
from hiwl_core.bundle import ModelBundle
from hiwl_core.cascade_stream import Image
from hiwl_core.cutouts import EvalTransform, Preprocessing, read_cutout
from hiwl_core.device import ComputePlan, choose_compute
from hiwl_core.errors import UserError
from hiwl_core.explanation.features import penultimate_features
from hiwl_core.explanation.gradcam import MIN_MAP_SIDE, explained_layer, heat_maps
from hiwl_core.explanation.heat_checks import HeatChecks, deletion_curves, likeness, shuffled_network
from hiwl_core.statuses import OK, STATUSES
from hiwl_core.taxonomy import FIRST_STAGE
from hiwl_core.views import MOST_VIEWS

__all__ = ["ExplainedModel", "HeatMap"]

DECODED_AT_ONCE = 256


class HeatMap(NamedTuple):
    """Where the stage that decides on a galaxy's class looks for it.

    Parameters
    ----------
    stage : str
        Such as ``"stage1"``.
    layer : str
        Of the stage's network; see `hiwl_core.explanation.gradcam.explained_layer`.
    cutout : numpy.ndarray of uint8, shape (side, side, 3)
        The part of the cutout that the stage sees, at the cutout's own resolution: for drawing.
    pixels : numpy.ndarray of uint8, shape (H, H, 3)
        The same part as the stage sees it.
    heat : numpy.ndarray of float32, shape (H, H)
        In [0, 1]; see `hiwl_core.explanation.gradcam.heat_maps`.
    """

    stage: str
    layer: str
    cutout: np.ndarray
    pixels: np.ndarray
    heat: np.ndarray


class ExplainedModel:
    """A model bundle whose networks can be asked why.

    A class is *owned* by the stage that tells it from its like: a member of a group by the group's stage, any
    other by stage 1; with a flat taxonomy all by stage 1.

    Parameters
    ----------
    bundle : ModelBundle
    compute : ComputePlan, optional
        Default: `hiwl_core.device.choose_compute`.

    Raises
    ------
    UserError
        If a backbone's package is missing or the weights do not fit.
    """

    def __init__(self, bundle: ModelBundle, compute: ComputePlan | None = None) -> None:
        self.taxonomy = bundle.taxonomy
        self._bundle, self._compute = bundle, compute or choose_compute()
        self._networks = {
            stage: bundle.stages[stage]
            .network(len(bundle.taxonomy.stage_classes(stage)))
            .to(self._compute.device)
            for stage in bundle.taxonomy.stages
        }

    def owners(self, class_indices: np.ndarray) -> np.ndarray:
        """The stage that owns each class.

        Parameters
        ----------
        class_indices : numpy.ndarray of int, shape (N,)
            Positions in the taxonomy's classes.

        Returns
        -------
        numpy.ndarray of str, shape (N,)
        """
        owners = np.array([self.taxonomy.owner(name) for name in self.taxonomy.classes])
        return np.asarray(owners[np.asarray(class_indices, dtype=np.int64)])

    def features(self, images: Sequence[Image]) -> np.ndarray:
        """Penultimate features of stage 1, which sees all galaxies: no class need be known.

        Parameters
        ----------
        images : sequence of bytes, Cutout or None, length N
            Encoded cutouts, as for `hiwl_core.inference.CascadeClassifier.classify`.

        Returns
        -------
        numpy.ndarray of float32, shape (N, W)

        Raises
        ------
        UserError
            If an image cannot be read; the message names its position.
        """
        return self._stage_features(FIRST_STAGE, images, np.arange(len(images)))

    def features_by_owner(self, images: Sequence[Image], class_indices: np.ndarray) -> np.ndarray:
        """Penultimate features of the stage that owns each galaxy's class.

        Which stage a galaxy's features come from is decided by its *true* class, which the model does not
        know at prediction: whether galaxies of different stages lie apart depends on how the features of two
        networks happen to differ, not on whether stage 1 tells them apart, and can favor the cascade.
        Compare models by `features`, which need no class.

        Parameters
        ----------
        images : sequence of bytes, Cutout or None, length N
        class_indices : numpy.ndarray of int, shape (N,)
            True classes, as positions in the taxonomy's classes.

        Returns
        -------
        numpy.ndarray of float32, shape (N, W)
            W of the widest stage; rows of the others end in zeros.

        Raises
        ------
        UserError
            If an image cannot be read; the message names its position.
        """
        owners = self.owners(class_indices)
        rows_of = {stage: np.flatnonzero(owners == stage) for stage in self._networks}
        features = {stage: self._stage_features(stage, images, rows) for stage, rows in rows_of.items()}
        together = np.zeros((len(images), max(part.shape[1] for part in features.values())), np.float32)
        for stage, part in features.items():
            together[rows_of[stage], : part.shape[1]] = part
        return together

    def heat_maps(
        self,
        images: Sequence[Image],
        class_indices: np.ndarray,
        min_side: int = MIN_MAP_SIDE,
        views: int = 8,
    ) -> list[HeatMap]:
        """Heat maps for the given classes, each by the stage that owns the class.

        Parameters
        ----------
        images : sequence of bytes, Cutout or None, length N
        class_indices : numpy.ndarray of int, shape (N,)
            The class that is explained, true or predicted, as a position in the taxonomy's classes.
        min_side : int
            See `hiwl_core.explanation.gradcam.explained_layer`.
        views : int
            Maps are averaged over so many flips and quarter turns. A galaxy has no up, so that each is as
            good an image of it, and the mean is free of the shift that strided layers give their maps.

        Returns
        -------
        list of HeatMap, length N

        Raises
        ------
        UserError
            If the package grad-cam is missing, or an image cannot be read; the message names its position.
        """
        owners = self.owners(class_indices)
        found: dict[int, HeatMap] = {}
        for stage, network in self._networks.items():
            rows = np.flatnonzero(owners == stage)
            if not rows.size:
                continue
            model = self._bundle.stages[stage]
            entry, preprocessing = spec(model.backbone), model.preprocessing
            side = preprocessing.center_crop
            unscaled = Preprocessing(side, side, preprocessing.mean, preprocessing.std)
            pixels, cutouts = self._decoded(images, rows, preprocessing, unscaled)
            targets = self.taxonomy.stage_targets(stage, np.asarray(class_indices)[rows])
            maps = heat_maps(network, entry, preprocessing, pixels, targets, min_side, views)
            layer = explained_layer(network, entry, preprocessing.input_size, min_side)
            for row, cutout, seen, heat in zip(rows.tolist(), cutouts, pixels, maps, strict=True):
                found[row] = HeatMap(stage, layer, cutout, seen, heat)
        return [found[row] for row in range(len(images))]

    def check_heat(
        self, found: Sequence[HeatMap], class_indices: np.ndarray, min_side: int = MIN_MAP_SIDE
    ) -> HeatChecks:
        """Whether heat maps of this model lie on what decides, and on what it has learned.

        Parameters
        ----------
        found : sequence of HeatMap, length N
            As `heat_maps` gives them, with the same `min_side` and of one view or more.
        class_indices : numpy.ndarray of int, shape (N,)
            The classes that they explain.
        min_side : int

        Returns
        -------
        HeatChecks
        """
        hottest, coldest, alike = (np.full(len(found), np.nan) for _ in range(3))
        for stage, network in self._networks.items():
            rows = np.array([row for row, one in enumerate(found) if one.stage == stage], dtype=int)
            if not rows.size:
                continue
            model = self._bundle.stages[stage]
            pixels, heat = (
                np.stack([getattr(found[row], key) for row in rows]) for key in ("pixels", "heat")
            )
            targets = self.taxonomy.stage_targets(stage, np.asarray(class_indices)[rows])
            for areas, order in ((hottest, heat), (coldest, -heat)):
                curves = deletion_curves(network, model.preprocessing, pixels, order, targets)
                areas[rows] = curves.mean(axis=1)
            shuffled = shuffled_network(network, seed=0)
            others = heat_maps(
                shuffled, spec(model.backbone), model.preprocessing, pixels, targets, min_side, MOST_VIEWS
            )
            alike[rows] = likeness(heat, others)
        return HeatChecks(hottest, coldest, alike)

    def _stage_features(self, stage: str, images: Sequence[Image], rows: np.ndarray) -> np.ndarray:
        """Features of the images at `rows`, of which a few at a time are in memory."""
        network, preprocessing = self._networks[stage], self._bundle.stages[stage].preprocessing
        parts = [np.empty((0, network.head.in_features), np.float32)]
        for start in range(0, len(rows), DECODED_AT_ONCE):
            (pixels,) = self._decoded(images, rows[start : start + DECODED_AT_ONCE], preprocessing)
            parts.append(penultimate_features(network, preprocessing, pixels, self._compute))
        return np.concatenate(parts)

    def _decoded(
        self, images: Sequence[Image], rows: np.ndarray, *preprocessings: Preprocessing
    ) -> list[np.ndarray]:
        """For each preprocessing the pixels of the images at `rows`, of shape (n, H, H, 3)."""
        transforms = [EvalTransform(one) for one in preprocessings]
        smallest = self._bundle.smallest_cutout
        decoded = []
        for row in rows.tolist():
            status, pixels = read_cutout(images[row], transforms, smallest, self._bundle.rgb)[:2]
            if status != OK:
                raise UserError(f"image {row} of {len(images)}: {STATUSES[status]}; leave it out")
            decoded.append(pixels)
        return [np.stack(of_one) for of_one in zip(*decoded, strict=True)]
