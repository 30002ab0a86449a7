"""Simulated galaxies at scale: cutout shards and one table of votes, made on the cluster, or here if few.

Each shard is one task, which writes its votes and then its cutouts, whole. A shard whose cutouts are there is
done: a rerun makes only those that are missing, and since an object depends on the seed and its own number
alone, a task that runs twice writes the same bytes twice.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from hiwl_core.simulated_image import require_galsim
from hiwl_core.simulated_morphology import CLASS_COUNTS
from hiwl_core.simulated_votes import VOTE_COLUMNS
from hiwl_core.simulation import SimulatedGalaxy, check_simulation, simulate_galaxy
from pipeline import storage
from pipeline.in_notebooks import InNotebooks
from pipeline.named_cluster import named_cluster
from pipeline.progress import progress
from pipeline.shards.cutout_shards import MAX_SHARD_ROWS, SHARD_SCHEMA, encode_shard, shard_name
from pipeline.storage.own_folders import check_own

__all__ = ["SimulationSummary", "simulate"]

MANIFEST = "_simulation.json"
# Some 250 pictures of 256 pixels on a side, which one core renders while Ray and its workers begin.
MOST_PIXELS_HERE = 2**24

CUTOUT_SCHEMA = pa.schema(
    [
        *SHARD_SCHEMA,
        # Not the label: a simulation's galaxies are labeled by their votes, as the real ones are.
        pa.field("truth", pa.string()),
        pa.field("axis_ratio", pa.float32()),
    ]
)
VOTE_SCHEMA = pa.schema(
    [
        pa.field("GalaxyID", pa.int64()),
        pa.field("truth", pa.string()),
        pa.field("ambiguous", pa.bool_()),
        *(pa.field(column, pa.float64()) for column in VOTE_COLUMNS),
    ]
)


@dataclass(frozen=True)
class SimulationSummary(InNotebooks):
    """What a simulation made, and where.

    Parameters
    ----------
    objects, rendered : int
        All objects in the output, and those that this run made.
    classes : dict of str to int
        Objects that were drawn as each class and look it.
    ambiguous : int
        Objects between the classes.
    seconds : float
        Rendering time, without the start of Ray.
    cutouts, votes : str
        The folder of shards and the table of vote fractions.
    """

    objects: int
    rendered: int
    classes: dict[str, int]
    ambiguous: int
    seconds: float
    cutouts: str
    votes: str


@dataclass(frozen=True)
class _Shard:
    """One task: objects `start` to `stop` of a simulation, and where they go."""

    start: int
    stop: int
    seed: int
    size: int
    ambiguous: float
    cutouts: str
    votes: str
    source: str = field(default="hiwl simulate")


def simulate(
    out: str, count: int, seed: int = 0, size: int = 256, ambiguous: float = 0.15, shard_rows: int = 512
) -> SimulationSummary:
    """Render simulated galaxies into ``OUT/cutouts`` and write their votes to ``OUT/votes.csv``.

    Parameters
    ----------
    out : str
        Folder or URL.
    count : int
        Objects.
    seed : int
        0 to 999,999.
    size : int
        Side of a picture, pixels.
    ambiguous : float
        Share of objects on which people do not agree, in [0, 1).
    shard_rows : int
        Objects a shard, at most; the shards are filled evenly.

    Returns
    -------
    SimulationSummary

    Raises
    ------
    UserError
        If a parameter is out of its range, if GalSim is missing, or if `out` holds something else.
    """
    check_simulation(count, seed, size, ambiguous)
    if not 1 <= shard_rows <= MAX_SHARD_ROWS:
        raise UserError(f"shard-rows {shard_rows}: must be from 1 to {MAX_SHARD_ROWS}")
    require_galsim()
    out = storage.absolute(out).rstrip("/")
    parameters = {
        "count": count,
        "seed": seed,
        "size": size,
        "ambiguous": ambiguous,
        "shard_rows": shard_rows,
    }
    _claim(out, parameters)
    shards = _plan(out, count, seed, size, ambiguous, shard_rows)
    there = {path for path, _ in storage.list_files(f"{out}/cutouts")}
    missing = [shard for shard in shards if shard.cutouts not in there]
    rendered = sum(shard.stop - shard.start for shard in missing)
    seconds = 0.0
    if missing:
        small = rendered * size**2 <= MOST_PIXELS_HERE and named_cluster() is None
        with progress("rendering", count, count - rendered) as advance:
            seconds = (_render_here if small else _render_by_ray)(missing, advance)
    classes, ambiguous_count = _write_votes(shards, f"{out}/votes.csv")
    return SimulationSummary(
        count, rendered, classes, ambiguous_count, seconds, f"{out}/cutouts", f"{out}/votes.csv"
    )


def _claim(out: str, parameters: dict[str, Any]) -> None:
    """Mark the folder as this simulation's, or check that it is."""
    manifest = f"{out}/{MANIFEST}"
    is_begun = storage.exists(manifest)
    check_own(out, is_begun, ("cutouts",), "simulate", "OUT")
    if not is_begun:
        storage.write_bytes(manifest, json.dumps(parameters, indent=2).encode())
        return
    made_with = json.loads(storage.read_bytes(manifest))
    for name, value in parameters.items():
        if made_with.get(name) != value:
            raise UserError(
                f"{out} holds a simulation with {name} {made_with.get(name)}, not {value}: "
                "give the same parameters to complete it, or choose another OUT"
            )


def _plan(out: str, count: int, seed: int, size: int, ambiguous: float, shard_rows: int) -> list[_Shard]:
    number = -(-count // shard_rows)
    plan = []
    for index in range(number):
        name = shard_name("sky", index, number)
        start, stop = index * count // number, (index + 1) * count // number
        plan.append(
            _Shard(start, stop, seed, size, ambiguous, f"{out}/cutouts/{name}", f"{out}/_votes/{name}")
        )
    return plan


def _render_here(shards: list[_Shard], advance: Callable[[int], None]) -> float:
    """Render shards in this process, and say how far it is; the seconds that it took."""
    begin = time.perf_counter()
    for shard in shards:
        advance(_rendered(shard))
    return time.perf_counter() - begin


def _render_by_ray(shards: list[_Shard], advance: Callable[[int], None]) -> float:
    """The same by one task a shard; only numbers come back to the driver."""
    # Here, since they take a second, which a small simulation should not wait for.
    import ray.data

    from pipeline.cluster import connected, ordered_streams

    with connected(), ray.data.DataContext.current(ordered_streams()):
        begin = time.perf_counter()
        plans = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=len(shards))
        results = plans.map_batches(_render_shards, batch_size=1, batch_format="pyarrow")
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            advance(sum(batch["rows"].to_pylist()))
        return time.perf_counter() - begin


def _render_shards(batch: pa.Table) -> pa.Table:
    """A task."""
    return pa.table({"rows": [sum(_rendered(_Shard(**plan)) for plan in batch.to_pylist())]})


def _rendered(shard: _Shard) -> int:
    """Draw the objects of a shard and write its two files; how many they are."""
    galaxies = [
        simulate_galaxy(shard.seed, index, shard.size, shard.ambiguous)
        for index in range(shard.start, shard.stop)
    ]
    # The cutouts come last: their file is the mark of a shard that is done.
    storage.write_bytes(shard.votes, _encode_votes(galaxies))
    storage.write_bytes(shard.cutouts, encode_shard(_cutout_table(galaxies), shard.source))
    return len(galaxies)


def _cutout_table(galaxies: list[SimulatedGalaxy]) -> pa.Table:
    rows = [
        {
            "object_id": galaxy.object_id,
            "ra": galaxy.ra,
            "dec": galaxy.dec,
            "image": galaxy.image,
            "pixel_scale": galaxy.pixel_scale,
            "label": None,
            "truth": galaxy.truth,
            "axis_ratio": galaxy.axis_ratio,
        }
        for galaxy in galaxies
    ]
    return pa.Table.from_pylist(rows, schema=CUTOUT_SCHEMA)


def _encode_votes(galaxies: list[SimulatedGalaxy]) -> bytes:
    rows = [
        {"GalaxyID": g.object_id, "truth": g.truth, "ambiguous": g.morphology.ambiguous, **g.votes}
        for g in galaxies
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=VOTE_SCHEMA), buffer, compression="ZSTD")
    return buffer.getvalue()


def _write_votes(shards: list[_Shard], path: str) -> tuple[dict[str, int], int]:
    """Join the shards' votes into one CSV, in the order of the objects; returns the counts of classes."""
    content = io.BytesIO()
    clean: Counter[str] = Counter()
    ambiguous = 0
    contents = storage.in_threads(storage.read_bytes, [shard.votes for shard in shards])
    for shard, encoded in zip(shards, contents, strict=True):
        table = pq.read_table(io.BytesIO(encoded)).to_pandas()
        clean.update(table.loc[~table["ambiguous"], "truth"])
        ambiguous += int(table["ambiguous"].sum())
        votes = table.drop(columns=["truth", "ambiguous"])
        votes.to_csv(content, index=False, header=shard is shards[0], float_format="%.6f")
    storage.write_bytes(path, content.getvalue())
    return {name: clean[name] for name in CLASS_COUNTS}, ambiguous
