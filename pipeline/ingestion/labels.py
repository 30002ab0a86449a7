"""The labels table that `ingest` joins to images: an id, a class, and what else is known of an object."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.errors import UserError
from hiwl_core.image_formats import IMAGE_SUFFIXES
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy
from pipeline.ingestion.split import SKY, Split, sky_cells
from pipeline.ingestion.text_tables import inferred, named_column, numbers, read_text_table
from pipeline.shards.cutout_shards import SHARD_SCHEMA
from pipeline.shards.object_ids import check_id_texts, first_duplicate
from pipeline.shards.parquet_rows import check_row_count, whole_parquet
from pipeline.shards.plain_columns import (
    class_names,
    is_bytes,
    is_text,
    plain,
    standard_ids,
    texts,
    with_class_names,
)

__all__ = ["OTHER_CLASSES", "UNLABELED", "LabelsTable", "read_classes", "read_labels"]

ID_COLUMNS = ("GalaxyID", "object_id", "id")
CLASS_COLUMNS = ("class", "label")
POSITION_COLUMNS = ("ra", "dec", "pixel_scale")
SERIES_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
OTHER_CLASSES = "rename it with --map OLD=NEW, or name classes of your own (`hiwl taxonomy new`, --taxonomy)"
"""The mend for a class that is not in the taxonomy."""
UNLABELED = "unlabeled"
"""The series of the objects without a label; no split may have its name."""


@dataclass(frozen=True)
class LabelsTable:
    """A labels table under the contract's names.

    Parameters
    ----------
    place : str
        Where it was read, for messages.
    id_column : str
        What the ids are called there.
    table : pyarrow.Table
        ``id`` and ``label`` (strings, label null if unknown), then those of ``split``, ``ra``, ``dec``,
        ``pixel_scale``, ``together`` (what objects are grouped by) and the carried columns that the file has.
    carried : tuple of str
        The carried columns that the file has.
    """

    place: str
    id_column: str
    table: pa.Table
    carried: tuple[str, ...]

    def without_endings(self) -> LabelsTable:
        """The same, if the ids are all names of image files, with what comes before their endings as ids."""
        endings = "|".join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES, key=len, reverse=True))
        pattern, ids = f"(?i)({endings})$", self.table["id"]
        if not len(ids) or not pc.all(pc.match_substring_regex(ids, pattern)).as_py():
            return self
        place = self.table.column_names.index("id")
        return replace(
            self, table=self.table.set_column(place, "id", pc.replace_substring_regex(ids, pattern, ""))
        )

    def check_ids(self, known: pa.Array, example: str) -> None:
        """Check the ids against those of the source, whose spelling is right by definition.

        Parameters
        ----------
        known : pyarrow.Array of bool
            Which of the ids are those of an object of the source.
        example : str
            An id of the source, for the message.

        Raises
        ------
        UserError
            If an id is missing, a float, there twice, or if not one of them is known.
        """
        ids = self.table["id"]
        check_id_texts(ids, self.place, self.id_column, known)
        repeated = first_duplicate(ids)
        if repeated is not None:
            raise UserError(
                f"{self.id_column} {repeated!r} is in {self.place} twice: give each object one row"
            )
        if not pc.any(known, min_count=0).as_py():
            first = ids[0].as_py() if len(ids) else None
            raise UserError(
                f"no {self.id_column} of {self.place} (such as {first!r}) names an object of the source "
                f"(such as {example!r}): check that they belong together"
            )


def read_labels(
    path: str,
    id_column: str | None = None,
    class_column: str | None = None,
    carry: Sequence[str] = (),
    taxonomy: Taxonomy = GALAXY_ZOO,
    split: Split | None = None,
    renamed: Mapping[str, str] | None = None,
) -> LabelsTable:
    """Read and check a labels table.

    Parameters
    ----------
    path : str
        Parquet, or a table that `pipeline.ingestion.text_tables.read_text_table` reads; local or URL.
    id_column : str, optional
        By default the first of ``GalaxyID``, ``object_id``, ``id`` that is there.
    class_column : str, optional
        By default the first of ``class``, ``label``.
    carry : sequence of str
        Further columns to keep, if they are there.
    taxonomy : Taxonomy
        Its classes are the allowed ones.
    split : Split, optional
        By which the objects will be split; the table then has no split of its own.
    renamed : mapping of str, optional
        What classes of the table are called in the taxonomy.

    Returns
    -------
    Labels

    Raises
    ------
    UserError
        If there is no such table or column, if a class is unknown, a split cannot name files, an object
        has a class and no split, a position is not a number, or what the split needs is not there.
    """
    group_by = split.group_by if split else None
    table, names, as_text = _read_table(path, [id_column, class_column, group_by, *carry])
    id_name = named_column(path, names, id_column, ID_COLUMNS, "--labels-id-column")
    class_name = named_column(path, names, class_column, CLASS_COLUMNS, "--labels-class-column")

    columns = {"id": _texts(path, table, id_name), "label": _texts(path, table, class_name)}
    columns["label"] = pc.if_else(pc.equal(columns["label"], ""), None, columns["label"])
    for there, wanted in (renamed or {}).items():
        columns["label"] = pc.if_else(pc.equal(columns["label"], there), wanted, columns["label"])
    try:
        taxonomy.encode(columns["label"].drop_null().unique().to_pylist())
    except UserError as error:
        raise UserError(f"{path}, column {class_name!r}: {error}; {OTHER_CLASSES}") from None
    if "split" in names and split:
        raise UserError(f"--split: {path} has a column 'split' already; leave the option out, or the column")
    if "split" in names:
        columns["split"] = _texts(path, table, "split")
        _check_splits(path, columns)
    for name in POSITION_COLUMNS:
        if name in names:
            columns[name] = _position(path, table[name], name)
    if group_by is not None:
        columns["together"] = _groups(path, table, names, columns, group_by)
    carried = tuple(name for name in carry if name in names)
    carried_columns = {name: inferred(table[name]) if as_text else plain(table[name]) for name in carried}
    # Carried columns have a prefix here, since a split or class may be carried under its own name too.
    prefixed = {f"carry:{name}": column for name, column in carried_columns.items()}
    return LabelsTable(path, id_name, pa.table({**columns, **prefixed}).combine_chunks(), carried)


def read_classes(path: str, column: str | None = None) -> list[str | None]:
    """The classes of a labels table as they are there, whatever they are called.

    Parameters
    ----------
    path : str
    column : str, optional
        By default the first of ``class``, ``label``.

    Raises
    ------
    UserError
        If there is no such table or column.
    """
    table, names, _ = _read_table(path, [column])
    name = named_column(path, names, column, CLASS_COLUMNS, "--class-column")
    found: list[str | None] = _texts(path, table, name).to_pylist()
    return found


def _groups(
    path: str, table: pa.Table, names: Sequence[str], columns: dict[str, pa.Array], group_by: str
) -> pa.Array:
    """What each object stays together with."""
    if group_by == SKY and SKY not in names:
        if not {"ra", "dec"} <= columns.keys():
            raise UserError(f"--group-by sky: {path} has no columns ra and dec, in degrees")
        return sky_cells(columns["ra"], columns["dec"])
    if group_by not in names:
        raise UserError(
            f"no column {group_by!r} in {path} for --group-by: it has {', '.join(names)}, and sky"
        )
    groups = pc.cast(table[group_by], pa.string())
    # An empty cell says nothing of what an object belongs to.
    groups = pc.if_else(pc.equal(groups, ""), None, groups)
    return groups.combine_chunks() if isinstance(groups, pa.ChunkedArray) else groups


def _read_table(path: str, wanted: Sequence[str | None]) -> tuple[pa.Table, list[str], bool]:
    """The table, its column names, and whether its columns are text yet to be understood."""
    if not path.lower().endswith(".parquet"):
        table = read_text_table(path)
        return table, table.column_names, True
    with whole_parquet(path) as parquet:
        there = list(parquet.schema_arrow.names)
        # Never the images that a table of objects may hold too.
        read = {*ID_COLUMNS, *CLASS_COLUMNS, *POSITION_COLUMNS, "split", *wanted}
        names = [name for name in there if name in read]
        for name in names:
            if there.count(name) > 1:
                raise UserError(f"{path} has {there.count(name)} columns {name!r}: rename all but one")
        table = parquet.read(columns=names)
        if names:
            check_row_count(int(parquet.metadata.num_rows), table.num_rows)
        return with_class_names(table, class_names(parquet.schema_arrow)), there, False


def _texts(path: str, table: pa.Table, name: str) -> pa.Array:
    column = table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_decimal(kind) and kind.scale == 0:
        column = standard_ids(column)
    elif not (pa.types.is_integer(kind) or is_text(kind) or is_bytes(kind)):
        raise UserError(f"column {name!r} in {path} is {kind}: integers or strings are wanted")
    found = texts(column)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _check_splits(path: str, columns: dict[str, pa.Array]) -> None:
    for split in columns["split"].unique().to_pylist():
        if split and (split == UNLABELED or not re.fullmatch(SERIES_NAME, split)):
            raise UserError(f"split {split!r} in {path} cannot name shards: use train, val and test")
    without = pc.and_(pc.is_valid(columns["label"]), pc.fill_null(pc.equal(columns["split"], ""), True))
    if pc.any(without, min_count=0).as_py():
        row = pc.index(without, True).as_py()
        identifier = columns["id"][row].as_py()
        raise UserError(f"object {identifier!r} in {path} has a class and no split: give it one")


def _position(path: str, column: pa.ChunkedArray, name: str) -> pa.Array:
    texts = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    values = numbers(column.cast(pa.string())) if texts else column
    if values.null_count > column.null_count:
        row = pc.index(pc.and_(pc.is_null(values), pc.is_valid(column)), True).as_py()
        raise UserError(f"row {row + 1} of {path}: {name} {column[row].as_py()!r} is not a number")
    try:
        return values.cast(SHARD_SCHEMA.field(name).type, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UserError(f"column {name!r} in {path} is {column.type}: numbers are wanted") from None
