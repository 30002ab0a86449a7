"""VOParquet: the units, UCDs and descriptions of a table's columns as a VOTable in its Parquet footer.

Footer keys as in the IVOA Note "VOParquet": a VOTable document without data, one FIELD a column. Beside them
stand the widths of the text columns under the keys that astropy looks for; without them its reader goes
through each string and fails at a null.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from astropy.io.votable.tree import Field, Resource, TableElement, VOTableFile

from pipeline.catalog.catalog_schema import column_notes

__all__ = ["is_plain_text", "text_widths", "with_votable"]

VERSION_KEY = b"IVOA.VOTable-Parquet.version"
CONTENT_KEY = b"IVOA.VOTable-Parquet.content"

# Arrow types and the VOTable types that hold their values.
DATATYPES = {
    pa.bool_(): "boolean",
    pa.uint8(): "unsignedByte",
    pa.int8(): "short",
    pa.int16(): "short",
    pa.uint16(): "int",
    pa.int32(): "int",
    pa.uint32(): "long",
    pa.int64(): "long",
    pa.uint64(): "long",
    pa.float16(): "float",
    pa.float32(): "float",
    pa.float64(): "double",
}


def is_plain_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def text_widths(table: pa.Table) -> dict[str, int]:
    """The longest string of each text column, in characters; at least 1."""
    return {
        field.name: max(pc.max(pc.utf8_length(table[field.name])).as_py() or 1, 1)
        for field in table.schema
        if is_plain_text(field.type)
    }


def with_votable(schema: pa.Schema, name: str, widths: Mapping[str, int]) -> pa.Schema:
    """The schema with the VOParquet metadata of its columns.

    Parameters
    ----------
    schema : pyarrow.Schema
        Its fields' metadata may have ``unit``, ``ucd`` and ``description``.
    name : str
        Of the table.
    widths : mapping of str to int
        Of the text columns, in characters (`text_widths`).

    Returns
    -------
    pyarrow.Schema
        The same fields; the schema's own metadata are the footer keys.
    """
    document = VOTableFile()
    resource = Resource()
    document.resources.append(resource)
    table = TableElement(document, name=name)
    resource.tables.append(table)
    for field in schema:
        table.fields.append(_field(document, field, widths))
    content = io.BytesIO()
    document.to_xml(content)
    lengths = {f"table::len::{column}".encode(): str(width).encode() for column, width in widths.items()}
    return schema.with_metadata({VERSION_KEY: b"1.0", CONTENT_KEY: content.getvalue(), **lengths})


def _field(document: VOTableFile, field: pa.Field, widths: Mapping[str, int]) -> Field:
    said = column_notes(field)
    kind, arraysize = field.type, None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind, arraysize = kind.value_type, "*"
    elif pa.types.is_fixed_size_list(kind):
        kind, arraysize = kind.value_type, str(kind.list_size)
    if field.name in widths:
        # A width, since astropy cannot make an empty column of strings without one.
        datatype, arraysize = "unicodeChar", f"{widths[field.name]}*"
    elif kind in DATATYPES:
        datatype = DATATYPES[kind]
    else:
        # Times, bytes and structs have no like in VOTable; the column's place and words are kept.
        datatype, arraysize = "unicodeChar", "64*"
    made = Field(
        document,
        ID=field.name,
        name=field.name,
        datatype=datatype,
        arraysize=arraysize,
        unit=said.get("unit") or None,
        ucd=said.get("ucd") or None,
    )
    made.description = said.get("description") or None
    return made
