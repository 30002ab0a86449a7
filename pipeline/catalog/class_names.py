"""The classes of a catalog, read back from its columns."""

from __future__ import annotations

import pyarrow as pa

from hiwl_core.taxonomy import probability_column
from pipeline.catalog.catalog_schema import ALSO_OF_CLASS, OF_CLASS, class_columns

__all__ = ["class_words", "classes_in"]


def classes_in(schema: pa.Schema) -> dict[str, str]:
    """The classes of a catalog and their probability columns, in the order of its taxonomy.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of a part, with the descriptions of its columns.

    Returns
    -------
    dict of str
        Column by class; empty if the columns do not say that they are of classes.
    """
    return {_class_of(schema.field(name)): name for name in class_columns(schema)}


def class_words(schema: pa.Schema) -> dict[str, str]:
    """The few words that a catalog has for each of its classes; empty where there are none but the name.

    Parameters
    ----------
    schema : pyarrow.Schema
        As of `classes_in`.
    """
    found = {}
    for column in class_columns(schema):
        name = _class_of(schema.field(column))
        words = _words_of(schema.field(column)).removeprefix(name).removeprefix(":").strip()
        found[name] = "" if words == name else words
    return found


def _words_of(field: pa.Field) -> str:
    """``CSS: cigar-shaped smooth`` of ``Calibrated probability of CSS: cigar-shaped smooth``."""
    words: str = field.metadata[b"description"].decode()
    for beginning in (OF_CLASS, ALSO_OF_CLASS):
        words = words.removeprefix(beginning)
    return words


def _class_of(field: pa.Field) -> str:
    """``CSS: cigar-shaped smooth`` is of CSS; a name may have a colon itself."""
    words = _words_of(field)
    for end in (place for place, letter in enumerate(words) if letter == ":"):
        if probability_column(words[:end]) == field.name:
            return words[:end]
    return str(field.name[2:]).upper()
