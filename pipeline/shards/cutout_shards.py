"""Cutout shards: Parquet files (or WebDataset tars) with one galaxy a row, read and written one way.

The contract of a shard: at most 4,096 rows or 64 MB, row groups of 256, and the columns of `SHARD_SCHEMA`
followed by any further ones. Files that hold the same under other column names are read in place through
`Columns`; so are Hugging Face image structs ``{bytes, path}`` and WebDataset tars, gzipped ones too.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from hiwl_core.near_names import or_meant
from pipeline import storage
from pipeline.shards.fingerprints import fingerprint_of
from pipeline.shards.fits_positions import fill_positions
from pipeline.shards.parquet_footer import check_not_encrypted, schema_of
from pipeline.shards.parquet_rows import is_id_type, is_image_type, is_number_type, iter_parquet
from pipeline.shards.side_files import without_side_files
from pipeline.shards.sky_positions import on_the_sky
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale
from pipeline.shards.webdataset import TAR_SUFFIXES, iter_samples

__all__ = [
    "CONTRACT_NAMES",
    "MAX_SHARD_BYTES",
    "MAX_SHARD_ROWS",
    "ROW_GROUP_ROWS",
    "SHARD_SCHEMA",
    "SHARD_SUFFIXES",
    "Columns",
    "ShardFacts",
    "check_columns",
    "check_schema",
    "encode_shard",
    "inspect_shard",
    "is_tar",
    "iter_rows",
    "list_shards",
    "read_columns",
    "shard_name",
]

MAX_SHARD_ROWS = 4096
MAX_SHARD_BYTES = 64 * 2**20
ROW_GROUP_ROWS = 256
SHARD_SUFFIXES = (".parquet", *TAR_SUFFIXES)

SHARD_SCHEMA = pa.schema(
    [
        pa.field("object_id", pa.int64(), nullable=False),
        pa.field("ra", pa.float64(), metadata={"unit": "deg"}),
        pa.field("dec", pa.float64(), metadata={"unit": "deg"}),
        pa.field("image", pa.binary()),
        pa.field("pixel_scale", pa.float32(), metadata={"unit": "arcsec/pixel"}),
        pa.field("label", pa.string()),
    ]
)
"""Columns of a cutout shard; `object_id` is a string where the survey's ids are not 64-bit integers."""


@dataclass(frozen=True)
class Columns:
    """What the columns are called in the user's files.

    Each verb that reads shards takes ``--id-column`` and the like. A missing optional column (all but the id
    and the image) reads as null.
    """

    id: str = "object_id"
    image: str = "image"
    label: str = "label"
    ra: str = "ra"
    dec: str = "dec"
    pixel_scale: str = "pixel_scale"

    def standard_names(self) -> dict[str, str]:
        """From the contract's names to the file's."""
        return {
            "object_id": self.id,
            "ra": self.ra,
            "dec": self.dec,
            "image": self.image,
            "pixel_scale": self.pixel_scale,
            "label": self.label,
        }


CONTRACT_NAMES = Columns()
"""Those of our own shards."""


@dataclass(frozen=True)
class ShardFacts:
    """What a look at a shard's ends tells.

    Parameters
    ----------
    schema : pyarrow.Schema or None
        None for a tar, whose members each have their own.
    rows : int or None
        None for a tar, which would have to be read to its end.
    fingerprint : str
    """

    schema: pa.Schema | None
    rows: int | None
    fingerprint: str


def list_shards(shards: str) -> list[str]:
    """The shards behind a command-line argument, sorted; see `pipeline.storage.find_files`.

    Files that repeat the rows of others are none of them; see `pipeline.shards.side_files`.
    """
    return without_side_files(storage.find_files(shards, SHARD_SUFFIXES))


def inspect_shard(shard: str) -> ShardFacts:
    """Schema, rows and fingerprint of a shard.

    Raises
    ------
    UserError
        If it is not a Parquet file, or a tar.
    """
    with storage.open_input(shard) as file:
        mark = fingerprint_of(file)
        if is_tar(shard):
            return ShardFacts(None, None, mark)
        parquet = _parquet(shard, file)
        return ShardFacts(schema_of(parquet, file), int(parquet.metadata.num_rows), mark)


def shard_name(name: str, index: int, count: int) -> str:
    """``train-00003-of-00042.parquet``."""
    return f"{name}-{index:05d}-of-{count:05d}.parquet"


def encode_shard(table: pa.Table, source: str) -> bytes:
    """A shard's file content.

    Parameters
    ----------
    table : pyarrow.Table
        The columns of `SHARD_SCHEMA` in that order, `object_id` int64 or string, then any others.
    source : str
        What made the shard; kept in the file metadata under ``hiwl.source``.
    """
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"hiwl.source": source.encode()})
    buffer = io.BytesIO()
    # Encoded images do not compress any further, and dictionaries of them only cost time.
    pq.write_table(
        table,
        buffer,
        row_group_size=ROW_GROUP_ROWS,
        compression={name: "NONE" if name == "image" else "ZSTD" for name in table.column_names},
        use_dictionary=[name for name in table.column_names if name == "label"],
    )
    return buffer.getvalue()


def check_columns(
    shards: Sequence[str],
    columns: Columns,
    required: Sequence[str],
    carry: Sequence[str] = (),
    scale: WantedScale = AS_IT_IS,
) -> None:
    """Check, before any work, that each shard can be read and has the columns that the work needs.

    Parameters
    ----------
    shards : sequence of str
    columns : Columns
    required : sequence of str
        Contract names (`object_id`, `image`, `label`, ...) that must be there.
    carry : sequence of str
        Further columns of the file that must be there.
    scale : WantedScale
        Its column must be there and hold numbers.

    Raises
    ------
    UserError
        Naming the column, the shard and the columns it has.
    """
    for shard, schema in zip(shards, storage.in_threads(_shard_schema, shards), strict=True):
        if schema is not None:
            check_schema(shard, schema, columns, required, carry, scale)


def iter_rows(
    shard: str,
    columns: Columns,
    wanted: Sequence[str],
    carry: Sequence[str] = (),
    batch_rows: int = ROW_GROUP_ROWS,
) -> Iterator[pa.Table]:
    """The rows of a shard in order, a few at a time, under the contract's names and types.

    Parameters
    ----------
    shard : str
        Path or URL.
    columns : Columns
        The file's names.
    wanted : sequence of str
        Contract names to read; those that the file lacks are null.
    carry : sequence of str
        Further columns, read as they are.
    batch_rows : int
        Rows a table, at most.

    Yields
    ------
    pyarrow.Table
        Columns `wanted` then `carry`. At least one, which is empty if the shard is. Those of a tar have the
        string column `STATUS_COLUMN` last: the status of a row that is not to be classified, null elsewhere.
        Where `ra`, `dec` and `image` are wanted, null positions come from the headers of FITS images. Where
        both are, what is no place on the sky is null; see `pipeline.shards.sky_positions`.
    """
    read = iter_samples if is_tar(shard) else iter_parquet
    types = {standard: SHARD_SCHEMA.field(standard).type for standard in wanted}
    for table in read(shard, columns.standard_names(), types, carry, batch_rows):
        yield on_the_sky(fill_positions(table))


def read_columns(shard: str, columns: Columns, wanted: Sequence[str], carry: Sequence[str] = ()) -> pa.Table:
    """All rows of a shard at once; see `iter_rows`. For columns other than the image, or small shards."""
    tables = iter_rows(shard, columns, wanted, carry, batch_rows=65536)
    # What a tar's JSON members hold has the type of each table's values.
    return pa.concat_tables(tables, promote_options="permissive")


def is_tar(shard: str) -> bool:
    """Whether a shard is a WebDataset tar, plain or gzipped, by its name."""
    return shard.lower().endswith(TAR_SUFFIXES)


def _shard_schema(shard: str) -> pa.Schema | None:
    """The schema of a Parquet shard; None for a tar, whose members each have their own."""
    if is_tar(shard):
        return None
    with storage.open_input(shard) as file:
        return schema_of(_parquet(shard, file), file)


def _parquet(shard: str, file: BinaryIO) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except storage.StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{shard} is not a Parquet file: {str(error).splitlines()[0]}") from None


def check_schema(
    shard: str,
    schema: pa.Schema,
    columns: Columns,
    required: Sequence[str],
    carry: Sequence[str],
    scale: WantedScale = AS_IT_IS,
) -> None:
    """Check one shard's schema; see `check_columns`."""
    names = columns.standard_names()
    for standard in required:
        if names[standard] not in schema.names:
            option = f"--{'id' if standard == 'object_id' else standard}-column"
            mend = or_meant(names[standard], schema.names, f"{option} {{}}") or f"; name it with {option}"
            raise UserError(
                f"no column {names[standard]!r} in {shard}: it has {', '.join(schema.names)}{mend}"
            )
    for name in carry:
        if name not in schema.names:
            there = ", ".join(schema.names) + or_meant(name, schema.names)
            raise UserError(f"no column {name!r} to carry in {shard}: it has {there}")
    read = [names[standard] for standard in dict.fromkeys([*required, "ra", "dec", *scale.wanted])]
    check_not_encrypted(shard, schema, [*read, *carry, *scale.carry])
    for name in dict.fromkeys([*names.values(), *carry, *scale.carry]):
        if schema.names.count(name) > 1:
            raise UserError(f"{shard} has {schema.names.count(name)} columns {name!r}: rename all but one")
    if names["object_id"] in schema.names:
        _check_ids(shard, names["object_id"], schema.field(names["object_id"]).type)
    if "image" in required and not is_image_type(schema.field(names["image"]).type):
        raise UserError(
            f"column {names['image']!r} in {shard} is {schema.field(names['image']).type}: "
            "the bytes of JPEG, PNG or FITS files are wanted; name their column with --image-column"
        )
    for standard, option in (
        ("ra", "--ra-column"),
        ("dec", "--dec-column"),
        ("pixel_scale", "--pixel-scale-column"),
    ):
        _check_number(shard, schema, names[standard], option)
    for name in scale.carry:
        if name not in schema.names:
            there = ", ".join(schema.names)
            raise UserError(f"no column {name!r} in {shard}: it has {there}; see --scale-column")
        _check_number(shard, schema, name, "--scale-column")


def _check_ids(shard: str, name: str, kind: pa.DataType) -> None:
    if not is_id_type(kind):
        floats = pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        why = ", since a float loses a survey id's last digits" if floats else "; see --id-column"
        raise UserError(f"column {name!r} in {shard} is {kind}: object ids must be integers or strings{why}")


def _check_number(shard: str, schema: pa.Schema, name: str, option: str) -> None:
    if name in schema.names and not is_number_type(schema.field(name).type):
        raise UserError(
            f"column {name!r} in {shard} is {schema.field(name).type}: numbers are wanted; see {option}"
        )
