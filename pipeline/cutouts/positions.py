"""The positions to cut: a table of any kind, or Parquet files and HATS catalogs, as one table in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.ingestion.text_tables import inferred, named_column, numbers, read_text_table
from pipeline.shards.cutout_shards import SHARD_SCHEMA, Columns, check_columns, list_shards
from pipeline.shards.object_ids import check_id_texts, first_duplicate, integer_ids
from pipeline.shards.parquet_rows import iter_parquet, whole_parquet
from pipeline.shards.sky_positions import on_the_sky

__all__ = ["OWN_COLUMNS", "PositionColumns", "read_positions"]

ID_NAMES = ("object_id", "objectId", "GalaxyID", "id", "objid", "source_id")
RA_NAMES = ("ra", "coord_ra", "RA", "ra_deg", "RAJ2000")
DEC_NAMES = ("dec", "coord_dec", "DEC", "Dec", "dec_deg", "DEJ2000")
OWN_COLUMNS = ("tile", "observed_share", "masked_share")
"""What the shards say of each cutout, beside the contract's columns."""
ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class PositionColumns:
    """What the columns of a table of positions are called; None: by the first usual name that it has.

    Parameters
    ----------
    id, ra, dec : str, optional
    scale : str, optional
        Of which the scale of each cutout is made.
    carry : tuple of str
        Further ones to keep.
    """

    id: str | None = None
    ra: str | None = None
    dec: str | None = None
    scale: str | None = None
    carry: tuple[str, ...] = ()


def read_positions(path: str, columns: PositionColumns) -> pa.Table:
    """A table of positions.

    Parameters
    ----------
    path : str
        CSV, TSV, ECSV, VOTable or FITS table, packed or not; Parquet file, folder or glob, HATS catalog too.
    columns : PositionColumns

    Returns
    -------
    pyarrow.Table
        ``object_id`` (int64 or string), ``ra`` and ``dec`` (degrees, null where they are no place on the
        sky), ``size`` (float64, of the column `scale`, null without one) and ``carry:<name>``.

    Raises
    ------
    UserError
        If there is no such table or column, or an id is missing, a float, or there twice.
    """
    for name in columns.carry:
        if name in (*SHARD_SCHEMA.names, *OWN_COLUMNS):
            raise UserError(f"--carry {name}: every shard has this column already, leave the option out")
    parquet = path.lower().rstrip("/").endswith(".parquet") or not _is_file(path)
    table = _of_parquet(path, columns) if parquet else _of_text(path, columns)
    if not table.num_rows:
        raise UserError(f"no row in {path}: a table of positions is wanted")
    ids = table["object_id"]
    if ids.null_count:
        row = pc.index(pc.is_null(ids), True).as_py()
        raise UserError(f"row {row + 1} of {path} has no id: give each row an id")
    twice = first_duplicate(ids)
    if twice is not None:
        raise UserError(f"object {twice!r} is in {path} more than once: give each row an id of its own")
    return on_the_sky(table)


def _is_file(path: str) -> bool:
    name = storage.absolute(path).removeprefix("file://")
    return [found for found, _ in storage.list_files(path)] == [name]


def _of_parquet(path: str, columns: PositionColumns) -> pa.Table:
    files = list_shards(path)
    with whole_parquet(files[0]) as parquet:
        names = _names(path, parquet.schema_arrow.names, columns)
    contract = Columns(id=names["object_id"], ra=names["ra"], dec=names["dec"])
    carry = [*columns.carry, *([columns.scale] if columns.scale else [])]
    check_columns(files, contract, ["object_id", "ra", "dec"], carry)
    types = {name: SHARD_SCHEMA.field(name).type for name in ("object_id", "ra", "dec")}
    pieces = [piece for file in files for piece in _pieces(file, contract, types, list(dict.fromkeys(carry)))]
    table = pa.concat_tables(pieces, promote_options="permissive")
    size = table[columns.scale] if columns.scale else pa.nulls(table.num_rows, pa.float64())
    try:
        size = size.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UserError(f"column {columns.scale!r} in {path} is {size.type}: numbers are wanted") from None
    kept = {name: table[name] for name in ("object_id", "ra", "dec")}
    return pa.table({**kept, "size": size, **{f"carry:{name}": table[name] for name in columns.carry}})


def _pieces(
    file: str, columns: Columns, types: dict[str, pa.DataType], carry: list[str]
) -> Iterator[pa.Table]:
    try:
        yield from iter_parquet(file, columns.standard_names(), types, carry, ROWS_AT_ONCE)
    except storage.StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file} is damaged: {str(error).splitlines()[0]}") from None


def _of_text(path: str, columns: PositionColumns) -> pa.Table:
    table = read_text_table(path)
    names = _names(path, table.column_names, columns)
    for name in [*columns.carry, *([columns.scale] if columns.scale else [])]:
        if name not in table.column_names:
            raise UserError(f"no column {name!r} in {path}: it has {', '.join(table.column_names)}")
    ids = table[names["object_id"]]
    check_id_texts(ids, path, names["object_id"])
    whole = integer_ids(ids)
    kept = {"object_id": ids if whole is None else whole}
    kept |= {name: numbers(table[names[name]]) for name in ("ra", "dec")}
    size = numbers(table[columns.scale]) if columns.scale else pa.nulls(table.num_rows, pa.float64())
    carried = {f"carry:{name}": inferred(table[name]) for name in columns.carry}
    return pa.table({**kept, "size": size, **carried})


def _names(path: str, there: Sequence[str], columns: PositionColumns) -> dict[str, str]:
    """The table's names of the contract's columns."""
    wanted = {
        "object_id": (columns.id, ID_NAMES, "--id-column"),
        "ra": (columns.ra, RA_NAMES, "--ra-column"),
        "dec": (columns.dec, DEC_NAMES, "--dec-column"),
    }
    return {standard: named_column(path, there, *how) for standard, how in wanted.items()}
