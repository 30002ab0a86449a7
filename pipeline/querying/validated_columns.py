"""A catalog's probabilities under the class shares of the held-out galaxies, as SQL on its columns."""

from __future__ import annotations

from collections.abc import Sequence

from hiwl_core.taxonomy import probability_column
from pipeline.catalog.model_facts import ModelFacts

__all__ = ["quoted", "sql_texts", "validated_columns"]


def validated_columns(facts: ModelFacts) -> dict[str, str]:
    """SQL for the columns that depend on the assumed class shares.

    Parameters
    ----------
    facts : ModelFacts

    Returns
    -------
    dict of str
        Expressions by column: the probabilities, `confidence`, which is the largest of them, and `label_map`.
        Empty if the catalog assumes the shares of the held-out galaxies already.

    Raises
    ------
    UserError
        See `ModelFacts.factors`.
    """
    factors = facts.factors()
    if factors is None:
        return {}
    columns = [probability_column(name) for name in facts.classes]
    moved = [f"{quoted(name)} * {factor!r}" for name, factor in zip(columns, factors.tolist(), strict=True)]
    total, largest, listed = (
        f"({' + '.join(moved)})",
        f"greatest({', '.join(moved)})",
        f"[{', '.join(moved)}]",
    )
    return {
        **{name: f"{value} / {total}" for name, value in zip(columns, moved, strict=True)},
        "confidence": f"{largest} / {total}",
        "label_map": f"list_extract([{sql_texts(facts.classes)}], list_position({listed}, {largest}))",
    }


def quoted(column: str) -> str:
    """A column's name in SQL."""
    return '"' + column.replace('"', '""') + '"'


def sql_texts(values: Sequence[str]) -> str:
    """Text literals in SQL, with commas between."""
    return ", ".join("'" + value.replace("'", "''") + "'" for value in values)
