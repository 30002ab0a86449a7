"""Which cutout is in which shard, decided before any pixel is read, and kept in the folder of the shards.

``OUT/_ingest`` is laid out as by `ingest`, with ``tiles.json`` beside ``plan.json``. Shards ``cutouts-*`` are
of tiles that no other shard outside their task needs, so that a task reads its tiles once; shards
``stitched-*`` are of cutouts that go beyond their tile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hiwl_core.errors import UserError
from hiwl_core.image_formats import FITS_SUFFIXES
from hiwl_core.stamps import StampSettings
from pipeline import storage
from pipeline.cutouts.assignment import Assignment, assign
from pipeline.cutouts.positions import PositionColumns, read_positions
from pipeline.cutouts.tile_headers import Wanted, describe_files
from pipeline.cutouts.tiles import Tile, join_tiles, tile_of
from pipeline.ingestion.folder import IngestFolder
from pipeline.ingestion.shard_plan import IngestPlan, cut_shards, plan_lines, write_objects
from pipeline.shards.cutout_shards import MAX_SHARD_BYTES, MAX_SHARD_ROWS
from pipeline.shards.wanted_scale import WantedScale
from pipeline.storage import Entry
from pipeline.task_pool import TaskPool

__all__ = [
    "CUTOUTS",
    "CutoutOptions",
    "check_tiles_unchanged",
    "describe_tiles",
    "digest_of",
    "iter_planned",
    "make_cutout_plan",
    "read_tiles",
    "tile_entries",
]

FILES_A_TASK = 16
CUTOUTS, STITCHED = "cutouts", "stitched"
PIECES_BYTES = 256 * 2**20
"""Of the parts of tiles that a shard is stitched of."""


@dataclass(frozen=True)
class CutoutOptions:
    """What decides, besides the tiles, what the shards will hold."""

    positions: str
    columns: PositionColumns
    settings: StampSettings
    scale: WantedScale
    mask_planes: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Plain data, by the words that a user knows the options by."""
        rgb = self.settings.rgb
        return {
            "POSITIONS": storage.absolute(self.positions),
            **{f"the column of {name}": value for name, value in asdict(self.columns).items()},
            "--bands": list(self.settings.bands),
            "--size": self.settings.size,
            "--recipe": rgb.model_dump(mode="json") if rgb else None,
            "--scale": self.scale.value,
            "--scale-factor": self.scale.factor,
            "--mask-planes": list(self.mask_planes),
            "the number of rows in a shard": MAX_SHARD_ROWS,
            "the number of bytes in a shard": MAX_SHARD_BYTES,
        }


def make_cutout_plan(
    place: str, options: CutoutOptions, folder: IngestFolder, pool: TaskPool, claim: Callable[[], object]
) -> IngestPlan:
    """Look at all tiles' headers and all positions, and store the plan.

    Parameters
    ----------
    place : str
        The tiles.
    options : CutoutOptions
    folder : IngestFolder
    pool : TaskPool
    claim : callable
        Called when all is found to be in order, before the first write: it claims the folder.

    Raises
    ------
    UserError
        For mistakes in the tiles and in the table, before anything is written.
    """
    entries = tile_entries(place)
    table = read_positions(options.positions, options.columns)
    tiles, broken = describe_tiles([entry.path for entry in entries], options, pool)
    found = assign(table, tiles, options.settings, options.scale)
    claim()
    name = folder.begin("hiwl cutouts")
    most = min(MAX_SHARD_ROWS, max(1, MAX_SHARD_BYTES // options.settings.bytes))
    shards = iter_planned(table, found, tiles, options.settings, most)
    series = write_objects(folder.objects_of(name), shards, None)
    storage.write_bytes(_tiles_path(folder, name), json.dumps([asdict(tile) for tile in tiles]).encode())
    ids = table["object_id"]
    rejects = [[str(ids[row].as_py()), "", reason] for row, reason in sorted(found.rejects.items())]
    plan = IngestPlan(
        "tiles",
        place,
        digest_of(entries, options),
        options.describe(),
        series,
        images=len(entries),
        without_image=len(rejects),
        other_files=len(broken),
        objects=name,
    )
    # Broken files cost nobody a row by themselves: positions that only they show are off the footprint.
    folder.write_plan(plan, plan_lines([*rejects, *(["", path, problem] for path, problem in broken)]))
    return plan


def check_tiles_unchanged(plan: IngestPlan, place: str, options: CutoutOptions, folder: IngestFolder) -> None:
    """Check that a stored plan is of the same tiles, positions and options.

    Raises
    ------
    UserError
        Naming the first difference.
    """
    entries = tile_entries(place)
    folder.check_same(
        plan,
        IngestPlan(plan.kind, place, digest_of(entries, options), options.describe(), images=len(entries)),
    )


def read_tiles(folder: IngestFolder, plan: IngestPlan) -> list[Tile]:
    """The tiles of a stored plan."""
    return list(map(tile_of, json.loads(storage.read_bytes(_tiles_path(folder, plan.objects)))))


def _tiles_path(folder: IngestFolder, objects: str) -> str:
    return f"{folder.objects_of(objects)}/tiles.json"


def tile_entries(place: str) -> list[Entry]:
    """The tiles' files, sorted.

    Raises
    ------
    UserError
        If there is none.
    """
    found = [entry for entry in storage.iter_entries(place) if entry.path.lower().endswith(FITS_SUFFIXES)]
    if not found:
        raise UserError(
            f"no tile in {place!r}: {' or '.join(FITS_SUFFIXES)} files are wanted (globs need quotes)"
        )
    return sorted(found, key=lambda entry: entry.path)


def digest_of(entries: Sequence[Entry], options: CutoutOptions) -> str:
    """A hash of the names, sizes and marks of the tiles' files and of the positions'."""
    positions = sorted(storage.iter_entries(options.positions), key=lambda entry: entry.path)
    lines = "".join(f"{entry.path}\n{entry.size}\n{entry.mark}\n" for entry in [*entries, *positions])
    return hashlib.blake2b(lines.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def describe_tiles(
    paths: Sequence[str], options: CutoutOptions, pool: TaskPool
) -> tuple[list[Tile], list[tuple[str, str]]]:
    """The tiles, and the files that cannot be read with what is wrong with them, by their headers.

    Raises
    ------
    UserError
        If none can be read, a wanted band is nowhere, or two images are the same band of one grid.
    """
    wanted = Wanted(options.settings.bands, options.mask_planes)
    tasks = [paths[start : start + FILES_A_TASK] for start in range(0, len(paths), FILES_A_TASK)]
    described = [one for _, found in pool.run(describe_files, tasks, wanted) for one in found]
    images = [image for _, found, _ in described for image in found]
    broken = sorted((path, problem) for path, _, problem in described if problem)
    if not images and broken:
        raise UserError(f"no tile can be read: {broken[0][0]}: {broken[0][1]}")
    return join_tiles(images, options.settings.bands), broken


def iter_planned(
    table: pa.Table, found: Assignment, tiles: Sequence[Tile], settings: StampSettings, most: int
) -> Iterator[tuple[str, pa.Table]]:
    """The shards of all positions that have a tile.

    Cutouts of one tile come first, cut where a tile ends; then those of several, cut by the bytes of their
    parts.

    Parameters
    ----------
    table : pyarrow.Table
        Of the positions.
    found : Assignment
    tiles : sequence of Tile
    settings : StampSettings
    most : int
        Rows in a shard.

    Yields
    ------
    series : {"cutouts", "stitched"}
    objects : pyarrow.Table
    """
    alone = np.ones(table.num_rows, bool)
    alone[list(found.stitched)] = False
    alone &= found.home >= 0
    rows = np.flatnonzero(alone)
    rows = rows[np.argsort(found.home[rows], kind="stable")]
    for start, end in _groups(found.home[rows], most):
        count = -(-(end - start) // most)
        for piece in np.array_split(rows[start:end], count):
            yield CUTOUTS, _objects(table, found, piece)
    rows = np.array(sorted(found.stitched, key=lambda row: (found.home[row], row)), dtype=int)
    if len(rows):
        objects = _objects(table, found, rows)
        sizes = _piece_bytes(found, tiles, rows, settings)
        series = pa.array([STITCHED] * len(rows))
        planned = objects.append_column("series", series).append_column("size", pa.array(sizes))
        for name, one in cut_shards([planned], most, PIECES_BYTES):
            yield name, one.drop_columns("size")


def _groups(homes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Runs of whole tiles with as many rows as a shard has, or more."""
    ends = np.flatnonzero(np.diff(homes, append=-1))
    start = 0
    for end in (ends + 1).tolist():
        if end - start >= most or end == len(homes):
            yield start, end
            start = end


def _objects(table: pa.Table, found: Assignment, rows: np.ndarray) -> pa.Table:
    objects = table.take(rows).drop_columns("size")
    objects = objects.append_column("pixel_scale", pa.array(found.scale[rows]))
    objects = objects.append_column("home", pa.array(found.home[rows], pa.int64()))
    order = [found.stitched.get(int(row), []) for row in rows]
    objects = objects.append_column("tiles", pa.array(order, pa.list_(pa.int64())))
    return objects.append_column("labels_row", pa.nulls(len(rows), pa.int64()))


def _piece_bytes(
    found: Assignment, tiles: Sequence[Tile], rows: np.ndarray, settings: StampSettings
) -> list[int]:
    sides = [
        settings.window(settings.zoom(float(found.scale[row]), tiles[found.home[row]].place.scale))
        for row in rows
    ]
    pixel = 4 * len(settings.bands) + 1
    return [
        side * side * pixel * len(found.stitched[int(row)]) for side, row in zip(sides, rows, strict=True)
    ]
