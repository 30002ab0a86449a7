"""The Parquet files of a catalog, unpublished or published, and what DuckDB may read of them.

An unpublished catalog is a folder of parts. A published one is a HATS collection, one file a tile of the
sky; the folder names ``Norder=`` and ``Dir=`` are no columns here, and its margins are no rows. Parts that a
verification has seen as they are now (`pipeline.catalog.part_statistics`) need not be opened first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import pyarrow as pa
import pyarrow.dataset as ds

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.catalog.manifest import read_making
from pipeline.catalog.part_statistics import KnownPart, read_statistics
from pipeline.catalog.parts import making_in
from pipeline.querying.cone import Cone
from pipeline.storage.listing import is_pattern
from pipeline.storage.retries import is_transient

__all__ = ["PART_COLUMN", "CatalogFiles", "find_catalog", "scan"]

PART_COLUMN = "_part"
TILE = re.compile(r"dataset/Norder=(\d+)/Dir=\d+/Npix=(\d+)(?:/[^/]+)?\.parquet$")
COLLECTION = "collection.properties"
WITHOUT_POSITION = "no_position"
# The box of a part in which no row has a position.
NOWHERE = (math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class CatalogFiles:
    """Where the rows of a catalog are.

    Parameters
    ----------
    paths : list of str
        Absolute paths or URLs, at least one.
    tiles : list of (int, int) or None
        Order and pixel of each file of a published catalog.
    beside : list of str
        Files of a published catalog with the rows that have no position, or an impossible one.
    sizes : dict of int
        Bytes of each file, as listed.
    known : dict of KnownPart
        What is known of parts in the state in which they are listed, by path.
    making : str
        What all parts were made by, as the header of an unpublished catalog says; empty for others.
    """

    paths: list[str]
    tiles: list[tuple[int, int]] | None = None
    beside: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    known: dict[str, KnownPart] = field(default_factory=dict)
    making: str = ""

    def within(self, cone: Cone) -> CatalogFiles:
        """Only the tiles that a cone touches, and parts of which that is not excluded; one at least."""
        if self.tiles is None:
            # One of each schema stays, for its columns.
            needed = set({known.schema: path for path, known in self.known.items()}.values())
            boxes = [known.box or NOWHERE for known in self.known.values()]
            touched = dict(zip(self.known, cone.touched_boxes(boxes).tolist(), strict=True))
            kept = [path for path in self.paths if path in needed or touched.get(path, True)]
            return replace(self, paths=kept)
        chosen = cone.touched(self.tiles).nonzero()[0].tolist() or [0]
        paths, tiles = [self.paths[i] for i in chosen], [self.tiles[i] for i in chosen]
        return CatalogFiles(paths, tiles, self.beside, self.sizes)


def find_catalog(catalog: str) -> CatalogFiles:
    """The files of a catalog.

    Parameters
    ----------
    catalog : str
        The folder of an unpublished catalog, a HATS collection or a catalog in it, or a file or a glob of
        parts; local or a URL.

    Raises
    ------
    UserError
        If there is none.
    """
    root = storage.absolute(catalog).rstrip("/")
    entries = sorted(storage.iter_entries(root), key=lambda entry: entry.path)
    sizes = {entry.path: entry.size for entry in entries}
    names = list(sizes)
    if not names:
        raise UserError(f"no catalog at {catalog!r}: check the path (globs need quotes)")
    inside = {name: name[len(root) :].lstrip("/") for name in names}
    beside: list[str] = []
    if COLLECTION in inside.values():
        beside = [name for name, place in inside.items() if place.startswith(f"{WITHOUT_POSITION}/")]
        primary = _primary(f"{root}/{COLLECTION}")
        inside = {name: place for name, place in inside.items() if place.startswith(f"{primary}/")}
    tiles = {name: match for name in inside if (match := TILE.search(name))}
    if tiles:
        places = [(int(match[1]), int(match[2])) for match in tiles.values()]
        beside = [name for name in beside if name.endswith(".parquet")]
        return CatalogFiles(list(tiles), places, beside, sizes)
    # Parts are flat in their folder: what is deeper is something else.
    whole = names == [root] or is_pattern(root)
    parts = [
        name for name, place in inside.items() if name.endswith(".parquet") and (whole or "/" not in place)
    ]
    if not parts:
        raise UserError(
            f"no catalog at {catalog!r}: there is no Parquet part in it; "
            "give the folder that `hiwl classify` wrote"
        )
    flat = set(parts)
    known = {} if whole else read_statistics(root, [entry for entry in entries if entry.path in flat])
    return CatalogFiles(parts, sizes=sizes, known=known, making="" if whole else read_making(root))


def scan(files: CatalogFiles) -> list[ds.Dataset]:
    """The rows of a catalog as Arrow datasets, one for each schema among its files.

    DuckDB reads of a dataset only the columns that a query names and the row groups that its filters leave,
    and needs no access to files of its own for that. Each has one more column, `PART_COLUMN`: the file's.

    Raises
    ------
    UserError
        If one of the files is not Parquet, or was made otherwise than its catalog.
    """
    form = ds.ParquetFileFormat()
    filesystem, _ = storage.arrow_path(files.paths[0])

    @cache
    def place_of(folder: str) -> str:
        return storage.arrow_path(folder)[1]

    def fragment(path: str) -> ds.ParquetFileFragment:
        folder, _, name = path.rpartition("/")
        place = f"{place_of(folder)}/{name}"
        # With its size a file in S3 need not be asked for it first.
        return form.make_fragment(
            place,
            filesystem,
            partition_expression=ds.field(PART_COLUMN) == name,
            file_size=files.sizes.get(path),
        )

    paths = [*files.paths, *files.beside]
    fragments = [fragment(path) for path in paths]
    # The writer of a published catalog gives all its tiles the same columns; parts may differ.
    alike = len(files.paths) if files.tiles is not None else 1

    @cache
    def parsed(text: bytes) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(text))

    def schema(number: int) -> pa.Schema:
        if paths[number] in files.known:
            return parsed(files.known[paths[number]].schema)
        try:
            fragments[
                number
            ].ensure_complete_metadata()  # read once, here, many at a time; a scan uses it again
            found: pa.Schema = fragments[number].physical_schema
        except (pa.ArrowException, OSError) as error:
            if is_transient(error):
                raise
            words = str(error).splitlines()[0]
            raise UserError(f"{paths[number]} is not a Parquet file: {words}") from None
        # The others were looked at by `verify`.
        if files.making and making_in(found.metadata) not in ("", files.making):
            raise UserError(
                f"{paths[number]} was made by another model or with other settings than its catalog: "
                "`hiwl verify` tells which parts were; remove them and classify again"
            )
        return found

    numbers = [0, *range(alike, len(paths))]
    unknown = [number for number in numbers if paths[number] not in files.known]
    opened = dict(zip(unknown, storage.in_threads(schema, unknown), strict=True))
    asked = [opened[number] if number in opened else schema(number) for number in numbers]
    schemas = asked[:1] * alike + asked[1:]
    words: dict[int, str] = {}
    groups: dict[str, list[int]] = {}
    for index, found in enumerate(schemas):
        # Those that are known are few objects for many parts.
        if id(found) not in words:
            words[id(found)] = found.to_string(show_field_metadata=False, show_schema_metadata=False)
        groups.setdefault(words[id(found)], []).append(index)
    return [_dataset(schemas[of[0]], [fragments[i] for i in of], form, filesystem) for of in groups.values()]


def _dataset(
    schema: pa.Schema, fragments: Sequence[ds.Fragment], form: ds.FileFormat, filesystem: object
) -> ds.Dataset:
    return ds.FileSystemDataset(
        list(fragments), schema.append(pa.field(PART_COLUMN, pa.string())), form, filesystem
    )


def _primary(properties: str) -> str:
    """The folder of the catalog itself in a collection, beside its margins and indexes."""
    lines = storage.read_bytes(properties).decode().splitlines()
    pairs = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    settings = {key.strip(): value.strip() for key, value in pairs.items()}
    if "hats_primary_table_url" not in settings:
        raise UserError(f"no hats_primary_table_url in {properties}: this is not a HATS collection")
    return settings["hats_primary_table_url"].strip("/")
