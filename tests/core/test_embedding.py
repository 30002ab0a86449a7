"""Maps of features keep neighbors, and figures of separation mean what they say."""

import sys

import numpy as np
import pytest

from hiwl_core.errors import UserError
from hiwl_core.explanation import neighbor_purity, separation, silhouette, tsne


def _clusters(sizes: tuple[int, ...], distance: float, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(len(sizes)), sizes)
    centers = distance * rng.normal(size=(len(sizes), width))
    return centers[classes] + rng.normal(size=(len(classes), width)), classes


def test_separation_of_clusters_and_of_shuffled_classes() -> None:
    features, classes = _clusters((200, 120, 5), distance=30)
    apart = separation(features, classes)
    # Of the smallest class only 4 of 10 neighbors can be of it.
    assert apart.purity == 1
    assert apart.silhouette > 0.8
    shuffled = separation(features, np.random.default_rng(1).permutation(classes))
    assert shuffled.purity == pytest.approx(1 / 3, abs=0.08)
    assert shuffled.silhouette < 0.05
    # A feature of another unit counts as much as the others.
    scaled = separation(features * np.array([1, 1, 1, 1, 1, 1e6]), classes)
    assert scaled.purity == pytest.approx(1)


def test_separation_by_hand() -> None:
    features = np.array([[0.0], [1.0], [10.0], [12.0], [2.5]])
    classes = np.array([0, 0, 1, 1, 1])
    # The nearest one of the last, at 1, is of the other class.
    assert neighbor_purity(features, classes, 1) == pytest.approx((1 + 2 / 3) / 2)
    # (b - a) / max(a, b): 10/11 and 9/10; 7.5/9.5 and 9.5/11.5.
    by_hand = ((10 / 11 + 9 / 10) / 2 + (7.5 / 9.5 + 9.5 / 11.5) / 2) / 2
    assert silhouette(features[:4], classes[:4]) == pytest.approx(by_hand)


def test_separation_of_too_little() -> None:
    features, classes = _clusters((3, 1), distance=5)
    assert neighbor_purity(features, classes) == 1
    assert np.isnan(neighbor_purity(features[:1], classes[:1]))
    assert np.isnan(neighbor_purity(features[2:], classes[2:]))
    assert np.isnan(silhouette(features, np.zeros(4, int)))
    with pytest.raises(UserError, match=r"one length, not 4 and \(3,\)"):
        separation(features, classes[:3])


def test_tsne_keeps_neighbors_and_repeats_itself() -> None:
    features, classes = _clusters((40, 30, 30), distance=12, width=60)
    places = tsne(features)
    assert places.shape == (100, 2)
    assert neighbor_purity(places, classes, 5) == 1
    np.testing.assert_array_equal(tsne(features), places)


def test_tsne_of_few_galaxies_and_of_none() -> None:
    features, _ = _clusters((4,), distance=1)
    # One of the features is the same for all galaxies.
    features[:, 2] = 7.0
    assert np.isfinite(tsne(features)).all()
    with pytest.raises(UserError, match="needs 4 galaxies or more, not 3"):
        tsne(features[:3])
    features[2, 1] = np.nan
    with pytest.raises(UserError, match="galaxy 2 of 4 has features that are not finite"):
        tsne(features)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    features, classes = _clusters((4, 4), distance=1)
    for module in ("sklearn.manifold", "sklearn.neighbors"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"need the package scikit-learn: pip install 'hiwl\[figures\]'"):
        tsne(features)
    with pytest.raises(UserError, match="scikit-learn"):
        separation(features, classes)
