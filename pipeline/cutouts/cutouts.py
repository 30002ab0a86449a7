"""Survey tiles and a table of positions to cutout shards: each tile is read once, each position cut once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field

from hiwl_core.errors import IncompleteError, UserError
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.stamps import StampSettings
from pipeline import storage
from pipeline.cutouts.cutout_plan import (
    CUTOUTS,
    CutoutOptions,
    check_tiles_unchanged,
    make_cutout_plan,
    read_tiles,
)
from pipeline.cutouts.cutting import pieces_folder, pieces_path
from pipeline.cutouts.positions import PositionColumns
from pipeline.cutouts.tile_headers import MASK_PLANES
from pipeline.cutouts.tiles import Tile
from pipeline.cutouts.work import CutoutJob, StitchTask, TileTask, cut_tiles, stitch
from pipeline.in_notebooks import InNotebooks
from pipeline.ingestion.folder import IngestFolder, ShardRecord
from pipeline.ingestion.shard_plan import IngestPlan, ShardToWrite
from pipeline.ingestion.source import check_source
from pipeline.lease import Lease
from pipeline.progress import progress
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale
from pipeline.task_pool import TaskPool, ray_pool

__all__ = ["CutoutsSummary", "cutouts"]

SMALLEST, LARGEST = 8, 4096
NAMED_REJECTS = 10
WORK = "cutting"


@dataclass(frozen=True)
class CutoutsSummary(InNotebooks):
    """What was cut.

    Parameters
    ----------
    positions : int
        In the table; `rows` and `rejects` together.
    rows, shards : int
        In the folder, those of an earlier run included.
    resumed : int
        Shards that an earlier run had written.
    rejects : int
        Positions without a cutout.
    stitched : int
        Of the positions, those whose cutout goes beyond its tile.
    tiles, broken_files : int
    first : list of [object id, tile or file, reason]
        The first ten of ``rejects.csv``.
    seconds : float
    """

    positions: int
    rows: int
    shards: int
    resumed: int
    rejects: int
    stitched: int
    tiles: int
    broken_files: int
    first: list[list[str]] = field(default_factory=list)
    seconds: float = 0.0


def cutouts(
    tiles: str,
    positions: str,
    out: str,
    *,
    size: int = 256,
    scale: WantedScale = AS_IT_IS,
    bands: Sequence[str] = ("g", "r", "i"),
    rgb: RgbSettings | None = None,
    id_column: str | None = None,
    ra_column: str | None = None,
    dec_column: str | None = None,
    carry: Sequence[str] = (),
    mask_planes: Sequence[str] = MASK_PLANES,
    pool: TaskPool | None = None,
) -> CutoutsSummary:
    """Cut positions out of a survey's tiles into cutout shards; the same call again writes what is missing.

    Parameters
    ----------
    tiles : str
        Folder, file or glob of FITS files with a WCS; path or URL. Files of one grid are one tile.
    positions : str
        Table of ids, right ascensions and declinations; see `pipeline.cutouts.positions.read_positions`.
    out : str
        Folder for the shards; path or URL.
    size : int
        Pixels on a side.
    scale : WantedScale
        arcsec/pixel of the cutouts; as the tiles have it if none is asked for, without any resampling.
    bands : sequence of str
        Planes of the FITS cutouts.
    rgb : RgbSettings, optional
        Make JPEGs of its bands instead.
    id_column, ra_column, dec_column : str, optional
        Columns of the table; by default the first usual name that it has.
    carry : sequence of str
        Further columns to keep.
    mask_planes : sequence of str
        Names of the planes of masks that make a pixel bad.
    pool : TaskPool, optional
        Where the work is done; by default Ray.

    Raises
    ------
    UserError
        For mistakes in the arguments, tiles and table, found before any pixel is read; and if nothing can be
        cut.
    IncompleteError
        If the work broke off; what was written is kept.
    """
    started = time.monotonic()
    if not SMALLEST <= size <= LARGEST:
        raise UserError(f"--size {size}: {SMALLEST} to {LARGEST} pixels are wanted")
    wanted = tuple(dict.fromkeys(rgb.bands if rgb else bands))
    if not wanted or not all(band.strip() for band in wanted):
        raise UserError(f"--bands {','.join(bands)!r}: write names with commas, such as g,r,i")
    out = storage.absolute(out).rstrip("/")
    place = check_source(tiles, out)
    columns = PositionColumns(id_column, ra_column, dec_column, scale.column, tuple(dict.fromkeys(carry)))
    options = CutoutOptions(positions, columns, StampSettings(wanted, size, rgb), scale, tuple(mask_planes))
    folder = IngestFolder(out)
    plan = folder.read_plan()
    if plan is not None:
        check_tiles_unchanged(plan, place, options, folder)
    with nullcontext(pool) if pool is not None else ray_pool(None, WORK) as workers:
        return _run(plan, place, options, folder, workers, started)


def _run(
    plan: IngestPlan | None,
    place: str,
    options: CutoutOptions,
    folder: IngestFolder,
    pool: TaskPool,
    started: float,
) -> CutoutsSummary:
    lease = Lease(folder.path, "hiwl cutouts", keep=False)
    with ExitStack() as stack:

        def claim() -> None:
            stack.enter_context(lease)
            storage.prepare_folder(folder.path, ("_ingest",))

        if plan is None:
            plan = make_cutout_plan(place, options, folder, pool, claim)
        else:
            claim()
        grids = read_tiles(folder, plan)
        shards = plan.shards()
        records = folder.finished(shards)
        resumed = sum(record.rows > 0 for record in records.values())
        job = CutoutJob(
            place, folder.path, options.settings, options.columns.carry, folder.plan_mark(), plan.objects
        )
        missing = [shard for shard in shards if shard.name not in records]
        done = plan.rows - sum(shard.rows for shard in missing)
        with progress("cutting", plan.rows, done, "cutouts") as advance:
            for record in _cut(missing, grids, job, pool):
                lease.check()
                records[record.name] = record
                advance(record.rows + record.rejects)
        ordered = [records[shard.name] for shard in shards]
        first = folder.write_rejects(plan, ordered, NAMED_REJECTS)
    rows = sum(record.rows for record in ordered)
    rejects = sum(record.rejects for record in ordered) + plan.without_image
    summary = CutoutsSummary(
        plan.rows + plan.without_image,
        rows,
        sum(record.rows > 0 for record in ordered),
        resumed,
        rejects,
        sum(shard.rows for shard in shards if shard.series != CUTOUTS),
        len(grids),
        plan.other_files,
        first,
        time.monotonic() - started,
    )
    if rows + rejects != summary.positions:
        raise IncompleteError(
            f"{summary.positions} positions, but {rows} cutouts and {rejects} rejects in {folder.path}: "
            "remove it and start again"
        )
    if not rows:
        identifier, file, reason = first[0]
        raise UserError(
            f"not one of {summary.positions} positions can be cut from {place} (object {identifier or file}: "
            f"{reason}); see {folder.path}/rejects.csv, and cut into another folder"
        )
    return summary


def _cut(
    missing: Sequence[ShardToWrite], tiles: Sequence[Tile], job: CutoutJob, pool: TaskPool
) -> Iterator[ShardRecord]:
    """The records of the shards that are written now: first all that tiles have, then what is stitched."""
    groups: list[tuple[list[int], list[ShardToWrite]]] = []
    waiting: list[StitchTask] = []
    parts: dict[int, list[int]] = {}
    there = {path for path, _ in storage.list_files(pieces_folder(job.out))}
    for shard in missing:
        objects = job.planned(shard.number)
        if shard.series == CUTOUTS:
            homes = sorted(set(objects["home"].to_pylist()))
            if not groups or groups[-1][0][-1] < homes[0]:
                groups.append(([], []))
            own, shards = groups[-1]
            own.extend(number for number in homes if number not in own)
            shards.append(shard)
            continue
        needed = sorted({number for order in objects["tiles"].to_pylist() for number in order})
        waiting.append(StitchTask(shard, {number: tiles[number] for number in needed}))
        for number in needed:
            if pieces_path(job.out, shard.number, number).removeprefix("file://") not in there:
                parts.setdefault(number, []).append(shard.number)
    tasks = [
        TileTask(
            {number: tiles[number] for number in own},
            tuple(shards),
            {number: tuple(parts.pop(number)) for number in own if number in parts},
        )
        for own, shards in groups
    ]
    tasks += [TileTask({number: tiles[number]}, (), {number: tuple(of)}) for number, of in parts.items()]
    for _, records in pool.run(cut_tiles, tasks, job):
        yield from records
    for number, record in pool.run(stitch, waiting, job):
        storage.remove(pieces_folder(job.out, waiting[number].shard.number))
        yield record
    # Of shards that were finished when an earlier run died.
    storage.remove(pieces_folder(job.out))
