"""What a catalog says of the model that made it, read back: ``_model.json`` in its folder.

Classes, the class shares that its probabilities assume, how the model did on held-out galaxies, and how the
columns of these galaxies are distributed: for those who correct or watch a catalog without its bundle.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.catalog.manifest import MODEL_FACTS
from pipeline.storage.listing import is_pattern

__all__ = ["ModelFacts", "copy_model_facts", "read_model_facts"]


@dataclass(frozen=True)
class ModelFacts:
    """A model as its catalog knows it.

    Parameters
    ----------
    path : str
        The file that says so.
    model_id : str
    classes : tuple of str, length C
    prior : numpy.ndarray of float64, shape (C,)
        Class shares that the catalog's probabilities assume.
    confusion : numpy.ndarray of int64, shape (C, C)
        Held-out galaxies, true classes by row, the most probable class by column.
    reference : mapping
        Distributions of the held-out galaxies' columns; see `hiwl_core.reference.reference_histograms`.
    """

    path: str
    model_id: str
    classes: tuple[str, ...]
    prior: np.ndarray
    confusion: np.ndarray
    reference: Mapping[str, Any]

    def factors(self) -> np.ndarray | None:
        """What moves the probabilities to the class shares of the held-out galaxies; None if nothing has to.

        The confusion matrix and the distributions are of probabilities that assume the shares of the held-out
        galaxies. A catalog of other shares (``classify --prior``) is compared after its probabilities were
        multiplied by these factors and divided by their sum; see `hiwl_core.class_prior.move_prior`.

        Returns
        -------
        numpy.ndarray of float64, shape (C,), or None

        Raises
        ------
        UserError
            If the catalog assumes that there is nothing of a class that was held out.
        """
        shares = self.confusion.sum(axis=1) / max(1, self.confusion.sum())
        if np.allclose(shares, self.prior, rtol=1e-6, atol=1e-9):
            return None
        lost = [
            name for name, old, new in zip(self.classes, self.prior, shares, strict=True) if new > old == 0
        ]
        if lost:
            raise UserError(
                f"{self.path}: the catalog was classified with --prior {lost[0]}=0, which leaves no "
                "probability to compare; classify anew without it"
            )
        return np.asarray(shares / np.where(self.prior > 0, self.prior, 1))

    def check_model(self, catalog: str, models: Sequence[str]) -> None:
        """Check that a catalog's rows are of this model.

        Raises
        ------
        UserError
            If some are not.
        """
        strange = [model for model in models if model != self.model_id]
        if strange:
            raise UserError(
                f"{catalog} has rows of the model {strange[0]}, but {self.path} is of {self.model_id}: "
                "name a catalog of the same model with --model"
            )


def read_model_facts(catalog: str, model: str | None = None) -> ModelFacts:
    """The facts of a catalog's model.

    Parameters
    ----------
    catalog : str
        Its folder, or a file or a glob of its parts; local or a URL.
    model : str, optional
        Another catalog of the same model, or the file itself, for a catalog that has none.

    Raises
    ------
    UserError
        If there are none, or they are damaged.
    """
    place = model or catalog
    path = place if place.endswith(".json") else _beside(place)
    if not storage.exists(path):
        mend = (
            f"--model takes a catalog of `hiwl classify` that has one, or the file {MODEL_FACTS} itself"
            if model
            else f"a catalog has no {MODEL_FACTS} if an older HIWL made it or the model is not calibrated: "
            "classify anew, or name another catalog of the same model with --model"
        )
        raise UserError(f"no {path}, which says how the model did on held-out galaxies: {mend}")
    try:
        data = json.loads(storage.read_bytes(path))
        classes = tuple(map(str, data["classes"]))
        prior = np.asarray(data["prior"], dtype=np.float64)
        confusion = np.asarray(data["validation"]["confusion"], dtype=np.int64)
        if prior.shape != (len(classes),):
            raise ValueError(f"{prior.size} class shares for {len(classes)} classes")
        if confusion.shape != (len(classes), len(classes)):
            raise ValueError(f"a confusion matrix of {confusion.shape} for {len(classes)} classes")
        return ModelFacts(path, str(data["model_id"]), classes, prior, confusion, dict(data["reference"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}): classify anew, or name another with --model") from None


def copy_model_facts(catalog: str, folder: str) -> None:
    """Copy what a catalog says of its model into another folder, if it says anything."""
    if storage.exists(_beside(catalog)):
        storage.write_bytes(f"{folder}/{MODEL_FACTS}", storage.read_bytes(_beside(catalog)))


def _beside(catalog: str) -> str:
    return posixpath.join(_folder(catalog), MODEL_FACTS)


def _folder(catalog: str) -> str:
    """The folder of a catalog that is named by it, by one of its parts or by a glob."""
    place = catalog.rstrip("/")
    last = place.rsplit("/", 1)[-1]
    if last.endswith(".parquet") or is_pattern(place):
        return posixpath.dirname(place)
    return place
