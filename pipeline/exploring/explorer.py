"""What the page is told: a catalog, its pictures and its labels together, each answer as JSON has it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from hiwl_core.errors import UserError
from hiwl_core.flags import FLAGS, flag_names
from pipeline.catalog.catalog_schema import FEATURES, column_notes
from pipeline.exploring.asked import SIMILAR, Asked, Given
from pipeline.exploring.catalog_view import MOST_LISTED, CatalogRow, CatalogView
from pipeline.exploring.images import Images
from pipeline.exploring.labels import NO_CLASS, Labels
from pipeline.lease import Lease
from pipeline.pages.sky_viewers import sky_viewers

__all__ = ["Explorer"]

MOST_ROWS = 200
# As many as the page asks for.
FIRST_ROWS = 60
LISTS_KEPT = 8
ROWS_KEPT = 20_000
# What has a place of its own on a card.
OWN = (
    "object_id",
    "ra",
    "dec",
    "label",
    "label_map",
    "confidence",
    "class_set",
    "ood_score",
    "flags",
    "status",
)


@dataclass
class Explorer:
    """The answers to the page's questions. Those that ask the catalog are called by one thread only.

    Parameters
    ----------
    name : str
        Of the catalog, for people.
    view : CatalogView
    images : Images
    labels : Labels
    who : str
        Who labels here.
    lease : Lease
        Of the folder of the labels.
    """

    name: str
    view: CatalogView
    images: Images
    labels: Labels
    who: str
    lease: Lease

    def __post_init__(self) -> None:
        self._list = lru_cache(LISTS_KEPT)(self._listed)
        self._rows: OrderedDict[tuple[str, str], tuple[CatalogRow, dict[str, Any]]] = OrderedDict()

    def facts(self) -> dict[str, Any]:
        """What there is: classes, columns, orders, labels."""
        view = self.view
        numbers = set(view.numbers)
        return {
            "name": self.name,
            "who": self.who,
            "classes": list(view.classes),
            "answers": [*view.classes, *NO_CLASS],
            "columns": [
                {
                    "name": name,
                    "type": kind.lower(),
                    "number": name in numbers,
                    **_described(view, name),
                }
                for name, kind in view.columns.items()
            ],
            "orders": [order for order in view.orders if order != SIMILAR],
            "similar": SIMILAR in view.orders,
            "flags": list(FLAGS.values()) if "flags" in view.columns else [],
            "no_pictures": self.images.why_not,
            "labels": self.labels.counts(),
            "labels_file": str(self.labels.path),
            "most_listed": MOST_LISTED,
        }

    def first_page(self) -> None:
        """Make the list that the page asks for first."""
        orders = self.view.orders
        self.rows(Asked(order="chosen" if "chosen" in orders else orders[0]), 0, FIRST_ROWS)

    def rows(self, asked: Asked, start: int, count: int) -> dict[str, Any]:
        """A page of a list: how long the list is, and its rows from one place on."""
        listed = self._list(asked)
        places = listed[max(0, start) :][: min(max(0, count), MOST_ROWS)]
        found = self.view.rows(places)
        statuses: dict[CatalogRow, str] = {}
        cards = []
        now = self.labels.now()
        for row in found:
            place = CatalogRow(row["object_id"], row["_part"])
            statuses[place] = str(row.get("status", "ok"))
            card = self._card(row)
            self._remember(place, card)
            mine = now.get(card["id"])
            cards.append({**card, "mine": mine["class"] if mine else None})
        self.images.ask(statuses)
        return {"listed": len(listed), "start": start, "rows": cards}

    def counts(self, asked: Asked) -> dict[str, Any]:
        """Rows by class."""
        return {"classes": self.view.counts(asked)}

    def plane(
        self,
        asked: Asked,
        x: str,
        y: str,
        x_ends: tuple[float, float] | None,
        y_ends: tuple[float, float] | None,
    ) -> dict[str, Any]:
        """See `CatalogView.plane`."""
        return asdict(self.view.plane(asked, x, y, x_ends, y_ends))

    def answer(self, sql: str) -> dict[str, Any]:
        """See `CatalogView.answer`; what JSON would round, or has no word for, is text."""
        columns, rows, more = self.view.answer(sql)
        return {"columns": columns, "rows": [[_plain(one) for one in row] for row in rows], "more": more}

    def place_of(self, part: str, object_id: str) -> CatalogRow | None:
        """A row that the page was shown."""
        known = self._rows.get((part, object_id))
        return known[0] if known else None

    def label(self, given: Given) -> dict[str, Any]:
        """Give a galaxy that was shown a label.

        Raises
        ------
        UserError
            If it was not shown, or there is no such class.
        IncompleteError
            If another run has the labels.
        """
        known = self._rows.get((given.part, given.id))
        if known is None:
            raise UserError(f"no galaxy {given.id} of {given.part} was shown: reload the page")
        self.lease.check()
        row = known[1]
        shown = {
            **{name: row[name] for name in ("part", "ra", "dec", "model_id", "why")},
            "model_class": row["class"],
            "model_confidence": row["confidence"],
            "answer_shown": given.answer_shown,
            "place": given.place,
            "asked": given.asked.model_dump(mode="json", exclude_defaults=True, exclude={"drawn"}),
        }
        self.labels.add(given.id, given.answer, self.who, shown)
        return {"id": given.id, "mine": given.answer, "labels": self.labels.counts()}

    def undo(self) -> dict[str, Any]:
        """Take the last label back."""
        self.lease.check()
        undone = self.labels.undo(self.who)
        if undone is None:
            raise UserError("there is no label of yours to take back")
        return {"id": undone[0], "mine": undone[1], "labels": self.labels.counts()}

    def _listed(self, asked: Asked) -> list[CatalogRow]:
        labeled = [] if asked.labeled == "all" else self._as_in_catalog(self.labels.now())
        return self.view.listing(asked, labeled)

    def _as_in_catalog(self, ids: Mapping[str, Any]) -> list[Any]:
        if self.view.columns["object_id"] == "VARCHAR":
            return list(ids)
        return [int(one) for one in ids if one.lstrip("-").isdecimal()]

    def _remember(self, place: CatalogRow, card: dict[str, Any]) -> None:
        self._rows[place.part, str(place.object_id)] = (place, card)
        while len(self._rows) > ROWS_KEPT:
            self._rows.popitem(last=False)

    def _card(self, row: Mapping[str, Any]) -> dict[str, Any]:
        probabilities = {name: _plain(row.get(column)) for name, column in self.view.classes.items()}
        flags = row.get("flags")
        shown = {*OWN, *self.view.classes.values(), "model_id", "_part", "_why", "_place", FEATURES}
        return {
            "id": str(row["object_id"]),
            "part": row["_part"],
            "class": row.get("label_map") or row.get("label"),
            "probabilities": probabilities,
            **{name: _plain(row.get(name)) for name in OWN[1:-2]},
            "flags": flag_names(flags) if flags is not None and 0 <= flags <= sum(FLAGS) else [],
            "status": row.get("status", "ok"),
            "model_id": row.get("model_id"),
            "why": row.get("_why"),
            "viewers": [one._asdict() for one in sky_viewers(row.get("ra"), row.get("dec"))],
            "more": {name: _plain(value) for name, value in row.items() if name not in shown},
        }


def _described(view: CatalogView, name: str) -> dict[str, str]:
    field = view.fields.get(name)
    notes = {} if field is None else column_notes(field)
    return {key: notes.get(key, "") for key in ("unit", "description")}


def _plain(value: Any) -> Any:
    """A value for JSON: ids of 18 digits as text, since JavaScript's numbers have 16."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
