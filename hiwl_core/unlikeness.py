"""How unlike the training galaxies is an image? By a density of features and pixel statistics.

A network answers whatever it is shown, and its probabilities do not tell a star from a galaxy. So the
training galaxies are described by a normal distribution for each of stage 1's classes (as by Lee et al. 2018,
NeurIPS 31, 7167, who share one covariance): of the first principal components of the penultimate features,
of what is left of these, and of the statistics of `hiwl_core.pixel_statistics`. The score is minus the
logarithm of the mixture's density, scaled: 0 for the median validation galaxy, and 1 at the threshold. It
finds more simulated outliers than distances between features do, since a network that tells classes apart
need not see what these have in common; `benchmarks/unlikeness.py` measures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from hiwl_core.defects import DefectLimits
from hiwl_core.errors import UserError
from hiwl_core.pixel_statistics import STATISTICS, pixel_statistics

__all__ = ["Unlikeness"]

AXES = 32
# Galaxies for each principal component, at least.
GALAXIES_AN_AXIS = 20
# The covariance that the classes share counts as much as that of so many of a class's galaxies a dimension.
SHRINKAGE = 5.0
# Added to variances of one, since no direction is known better than that.
RIDGE = 0.01


@dataclass(frozen=True, eq=False)
class Unlikeness:
    """The training galaxies' density, and from where on an image is unlike them.

    `fit` makes one. With F features, A components and D = A + 33 dimensions:

    Parameters
    ----------
    center : numpy.ndarray of float32, shape (F,)
        Mean of the features.
    axes : numpy.ndarray of float16, shape (F, A)
        Orthonormal, the first principal components.
    location, spread : numpy.ndarray of float32, shape (D,)
        Mean and standard deviation of each dimension.
    whitening : numpy.ndarray of float32, shape (K, D, D)
        For each class, makes the standardized dimensions independent and of variance one.
    class_means : numpy.ndarray of float32, shape (K, D)
        Of the whitened dimensions.
    log_weights : numpy.ndarray of float32, shape (K,)
        Logarithm of each class's share and of the whitening's determinant.
    scale : numpy.ndarray of float32, shape (2,)
        Minus the log density of the median validation galaxy, and how much more it is at the threshold.
    limits : numpy.ndarray of float32, shape (6,)
        See `hiwl_core.defects.DefectLimits`.

    An image whose score is above `threshold` is unlike the training galaxies.
    """

    threshold: ClassVar[float] = 1.0
    center: np.ndarray
    axes: np.ndarray
    location: np.ndarray
    spread: np.ndarray
    whitening: np.ndarray
    class_means: np.ndarray
    log_weights: np.ndarray
    scale: np.ndarray
    limits: np.ndarray

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        statistics: np.ndarray,
        targets: np.ndarray,
        validation_features: np.ndarray,
        validation_pixels: np.ndarray,
        false_alarms: float = 0.01,
    ) -> Unlikeness:
        """The density of training galaxies; threshold and limits by validation galaxies.

        Parameters
        ----------
        features : numpy.ndarray of float32, shape (N, F)
            Stage 1's penultimate features of training galaxies, seen as they are; a few thousand are enough.
        statistics : numpy.ndarray of float32, shape (N, 32)
            `hiwl_core.pixel_statistics.pixel_statistics` of what stage 1 saw.
        targets : numpy.ndarray of int, shape (N,)
            Classes of stage 1.
        validation_features, validation_pixels : numpy.ndarray, shapes (M, F) and (M, S, S, 3)
            Features as above, and what stage 1 saw, uint8.
        false_alarms : float
            Share of galaxies like those of validation whose score may exceed the threshold, on average. With
            fewer than ``1 / false_alarms`` of them the threshold is the highest score among them.

        Raises
        ------
        UserError
            If lengths do not agree, a part has fewer than two galaxies, or a feature is not finite.
        """
        if not 0 < false_alarms < 1:
            raise UserError(f"false_alarms {false_alarms}: it must be a share between 0 and 1, such as 0.01")
        _check("training", features, statistics=statistics, targets=targets)
        _check("validation", validation_features, pixels=validation_pixels)
        # Here, since importing it takes a moment, which those who only score should not wait for.
        from scipy.linalg import eigh, solve_triangular

        features = features.astype(np.float64)
        center, wide = features.mean(axis=0), features.shape[1]
        count = min(AXES, max(1, len(features) // GALAXIES_AN_AXIS), wide)
        axes = eigh(np.cov(features.T), subset_by_index=[wide - count, wide - 1])[1].astype(np.float16)
        described = _dimensions(features, statistics, center, axes)
        location, spread = described.mean(axis=0), described.std(axis=0) + 1e-6
        standard = (described - location) / spread
        classes = np.unique(targets)
        means = np.stack([standard[targets == one].mean(axis=0) for one in classes])
        residuals = standard - means[np.searchsorted(classes, targets)]
        shared = np.cov(residuals.T)
        whitening, log_weights = [], []
        for one in classes:
            own = residuals[targets == one]
            trust = len(own) / (len(own) + SHRINKAGE * standard.shape[1])
            covariance = trust * (own.T @ own) / len(own) + (1 - trust) * shared
            root = np.linalg.cholesky(covariance + RIDGE * np.eye(len(shared)))
            whitening.append(solve_triangular(root, np.eye(len(root)), lower=True).T)
            log_weights.append(math.log(len(own) / len(targets)) - np.log(np.diag(root)).sum())
        model = cls(
            center=center.astype(np.float32),
            axes=axes,
            location=location.astype(np.float32),
            spread=spread.astype(np.float32),
            whitening=np.array(whitening, np.float32),
            class_means=np.einsum("kd,kde->ke", means, np.array(whitening)).astype(np.float32),
            log_weights=np.array(log_weights, np.float32),
            scale=np.array([0, 1], np.float32),
            limits=DefectLimits.fit(validation_pixels, false_alarms / 10).to_array(),
        )
        return model._scaled(model._surprise(validation_features, validation_pixels), false_alarms)

    def _scaled(self, surprise: np.ndarray, false_alarms: float) -> Unlikeness:
        ranked = np.sort(surprise)
        # A further galaxy exceeds this rank with that probability (Vovk et al. 2005, conformal prediction).
        rank = min(len(ranked), math.ceil((1 - false_alarms) * (len(ranked) + 1)))
        median = np.median(ranked)
        # A galaxy at the threshold is not beyond it in any rounding.
        scale = 1.0001 * max(ranked[rank - 1] - median, 1e-3)
        return replace(self, scale=np.array([median, scale], np.float32))

    def score(self, features: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """How unlike the training galaxies images are.

        Parameters
        ----------
        features : numpy.ndarray of float32, shape (n, F)
            Stage 1's penultimate features of the images as they are.
        pixels : numpy.ndarray of uint8, shape (n, S, S, 3)
            What stage 1 saw.

        Returns
        -------
        numpy.ndarray of float32, shape (n,)
            0 for the median validation galaxy, more than 1 for those that are unlike.
        """
        return ((self._surprise(features, pixels) - self.scale[0]) / self.scale[1]).astype(np.float32)

    @property
    def num_components(self) -> int:
        """What `components` gives of each image."""
        return self.axes.shape[1]

    def components(self, features: np.ndarray) -> np.ndarray:
        """The principal components of features, float32 of shape (n, A), from features of shape (n, F)."""
        found: np.ndarray = (features - self.center) @ self._axes
        return found.astype(np.float32)

    def pixel_flags(self, pixels: np.ndarray) -> int:
        """Bits of `hiwl_core.flags` that one image's pixels show, uint8 of shape (S, S, 3)."""
        return self._limits.flags(pixels)

    def _surprise(self, features: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Minus the logarithm of the density, less a constant, shape (n,)."""
        described = _dimensions(features, pixel_statistics(pixels), self.center, self._axes)
        standard = (described - self.location) / self.spread
        whitened = standard @ self.whitening - self.class_means[:, None]
        surprise = np.einsum("knd,knd->kn", whitened, whitened) / 2 - self.log_weights[:, None]
        least = surprise.min(axis=0)
        return least - np.log(np.exp(least - surprise).sum(axis=0))

    @cached_property
    def _axes(self) -> np.ndarray:
        return self.axes.astype(np.float32)

    @cached_property
    def _limits(self) -> DefectLimits:
        return DefectLimits(*self.limits.tolist())

    def to_bytes(self) -> bytes:
        """A safetensors file; `from_bytes` is its inverse."""
        return save({field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Unlikeness:
        """What `to_bytes` wrote.

        Raises
        ------
        UserError
            If the content is damaged.
        """
        try:
            found = load(content)
            model = cls(**{field.name: found[field.name] for field in fields(cls)})
            model._check_arrays()
        except (SafetensorError, KeyError, ValueError) as error:
            raise UserError(
                f"unlikeness: not what was fitted to a model ({error}); copy the bundle again from its source"
            ) from None
        return model

    def _check_arrays(self) -> None:
        (wide, axes), classes = self.axes.shape, len(self.log_weights)
        dimensions = axes + 1 + STATISTICS
        shapes = {
            "axes": (wide, axes),
            "center": (wide,),
            "location": (dimensions,),
            "spread": (dimensions,),
            "whitening": (classes, dimensions, dimensions),
            "class_means": (classes, dimensions),
            "log_weights": (classes,),
            "scale": (2,),
            "limits": (len(DefectLimits._fields),),
        }
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values.shape != shape or not np.isfinite(values).all():
                raise ValueError(f"{name} is not {shape} finite numbers")


def _dimensions(
    features: np.ndarray, statistics: np.ndarray, center: np.ndarray, axes: np.ndarray
) -> np.ndarray:
    """Components of the features, logarithm of what is left of them, and pixel statistics, shape (n, D)."""
    # In single precision a residual of rounding errors, of features that lie in the axes, would be another in
    # each company of other images, and its logarithm with it.
    off = features.astype(np.float64) - center
    components = off @ axes
    left = off - components @ axes.T
    rest = np.log(np.einsum("nf,nf->n", left, left) + 1e-9)
    return np.concatenate([components, rest[:, None], statistics], axis=1)


def _check(part: str, features: np.ndarray, **others: np.ndarray) -> None:
    for name, values in others.items():
        if len(values) != len(features):
            raise UserError(f"{len(features)} {part} galaxies have features and {len(values)} {name}")
    if len(features) < 2:
        raise UserError(f"{len(features)} {part} galaxies: how others differ from them takes two or more")
    if not np.isfinite(features).all():
        raise UserError(f"features of {part} galaxies are not all finite: look at the training's log")
