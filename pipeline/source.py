"""What `ingest` reads: a folder or zip of images, or Parquet files. Listed here by name and size alone."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.object_ids import first_duplicate, integer_ids
from pipeline.shards import Columns
from pipeline.source_parquet import ParquetColumns, list_rows

__all__ = ["IMAGE_SUFFIXES", "Source", "take_inventory"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Source:
    """A source and the objects in it.

    Parameters
    ----------
    kind : {"files", "zip", "parquet"}
    place : str
        Absolute path or URL.
    objects : pyarrow.Table
        One object a row, in the source's order: ``object_id`` (int64, or string if one of them is no
        64-bit integer), ``file`` (path, or member of the zip), ``row`` (int64, within a Parquet file; null
        for images), ``size`` (int64, bytes of the image, estimated for Parquet) and ``label`` (string).
    other_files : int
        Files that are no images.
    parquet : ParquetColumns
        The columns of a Parquet source; empty for images.
    """

    kind: Literal["files", "zip", "parquet"]
    place: str
    objects: pa.Table
    other_files: int = 0
    parquet: ParquetColumns = field(default_factory=ParquetColumns)

    def id_texts(self) -> pa.ChunkedArray:
        """The object ids as strings, exact."""
        return self.objects["object_id"].cast(pa.string())


def take_inventory(source: str, columns: Columns, out: str, carry: Iterable[str] = ()) -> Source:
    """List the objects of a source without reading an image.

    Parameters
    ----------
    source : str
        A folder, a zip file, a Parquet file or a glob of images or Parquet files; path or URL.
    columns : Columns
        What the columns of Parquet files are called.
    out : str
        The folder that will be written, which is no part of the source though it may lie in it.
    carry : iterable of str
        Further columns of Parquet files to keep, if they are there.

    Returns
    -------
    Source

    Raises
    ------
    UserError
        If there is nothing to read, a file is broken, columns are missing, or an id stands for two images.
    """
    place = storage.absolute(source)
    if not storage.exists(source) and not storage.GLOB_CHARACTERS & set(source):
        raise UserError(f"no file or folder {source!r}: check the path (globs need quotes)")
    if _within(place, out) or _plain(place) == _plain(out):
        raise UserError(f"{out!r} is where the source is: choose another folder for the shards")
    if source.lower().endswith(".zip"):
        return _images("zip", place, _list_zip(source))
    files = [(name, size) for name, size in storage.list_files(source) if not _within(name, out)]
    images = [name for name, _ in files if name.lower().endswith(IMAGE_SUFFIXES)]
    tables = [name for name, _ in files if name.lower().endswith(".parquet")]
    if tables and not images:
        objects, parquet = list_rows(tables, columns, carry)
        return Source("parquet", place, _checked(objects), len(files) - len(tables), parquet)
    return _images("files", place, files)


def _images(kind: Literal["files", "zip"], place: str, files: list[tuple[str, int]]) -> Source:
    images = sorted((name, size) for name, size in files if name.lower().endswith(IMAGE_SUFFIXES))
    if not images:
        raise UserError(
            f"no image in {place!r}: {' or '.join(IMAGE_SUFFIXES)} files, a zip of them, or .parquet files "
            f"are wanted, and there are {len(files)} other files (globs need quotes)"
        )
    # The last dot ends the id: names such as J1234+56.7.jpg hold dots of their own.
    stems = pa.array([posixpath.basename(name).rpartition(".")[0] for name, _ in images], pa.string())
    integers = integer_ids(stems)
    objects = pa.table(
        {
            "object_id": stems if integers is None else integers,
            "file": pa.array([name for name, _ in images], pa.string()),
            "row": pa.nulls(len(images), pa.int64()),
            "size": pa.array([size for _, size in images], pa.int64()),
            "label": pa.nulls(len(images), pa.string()),
        }
    )
    return Source(kind, place, _checked(objects), len(files) - len(images))


def _checked(objects: pa.Table) -> pa.Table:
    repeated = first_duplicate(objects["object_id"].cast(pa.string()))
    if repeated is not None:
        where = objects.filter(pc.equal(objects["object_id"].cast(pa.string()), repeated)).slice(0, 2)
        first, second = (
            file if row is None else f"row {row + 1} of {file}"
            for file, row in zip(where["file"].to_pylist(), where["row"].to_pylist(), strict=True)
        )
        raise UserError(
            f"object id {repeated!r} stands for two images, {first} and {second}: rename or remove one"
        )
    return objects


def _list_zip(source: str) -> list[tuple[str, int]]:
    try:
        with storage.open_input(source) as file, zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
            members = [(info.filename, info.file_size) for info in infos]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UserError(f"{source!r} is a broken zip file: {error}; make or fetch it again") from None
    return [(name, size) for name, size in members if not storage.hidden(name)]


def _within(name: str, folder: str) -> bool:
    return _plain(name).startswith(_plain(folder) + "/")


def _plain(path: str) -> str:
    """A path to compare: absolute, without the prefix that local paths may have."""
    return storage.absolute(path).removeprefix("file://").rstrip("/")
