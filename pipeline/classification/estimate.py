"""What classifying some shards would take: hours, traffic, money. Rows are counted, the rest is sampled."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import Any

import numpy as np
import torch

from hiwl_core.errors import UserError
from pipeline.catalog.ledger import SECONDS_BETWEEN_SEGMENTS
from pipeline.catalog.shard_content import wanted_columns
from pipeline.classification.catalog_contents import AS_VALIDATED, ESTIMATE, CatalogContents
from pipeline.classification.classify import usable_bundle
from pipeline.classification.computing import WHATEVER_THERE_IS, Computing
from pipeline.classification.decided import checked_contents, decided
from pipeline.classification.estimate_count import ShardCounts, count_shards
from pipeline.classification.estimate_sample import ShardSample, ShardSampler
from pipeline.classification.shard_classifier import bundle_place
from pipeline.classification.shard_work import CatalogWork
from pipeline.classification.small_work import Beside, ThisMachine
from pipeline.classification.stage_actors import StageActors
from pipeline.in_notebooks import InNotebooks
from pipeline.progress import say
from pipeline.shards.cutout_shards import CONTRACT_NAMES, Columns
from pipeline.storage.places import in_s3

__all__ = ["Estimate", "Span", "estimate"]

LISTED_AT_ONCE = 1000
BUNDLE_FILES = 3
# Enough for the sizes of parts, where no time is taken.
SECONDS_AT_A_RATE = 6.0


@dataclass(frozen=True)
class Span(InNotebooks):
    """A figure with those of the slowest and the fastest sampled shard."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate(InNotebooks):
    """What a classification would take.

    Parameters
    ----------
    model_id : str
    shards, rows, size : int
        Rows are counted, but for tars; bytes.
    rows_counted : bool
        False if tars are among the shards, whose rows are estimated from their sizes.
    computing : str
        What one worker computes on.
    workers : int
        On one machine.
    rate : Span
        Images/s of one machine.
    rate_given : bool
        The rate is the caller's; nothing was timed.
    read_seconds, compute_seconds : float
        Of one worker for one row; 0 if that was not timed.
    seconds_one, seconds : Span
        On one machine and on `machines`.
    machines : int
    bytes_read, bytes_written : int
    requests : dict of int or None
        GET, PUT and LIST requests; None if the shards are in no object store.
    price, cost : float or None
        Of one hour of one machine, and of all.
    load : float
        Of this machine when the timing began: processes that wanted a core, a core; 0 if it does not say.
    samples : list of ShardSample
    """

    in_notebooks = (
        "model_id",
        "shards",
        "rows",
        "size",
        "computing",
        "workers",
        "machines",
        "bytes_read",
        "bytes_written",
        "rate",
        "seconds",
        "requests",
        "cost",
    )

    model_id: str
    shards: int
    rows: int
    rows_counted: bool
    size: int
    computing: str
    workers: int
    rate: Span
    rate_given: bool
    read_seconds: float
    compute_seconds: float
    seconds_one: Span
    machines: int
    seconds: Span
    bytes_read: int
    bytes_written: int
    requests: dict[str, int] | None
    price: float | None
    cost: float | None
    load: float
    samples: list[ShardSample]


def estimate(
    bundle_path: str,
    shards_path: str,
    columns: Columns = CONTRACT_NAMES,
    contents: CatalogContents = AS_VALIDATED,
    computing: Computing = WHATEVER_THERE_IS,
    machines: int = 1,
    price: float | None = None,
    rate: float | None = None,
    sample: int = 3,
    seconds: float = 45.0,
) -> Estimate:
    """Count the rows of some shards, and classify the beginnings of a few into a catalog that is thrown away.

    Parameters
    ----------
    bundle_path, shards_path, columns, contents, computing
        As `pipeline.classification.classify.classify`, of which this does the work, in this process.
    machines : int
        Machines like this one.
    price : float, optional
        Of one hour of one machine.
    rate : float, optional
        Images/s of one machine, where that is not this one's: nothing is timed, and `computing` is of there.
    sample : int
        Shards to look into, spread over the list.
    seconds : float
        To spend on them, about.

    Raises
    ------
    UserError
        As `pipeline.classification.classify.classify`, and if none of the sampled shards could be read.
    """
    most = computing.workers or inf
    _check_positive({"--machines": machines, "--rate": rate, "--sample": sample, "--seconds": seconds})
    if price is not None and not 0 <= price < inf:
        raise UserError(f"--price {price}: the price of a machine-hour is wanted")
    bundle = usable_bundle(bundle_path, contents, computing)
    contents = checked_contents(contents, bundle, columns)
    shards = count_shards(shards_path, wanted_columns(contents.to_settings(columns)))
    if rate:
        # Of a machine that is not here, with GPUs say: for the sizes of parts, whatever is here will do.
        computing, most = Computing(gpu=False), inf
        contents = replace(contents, precision="float32")
    machine = ThisMachine(torch.cuda.device_count())
    actors = StageActors.on(machine, computing)
    if contents.prior == ESTIMATE:
        # Whatever it will be, it is no more work.
        contents = replace(contents, prior=tuple(bundle.fitted.prior or ()))
    contents = decided(contents, bundle, None, lambda: machine, computing, shards.paths, columns)
    full = np.flatnonzero(shards.rows)
    chosen = full[np.unique(np.linspace(0, len(full) - 1, min(sample, len(full))).round().astype(int))]
    load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
    with tempfile.TemporaryDirectory(prefix="hiwl-plan-") as throw_away, Beside() as thread:
        settings = contents.to_settings(columns)
        place = bundle_place(bundle_path)
        work = CatalogWork(place, bundle.model_id, settings, throw_away, computing.engine)
        limit = (SECONDS_AT_A_RATE if rate else seconds) / sample
        sampler = thread.run(ShardSampler, work, actors.cpus, bool(actors.gpus), limit)
        samples: list[ShardSample] = []
        damaged: list[str] = []
        for index in chosen:
            # One by one: Ctrl-C waits for the one that is under way.
            taken = thread.run(sampler.sample, shards.paths[index])
            if isinstance(taken, str):
                damaged.append(taken)
                say(taken)
            elif taken is not None:
                samples.append(taken)
    if damaged and not samples:
        raise UserError(f"none of the {len(chosen)} sampled shards can be read: {damaged[0]}")
    workers = max(1, actors.room)
    times = _Times(shards, samples, 1 if rate else workers, most, rate)
    one, all_machines = times.on(1), times.on(machines)
    total_rows = int(shards.rows.sum())
    return Estimate(
        model_id=bundle.model_id,
        shards=len(shards.paths),
        rows=total_rows,
        rows_counted=shards.counted,
        size=shards.size,
        computing=sampler.computing,
        workers=int(min(workers, most)),
        rate=times.rate,
        rate_given=rate is not None,
        read_seconds=_a_row(samples, "read_seconds", "rows_read") if not rate else 0.0,
        compute_seconds=_a_row(samples, "compute_seconds", "rows_computed") if not rate else 0.0,
        seconds_one=one,
        machines=machines,
        seconds=all_machines,
        bytes_read=shards.bytes_got + round(total_rows * _a_row(samples, "bytes_read", "rows_read")),
        bytes_written=_bytes_written(shards, samples),
        requests=_requests(shards, samples, all_machines.value, int(min(workers * machines, most))),
        price=price,
        cost=None if price is None else price * machines * all_machines.value / 3600,
        load=load,
        samples=samples,
    )


class _Times:
    """How long the shards take on some machines."""

    def __init__(
        self,
        shards: ShardCounts,
        samples: Sequence[ShardSample],
        workers: int,
        most: float,
        rate: float | None,
    ) -> None:
        self._rows, self._workers, self._most = shards.rows, workers, most
        a_row = [1 / rate] if rate else [taken.seconds_a_row for taken in samples] or [0.0]
        pooled = (
            1 / rate
            if rate
            else _a_row(samples, "read_seconds", "rows_read")
            + _a_row(samples, "compute_seconds", "rows_computed")
        )
        self._seconds_a_row = Span(pooled, min(a_row), max(a_row))

    @property
    def rate(self) -> Span:
        """Images/s of a machine whose workers all have shards."""
        workers, taken = min(self._workers, self._most), self._seconds_a_row

        def rate(seconds_a_row: float) -> float:
            return workers / seconds_a_row if seconds_a_row else 0.0

        return Span(rate(taken.value), rate(taken.high), rate(taken.low))

    def on(self, machines: int) -> Span:
        """Seconds on so many machines; a shard is the least that a worker takes."""
        workers = min(machines * self._workers, self._most)

        def seconds(seconds_a_row: float) -> float:
            shards = self._rows * seconds_a_row
            return float(max(ceil(len(shards) / workers) * shards.mean(), shards.max()))

        taken = self._seconds_a_row
        return Span(seconds(taken.value), seconds(taken.low), seconds(taken.high))


def _a_row(samples: Sequence[ShardSample], what: str, of: str) -> float:
    """A quantity of all samples together, for one row; 0 if there are none."""
    rows = sum(getattr(taken, of) for taken in samples)
    return sum(getattr(taken, what) for taken in samples) / rows if rows else 0.0


def _bytes_written(shards: ShardCounts, samples: Sequence[ShardSample]) -> int:
    rows = sum(taken.rows_computed for taken in samples)
    if not rows:
        return 0
    empty = sum(taken.empty_part_bytes for taken in samples) / len(samples)
    a_row = sum(taken.part_bytes - taken.empty_part_bytes for taken in samples) / rows
    return round(len(shards.paths) * empty + int(shards.rows.sum()) * a_row)


def _requests(
    shards: ShardCounts, samples: Sequence[ShardSample], seconds: float, workers: int
) -> dict[str, int] | None:
    """Requests to the object store, if the catalog is in it as the shards are."""
    if not in_s3(shards.paths[0]):
        return None
    count = len(shards.paths)
    rows = int(shards.rows.sum())
    pages = ceil(count / LISTED_AT_ONCE)
    return {
        "GET": shards.requests
        + round(rows * _a_row(samples, "requests", "rows_read"))
        + BUNDLE_FILES * (1 + min(workers, count)),
        # A part a shard; the plan in two files and a probe; the ledger and its sign of life now and then.
        "PUT": count + 3 + 2 * ceil(1 + seconds / SECONDS_BETWEEN_SEGMENTS),
        # The shards, and twice the catalog's folder: before the plan is made and before the work.
        "LIST": pages + 2,
    }


def _check_positive(values: dict[str, Any]) -> None:
    for option, value in values.items():
        if value is not None and not 0 < value < inf:
            raise UserError(f"{option} {value}: more than 0 is wanted")
