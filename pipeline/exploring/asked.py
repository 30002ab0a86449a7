"""What the explorer's page asks for: filters and an order, checked, and as SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hiwl_core.errors import UserError
from hiwl_core.flags import FLAGS, VIEWS_DISAGREE
from pipeline.catalog.catalog_schema import FEATURES
from pipeline.querying.validated_columns import quoted, sql_texts

__all__ = ["FLOATS", "ORDERS", "SIMILAR", "Asked", "Box", "Given", "Like", "parse_asked", "parse_given"]

SIMILAR = "similar"
"""The order by likeness to a galaxy."""
# What each order needs of the catalog, beside the ids.
ORDERS: Mapping[str, tuple[str, ...]] = {
    "uncertain": ("confidence",),
    "disagreement": ("label", "label_map", "flags", "confidence"),
    "unlike": ("ood_score",),
    "random": (),
    "chosen": ("_place",),
    "catalog": (),
    SIMILAR: (FEATURES,),
}
BITS = {name: bit for bit, name in FLAGS.items()}
MOST_BOXES = 8
FLOATS = ("FLOAT", "DOUBLE")
"""DuckDB's types whose values may be no number."""
Model = TypeVar("Model", bound=BaseModel)


class Box(BaseModel):
    """A rectangle that was brushed in the plane of two columns, its edges included."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    x: str
    y: str
    x0: float
    x1: float
    y0: float
    y1: float

    def condition(self, columns: Mapping[str, str]) -> str:
        """As SQL."""
        sides = ((self.x, self.x0, self.x1), (self.y, self.y0, self.y1))
        return " AND ".join(
            f"{_column(name, columns)} BETWEEN {min(one, other)!r} AND {max(one, other)!r}"
            for name, one, other in sides
        )


class Like(BaseModel):
    """A galaxy that others are to be like."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: str
    id: str


class Asked(BaseModel):
    """Filters and an order.

    Parameters
    ----------
    where : str
        A condition in SQL.
    classes : list of str or None
        Only these most probable classes; the empty text is for rows without one. None for all.
    flags : list of str
        All of these bits are set.
    unflagged : bool
        No bit is set.
    low, high : float or None
        Least and largest confidence.
    boxes : list of Box
    labeled : {"all", "no", "yes"}
        By whether there is a label of people.
    order : str
        One of `ORDERS`, or a column.
    descending : bool
        Of the order by a column.
    like : Like or None
        Of the order ``similar``: it comes first, and then those that are most like it.
    seed : int
        Of the random order.
    drawn : int
        A number that is another one when the list is to be made anew.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    where: str = Field(default="", max_length=10_000)
    classes: tuple[str, ...] | None = None
    flags: tuple[str, ...] = ()
    unflagged: bool = False
    low: float | None = None
    high: float | None = None
    boxes: tuple[Box, ...] = Field(default=(), max_length=MOST_BOXES)
    labeled: Literal["all", "no", "yes"] = "all"
    order: str = "uncertain"
    descending: bool = False
    like: Like | None = None
    seed: int = Field(default=0, ge=0, lt=2**31)
    drawn: int = 0

    def condition(self, columns: Mapping[str, str], with_classes: bool = True) -> str:
        """The filters as SQL, but for that by labels of people.

        Parameters
        ----------
        columns : mapping of str
            DuckDB's type of each column of the catalog.
        with_classes : bool
            False to leave out the filter by classes.

        Raises
        ------
        UserError
            If a column or a flag is not there.
        """
        parts = [f"({self.where}\n)"] if self.where.strip() else []
        if with_classes and self.classes is not None:
            column = _column("label_map" if "label_map" in columns else "label", columns)
            named = [name for name in self.classes if name]
            either = [f"{column} IN ({sql_texts(named)})"] if named else []
            either += [f"{column} IS NULL"] if "" in self.classes else []
            parts.append(f"({' OR '.join(either) or 'false'})")
        unknown = [name for name in self.flags if name not in BITS]
        if unknown:
            raise UserError(f"no flag {unknown[0]!r}: there are {', '.join(BITS)}")
        if self.flags:
            bits = sum(BITS[name] for name in set(self.flags))
            parts.append(f"{_column('flags', columns)} & {bits} = {bits}")
        if self.unflagged:
            parts.append(f"{_column('flags', columns)} = 0")
        for bound, sign in ((self.low, ">="), (self.high, "<=")):
            if bound is not None:
                parts.append(f"{_column('confidence', columns)} {sign} {bound!r}")
        parts += [box.condition(columns) for box in self.boxes]
        return " AND ".join(parts) or "true"

    def keys(self, columns: Mapping[str, str], features: Sequence[float] | None = None) -> tuple[str, str]:
        """Which rows have a place in the order, and the keys to sort by, as SQL; empty for no order.

        Parameters
        ----------
        columns : mapping of str
            DuckDB's type of each column of the catalog.
        features : sequence of float, optional
            Of the galaxy that others are to be like.

        Raises
        ------
        UserError
            If there is no such order for this catalog.
        """
        if self.order not in ORDERS:
            column = _column(self.order, columns)
            there = "isfinite({})" if columns[self.order] in FLOATS else "{} IS NOT NULL"
            return there.format(column), f"{column}{' DESC' if self.descending else ''}, object_id"
        lacking = [name for name in ORDERS[self.order] if name not in columns]
        if lacking:
            raise UserError(f"no order {self.order!r} of a catalog without the column {lacking[0]!r}")
        if self.order == SIMILAR:
            kind, given = f"FLOAT[{len(features or ())}]", ", ".join(map(repr, features or ()))
            likeness = f"array_cosine_similarity({FEATURES}::{kind}, [{given}]::{kind})"
            # The one that others are to be like comes first, whatever the rounding.
            return f"isfinite({FEATURES}[1])", f"round({likeness}, 6) DESC, object_id"
        # Of rows that have no label there is nothing to doubt.
        return {
            "uncertain": ("confidence IS NOT NULL", "confidence, object_id"),
            "disagreement": (
                "label IS NOT NULL",
                f"(label <> label_map)::INT + (flags & {VIEWS_DISAGREE} <> 0)::INT DESC, "
                "confidence, object_id",
            ),
            "unlike": ("isfinite(ood_score)", "ood_score DESC, object_id"),
            "random": ("true", f"hash(object_id, {self.seed}), object_id"),
            "chosen": ("true", "_place"),
            "catalog": ("true", ""),
        }[self.order]


class Given(BaseModel):
    """A label that somebody gives.

    Parameters
    ----------
    part, id : str
        Which galaxy.
    answer : str
        A class, or one of `pipeline.exploring.labels.NO_CLASS`.
    place : int
        The galaxy's in the list.
    answer_shown : bool
        Whether the model's answer was to be seen.
    asked : Asked
        How the list was made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    part: str
    id: str
    answer: str
    place: int
    answer_shown: bool
    asked: Asked


def parse_asked(text: str) -> Asked:
    """What a request asks for, from JSON.

    Raises
    ------
    UserError
        If it is something else.
    """
    return _parsed(Asked, text or "{}")


def parse_given(text: str) -> Given:
    """A label, from JSON.

    Raises
    ------
    UserError
        If it is something else.
    """
    return _parsed(Given, text)


def _parsed(model: type[Model], text: str) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc'])) or 'the request'}: {first['msg']}") from None


def _column(name: str, columns: Mapping[str, str]) -> str:
    if name not in columns:
        raise UserError(f"no column {name!r} in the catalog: it has {', '.join(columns)}")
    return quoted(name)
