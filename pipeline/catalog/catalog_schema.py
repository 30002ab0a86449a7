"""The columns of a catalog: what each is called, of which type, and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hiwl_core.flags import FLAG_DESCRIPTIONS
from hiwl_core.statuses import STATUSES
from hiwl_core.taxonomy import FIRST_STAGE, Taxonomy, probability_column

if TYPE_CHECKING:  # torch comes with it, which verbs that only read a catalog should not wait for
    import pandas as pd


__all__ = ["FEATURES", "catalog_schema", "class_columns", "column_notes", "stage_columns", "stage_outputs"]
TRUE_LABEL = "true_label"
# What the only group is called in its column.
COMBINED = "combined"
FEATURES = "features"
"""What stage 1 saw in each galaxy, where it was asked for."""
OF_CLASS = "Calibrated probability of "
# As catalogs of before have it.
ALSO_OF_CLASS = "Probability of "


def stage_columns(taxonomy: Taxonomy) -> dict[str, tuple[str, int | None]]:
    """Columns of the stages' own probabilities: of which stage each is, and of which of its classes.

    Of stage 1 there are those of its groups, the only one of which is ``combined``; of a later stage those of
    all its classes but the last, which is one minus the others. Catalogs of a flat taxonomy have one column,
    `p_stage1_combined`, which is null.
    """
    first = taxonomy.stage_classes(FIRST_STAGE)
    columns: dict[str, tuple[str, int | None]] = {}
    if not taxonomy.groups:
        columns[_stage_column(FIRST_STAGE, COMBINED)] = (FIRST_STAGE, None)
    for name, _ in taxonomy.groups:
        if name in first:
            shown = name if len(taxonomy.groups) > 1 else COMBINED
            columns[_stage_column(FIRST_STAGE, shown)] = (FIRST_STAGE, first.index(name))
    for stage in taxonomy.later_stages:
        for place, name in enumerate(taxonomy.stage_classes(stage)[:-1]):
            columns[_stage_column(stage, name)] = (stage, place)
    return columns


def stage_outputs(catalog: pd.DataFrame | Mapping[Any, Any], taxonomy: Taxonomy, stage: str) -> np.ndarray:
    """What a later stage says of the rows of a catalog, from its columns.

    Parameters
    ----------
    catalog : pandas.DataFrame or mapping
        With the columns of `stage_columns`; of a mapping, the values of one row.
    taxonomy : Taxonomy
    stage : str

    Returns
    -------
    numpy.ndarray of float64, shape (N, M)
        NaN where it did not run.
    """
    names = [_stage_column(stage, name) for name in taxonomy.stage_classes(stage)[:-1]]
    members = np.column_stack([np.atleast_1d(np.asarray(catalog[name], np.float64)) for name in names])
    # The catalog leaves out the last member, which is what the others leave over.
    return np.column_stack([members, np.maximum(0, 1 - members.sum(axis=1))])


def _stage_column(stage: str, name: str) -> str:
    return f"p_{stage}_{probability_column(name)[2:]}"


def catalog_schema(
    taxonomy: Taxonomy, id_type: pa.DataType, carried: Sequence[pa.Field] = (), features: int = 0
) -> pa.Schema:
    """Columns of a catalog with their units, UCDs and descriptions.

    Parameters
    ----------
    taxonomy : Taxonomy
    id_type : pyarrow.DataType
        Of the object ids: int64 or string.
    carried : sequence of pyarrow.Field
        Columns taken over from the shards.
    features : int
        Numbers in the column `FEATURES`; 0 for catalogs without it.
    """
    descriptions = taxonomy.descriptions or taxonomy.classes
    flags = "; ".join(f"{bit}: {text}" for bit, text in FLAG_DESCRIPTIONS.items())
    rows: list[tuple[str, pa.DataType, str, str, str]] = [
        ("object_id", id_type, "", "meta.id;meta.main", "Identifier of the galaxy"),
        ("ra", pa.float64(), "deg", "pos.eq.ra;meta.main", "Right ascension"),
        ("dec", pa.float64(), "deg", "pos.eq.dec;meta.main", "Declination"),
        ("label", pa.string(), "", "src.morph.type", "Class by the routing of the cascade"),
        (
            "confidence",
            pa.float32(),
            "",
            "stat.probability",
            "Calibrated probability of `label`; that of `label_map` is the largest of the class "
            "probabilities",
        ),
        *(
            (
                probability_column(name),
                pa.float32(),
                "",
                "stat.probability",
                f"{OF_CLASS}{name}: {words}",
            )
            for name, words in zip(taxonomy.classes, descriptions, strict=True)
        ),
        (
            "label_map",
            pa.string(),
            "",
            "src.morph.type",
            "Class with the largest calibrated probability; where that differs from `label`, prefer this one",
        ),
        (
            "class_set",
            pa.string(),
            "",
            "src.morph.type",
            "Classes that hold the true one with the coverage in the footer, for each class, joined by |; "
            "null if the model was not calibrated",
        ),
        *(
            (column, pa.float32(), "", "stat.probability", _of_stage(taxonomy, stage, place))
            for column, (stage, place) in stage_columns(taxonomy).items()
        ),
        ("views_used", pa.int8(), "", "meta.number", "Views averaged by the stage that took most"),
        (
            "ood_score",
            pa.float32(),
            "",
            "stat.value",
            "How unlike the training galaxies the cutout is; null if the model has no measure of it",
        ),
        *(
            [
                (
                    FEATURES,
                    pa.list_(pa.float32(), features),
                    "",
                    "stat.value",
                    "Principal components of stage 1's features, of like direction for like galaxies; "
                    "NaN if not classified",
                )
            ]
            if features
            else []
        ),
        ("flags", pa.int32(), "", "meta.code", f"Sum of bits: {flags}"),
        (
            "status",
            pa.string(),
            "",
            "meta.code.status",
            "; ".join(f"{key}: {text}" for key, text in STATUSES.items()),
        ),
        ("model_id", pa.string(), "", "meta.id;meta.software", "Hash of the model bundle"),
    ]
    fields = [
        pa.field(name, kind, metadata={"unit": unit, "ucd": ucd, "description": text})
        for name, kind, unit, ucd, text in rows
    ]
    return pa.schema([*fields, *carried])


def column_notes(field: pa.Field) -> dict[str, str]:
    """What a column says of itself: ``unit``, ``ucd`` and ``description``, as far as it has them."""
    return {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}


def _of_stage(taxonomy: Taxonomy, stage: str, place: int | None) -> str:
    """A column of `stage_columns` in words."""
    number = stage.removeprefix("stage")
    if place is None:
        return f"Stage {number}'s own probability of a combined class, which this model does not have"
    name = taxonomy.stage_classes(stage)[place]
    members = {group.name: " or ".join(group.members) for group in taxonomy.groups}
    words = f"Stage {number}'s own probability of {members.get(name, name)}, before calibration"
    return words if stage == FIRST_STAGE else f"{words}; null where it did not run"


def class_columns(schema: pa.Schema) -> list[str]:
    """The columns of a catalog that hold the probabilities of its classes, which sum to 1.

    Those of stages, and columns that were carried through, are told from them by their descriptions.
    """
    return [
        field.name
        for field in schema
        if field.name.startswith("p_")
        and (field.metadata or {})
        .get(b"description", b"")
        .startswith((OF_CLASS.encode(), ALSO_OF_CLASS.encode()))
    ]
