"""The classes that a table or a folder of folders has, before there is a taxonomy of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from hiwl_core.errors import UserError
from hiwl_core.taxonomy_file import most_confused
from pipeline import storage
from pipeline.ingestion.labels import read_classes
from pipeline.ingestion.source import Listing, class_folder

__all__ = ["class_counts", "confused_classes"]


def class_counts(source: str, column: str | None = None) -> dict[str, int]:
    """Objects of each class, in the order of the classes' names.

    Parameters
    ----------
    source : str
        A table of labels, or a folder in which each class has a folder of images.
    column : str, optional
        Of the classes in the table; default as `pipeline.ingestion.labels.read_labels`.

    Raises
    ------
    UserError
        If there are not two classes or more.
    """
    if Path(source).is_dir():
        place = storage.absolute(source)
        listing = Listing(place, f"{place}/no such folder")
        found = Counter(class_folder(entry.path, listing.place) for entry in listing.iter_images())
        found.pop("", None)
    else:
        found = Counter(label for label in read_classes(source, column) if label)
    if len(found) < 2:
        names = f" ({', '.join(map(repr, found))})" if found else ""
        raise UserError(f"{source} has {len(found)} classes{names}: two or more are wanted")
    return dict(sorted(found.items()))


def confused_classes(path: str, classes: tuple[str, ...]) -> tuple[str, str]:
    """The two classes that a model confuses most, by the ``confusion_matrix.csv`` of its evaluation.

    Raises
    ------
    UserError
        If it is not of these classes.
    """
    try:
        with storage.open_input(path) as file:
            matrix = pd.read_csv(file, index_col=0, dtype={0: str})
    except FileNotFoundError:
        raise UserError(f"no file {path!r}") from None
    except ValueError as error:
        raise UserError(f"{path} is no confusion matrix: {str(error).splitlines()[0]}") from None
    if set(matrix.columns) != set(classes) or set(matrix.index) != set(classes):
        there = ", ".join(map(str, matrix.columns))
        raise UserError(f"{path} is not of the classes {', '.join(classes)}: it has {there}")
    names = list(classes)
    return most_confused(classes, matrix.loc[names, names].to_numpy())
