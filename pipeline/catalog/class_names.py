"""The classes of a catalog, read back from its columns."""

from __future__ import annotations

import pyarrow as pa

from hiwl_core.taxonomy import probability_column
from pipeline.catalog.parts import ALSO_OF_CLASS, OF_CLASS, class_columns

__all__ = ["classes_in"]


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


def _class_of(field: pa.Field) -> str:
    """``Calibrated probability of CSS: cigar-shaped smooth`` is of CSS; a name may have a colon itself."""
    words = field.metadata[b"description"].decode()
    for beginning in (OF_CLASS, ALSO_OF_CLASS):
        words = words.removeprefix(beginning)
    for end in (place for place, letter in enumerate(words) if letter == ":"):
        if probability_column(words[:end]) == field.name:
            return words[:end]
    return str(field.name[2:]).upper()
