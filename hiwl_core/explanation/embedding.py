"""Features of galaxies as a map of two dimensions, and figures of how well they set the classes apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hiwl_core.errors import UserError, if_missing

__all__ = ["Separation", "neighbor_purity", "separation", "silhouette", "tsne"]

PCA_WIDTH = 50
# About how many neighbors count; of few galaxies at most a third.
PERPLEXITY = 30.0
NEEDED = "maps of features need the package scikit-learn: pip install 'hiwl[figures]'"


class Separation(NamedTuple):
    """How well features set classes apart.

    Parameters
    ----------
    purity : float
        See `neighbor_purity`.
    silhouette : float
        See `silhouette`.
    """

    purity: float
    silhouette: float


def tsne(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Places of galaxies on a map where neighbors are alike (t-SNE; van der Maaten & Hinton 2008).

    The features are standardized and thinned out to 50 principal components first, as its authors advise. A
    few thousand galaxies take some ten seconds; draw a sample of more.

    Parameters
    ----------
    features : numpy.ndarray of float, shape (N, W)
    seed : int

    Returns
    -------
    numpy.ndarray of float32, shape (N, 2)

    Raises
    ------
    UserError
        If scikit-learn is missing, there are fewer than 4 galaxies, or a feature is not finite.
    """
    with if_missing(NEEDED):
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

    if len(features) < 4:
        raise UserError(f"a t-SNE map needs 4 galaxies or more, not {len(features)}")
    scaled = _standardized(features)
    width = min(PCA_WIDTH, *scaled.shape)
    components = PCA(width, random_state=seed).fit_transform(scaled)
    bounded = min(PERPLEXITY, (len(features) - 1) / 3)
    places: np.ndarray = TSNE(perplexity=bounded, init="pca", random_state=seed).fit_transform(components)
    return places


def separation(features: np.ndarray, class_indices: np.ndarray) -> Separation:
    """Both figures of standardized features, in their own space: the map would show groups that are none.

    Parameters
    ----------
    features : numpy.ndarray of float, shape (N, W)
        To compare a cascade fairly with a single network, those of stage 1 for all galaxies. In those by
        owner the true class decides whose features they are, so that the figures are of what the map of them
        shows, and can favor the cascade.
    class_indices : numpy.ndarray of int, shape (N,)

    Raises
    ------
    UserError
        If scikit-learn is missing, the lengths differ, or a feature is not finite.
    """
    scaled = _standardized(features)
    return Separation(neighbor_purity(scaled, class_indices), silhouette(scaled, class_indices))


def neighbor_purity(features: np.ndarray, class_indices: np.ndarray, neighbors: int = 10) -> float:
    """Share of a galaxy's nearest neighbors that are of its class, averaged over the classes.

    Averaged over classes, not galaxies, since classes are imbalanced. Of a class with fewer galaxies than
    that, so few are neighbors that could be of it: classes that lie apart have purity 1 whatever their sizes.

    Parameters
    ----------
    features : numpy.ndarray of float, shape (N, W)
        Neighbors are by Euclidean distance.
    class_indices : numpy.ndarray of int, shape (N,)
    neighbors : int
        k.

    Returns
    -------
    float
        NaN if no class has two galaxies. If features say nothing of the classes, about the mean over the
        classes of a class's share of the galaxies: 1 over their number.

    Raises
    ------
    UserError
        If scikit-learn is missing, or the lengths differ.
    """
    with if_missing(NEEDED):
        from sklearn.neighbors import NearestNeighbors

    classes = _checked(features, class_indices)
    sizes = np.bincount(classes, minlength=1)
    k = min(neighbors, len(classes) - 1)
    if k < 1 or sizes.max() < 2:
        return float("nan")
    # Without an argument no galaxy is its own neighbor.
    nearest = NearestNeighbors(n_neighbors=k).fit(features).kneighbors(return_distance=False)
    same = (classes[nearest] == classes[:, None]).sum(axis=1)
    shares = [
        same[classes == index].mean() / min(k, size - 1) for index, size in enumerate(sizes) if size > 1
    ]
    return float(np.mean(shares))


def silhouette(features: np.ndarray, class_indices: np.ndarray) -> float:
    """Silhouette, from -1 to 1, averaged over the classes (Rousseeuw 1987, J. Comput. Appl. Math. 20, 53).

    A galaxy's is ``(b - a) / max(a, b)``, with its mean distance a to its own class, and b to the nearest
    other one.

    Parameters
    ----------
    features : numpy.ndarray of float, shape (N, W)
    class_indices : numpy.ndarray of int, shape (N,)

    Returns
    -------
    float
        NaN if there is only one class, or each galaxy is one.

    Raises
    ------
    UserError
        If scikit-learn is missing, or the lengths differ.
    """
    with if_missing(NEEDED):
        from sklearn.metrics import silhouette_samples

    classes = _checked(features, class_indices)
    present = np.unique(classes)
    if not 2 <= len(present) < len(classes):
        return float("nan")
    values = silhouette_samples(features, classes)
    return float(np.mean([values[classes == index].mean() for index in present]))


def _standardized(features: np.ndarray) -> np.ndarray:
    """Features of mean 0 and variance 1; those that are the same for all galaxies become 0."""
    features = np.asarray(features, dtype=np.float64)
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise UserError(f"galaxy {row} of {len(features)} has features that are not finite; leave it out")
    spread = features.std(axis=0)
    return np.asarray((features - features.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _checked(features: np.ndarray, class_indices: np.ndarray) -> np.ndarray:
    classes = np.asarray(class_indices)
    if classes.shape != features.shape[:1]:
        raise UserError(
            f"features and classes must be of one length, not {len(features)} and {classes.shape}"
        )
    return classes
