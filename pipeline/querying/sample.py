"""A page of cutouts for some rows of a catalog, read back from the shards that they came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from hiwl_core.decoding import Cutout
from hiwl_core.errors import UserError, words_of
from pipeline import storage
from pipeline.catalog.class_names import class_words, classes_in
from pipeline.in_notebooks import InNotebooks
from pipeline.pages.cards import Card, thumbnail
from pipeline.pages.class_notes import ClassNote, class_sentence
from pipeline.pages.templates import check_own_page, render
from pipeline.progress import progress
from pipeline.querying.cone import Cone
from pipeline.querying.files import PART_COLUMN, find_catalog, scan
from pipeline.querying.origin import find_origin
from pipeline.querying.query import ROWS, ask, open_catalog

__all__ = ["SAMPLE_ORDERS", "SampleSummary", "sample"]

SAMPLE_ORDERS = ("random", "confidence")
THUMBNAIL_PIXELS = 256
VERB = "sample"


@dataclass(frozen=True)
class SampleSummary(InNotebooks):
    """What is on a page.

    Parameters
    ----------
    out : str
    matching : int
        Rows of the catalog that the filter leaves.
    shown : int
        Those on the page.
    without_image : int
        Those of them with a placeholder.
    shards : int
        Shards read.
    unread : list of str
        Shards that could not be read, with the reason.
    """

    out: str
    matching: int
    shown: int
    without_image: int
    shards: int
    unread: list[str]


def sample(
    catalog: str,
    out: str,
    where: str | None = None,
    cone: Cone | None = None,
    count: int = 60,
    order: str = "random",
    seed: int = 0,
    shards: str | None = None,
    id_column: str | None = None,
    image_column: str | None = None,
) -> SampleSummary:
    """Write a page with the cutouts of some rows.

    Parameters
    ----------
    catalog : str
        As `pipeline.classification.classify.classify` wrote it, not its published form; local or a URL.
    out : str
        HTML file to write; an older page of this kind is replaced, any other file is not.
    where : str, optional
        Condition in SQL on the catalog's columns; all rows by default.
    cone : Cone, optional
        Only the rows in it.
    count : int
        Rows at most.
    order : {"random", "confidence"}
        The same for the same seed, or the least confident first.
    seed : int
    shards : str, optional
        Where the shards are, if not where they were classified.
    id_column, image_column : str, optional
        What the columns are called in the shards, if not as they were classified.

    Raises
    ------
    UserError
        For a wrong condition, a file in the way, or a catalog that does not say where its shards are.
    """
    if order not in SAMPLE_ORDERS:
        raise UserError(f"no order {order!r}: choose one of {', '.join(SAMPLE_ORDERS)}")
    check_own_page(out, VERB)
    files = find_catalog(catalog)
    if files.tiles is not None:
        raise UserError(
            f"{catalog} is published, in another order than its shards: give the catalog it came from"
        )
    origin = find_origin(catalog, shards, id_column, image_column)
    schema = scan(replace(files, paths=files.paths[:1], beside=[]))[0].schema
    classes = classes_in(schema) or _by_name(schema)
    rows, matching = _choose(catalog, where, cone, count, order, seed)

    wanted: dict[str | None, list[int]] = {}
    for index, row in enumerate(rows):
        wanted.setdefault(origin.shards.get(row[PART_COLUMN]), []).append(index)
    cards: dict[int, Card] = {}
    unread: list[str] = []

    def read(item: tuple[str | None, list[int]]) -> tuple[list[int], list[Card], str]:
        shard, indices = item
        chosen = [rows[i] for i in indices]
        try:
            if shard is None:
                raise UserError(f"no shard is known of {chosen[0][PART_COLUMN]}")
            cutouts = origin.cutouts(shard, [(row["object_id"], row["status"]) for row in chosen])
            place, fault = f"no picture of it in {shard.rsplit('/', 1)[-1]}", ""
        except (UserError, OSError, ValueError) as error:
            cutouts = [None] * len(chosen)
            name = shard or str(chosen[0][PART_COLUMN])
            place = f"{name.rsplit('/', 1)[-1]} was not read"
            fault = f"{name}: {words_of(error)}"
        return (
            indices,
            [_card(row, cutout, place, classes) for row, cutout in zip(chosen, cutouts, strict=True)],
            fault,
        )

    with progress("reading cutouts", len(rows)) as advance:
        for indices, made, fault in storage.in_threads(read, list(wanted.items())):
            cards.update(zip(indices, made, strict=True))
            unread += [fault] if fault else []
            advance(len(indices))
    ordered = [cards[index] for index in range(len(rows))]
    facts = _facts(where, cone, order, seed, len(rows), matching)
    title, notes = f"Galaxies of {catalog}", _notes(schema, ordered)
    page = render("gallery.html", VERB, title, facts=facts, cards=ordered, classes=notes)
    storage.write_bytes(out, page.encode())
    without = sum(card.image is None for card in ordered)
    return SampleSummary(out, matching, len(rows), without, len(wanted), unread)


def _choose(
    catalog: str, where: str | None, cone: Cone | None, count: int, order: str, seed: int
) -> tuple[list[dict[str, Any]], int]:
    """Rows with the names of their parts, in order, and how many the filter leaves."""
    connection = open_catalog(catalog, cone)
    conditions = [f"({condition}\n)" for condition in (where, cone and cone.condition()) if condition]
    filtered = f"FROM {ROWS} WHERE {' AND '.join(conditions) or 'true'}"
    # A hash of the id is the same draw however the rows are cut into parts.
    keys = {"random": f"md5(concat(object_id, ':', {int(seed)}))", "confidence": "confidence NULLS LAST"}
    rows = ask(
        connection, f"SELECT * {filtered} ORDER BY {keys[order]}, object_id LIMIT {int(count)}"
    ).table()
    matching = ask(connection, f"SELECT count(*) AS n {filtered}").table()["n"][0].as_py()
    return rows.to_pylist(), int(matching)


def _card(row: Mapping[str, Any], cutout: Cutout | None, otherwise: str, classes: Mapping[str, str]) -> Card:
    """A card, with a placeholder that says `otherwise` if there is no image; columns by class."""
    shown, words = thumbnail(cutout, THUMBNAIL_PIXELS, otherwise, status=row["status"])
    return Card(
        object_id=str(row["object_id"]),
        label=row["label"],
        confidence=row["confidence"],
        probabilities={name: row[column] for name, column in classes.items()},
        ra=row["ra"],
        dec=row["dec"],
        status=row["status"],
        image=shown and shown.image,
        words=words,
        arcsec=shown and shown.arcsec,
    )


def _by_name(schema: pa.Schema) -> dict[str, str]:
    """As `classes_in`, of a catalog whose columns do not say what they are of."""
    columns = [name for name in schema.names if name.startswith("p_") and not name.startswith("p_stage")]
    return {name[2:].upper(): name for name in columns}


def _notes(schema: pa.Schema, cards: Sequence[Card]) -> list[ClassNote]:
    """What the classes are, each with the card that has the highest probability of it."""
    notes = []
    for name, words in class_words(schema).items():
        sure = [card for card in cards if card.image is not None and card.is_label(name)]
        best = max(sure, key=lambda card: card.probabilities[name] or 0.0, default=None)
        notes.append(ClassNote(name, class_sentence(name, words), best, {}))
    return notes


def _facts(
    where: str | None, cone: Cone | None, order: str, seed: int, shown: int, matching: int
) -> Sequence[str]:
    filters = [where] if where else []
    if cone is not None:
        filters.append(f"within {cone.radius:g}° of {cone.ra:g}°, {cone.dec:g}°")
    ordered = f"drawn at random, seed {seed}" if order == "random" else "the least confident first"
    rows = f"{shown:,} of {matching:,} rows" if matching > shown else f"all {shown:,} rows"
    return [f"{rows}{', ' + ordered if shown else ''}", *(f"where {text}" for text in filters)]
