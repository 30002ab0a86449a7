"""A look into a shard for an estimate: how long its rows take to read and to classify, and what they become.

The work is that of `pipeline.classification.shard_classifier` on some of the rows, in this process; nothing
is written.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hiwl_core.bundle import ModelBundle
from hiwl_core.cascade import CascadePrediction, run_cascade
from hiwl_core.engines import EngineChoice
from hiwl_core.inference import CascadeClassifier
from hiwl_core.statuses import OK
from hiwl_core.taxonomy import Taxonomy
from pipeline import storage
from pipeline.catalog.parts import PartRecord, encode_part, part_table
from pipeline.classification.estimate_count import bytes_got, tar_bytes_a_row
from pipeline.shards.cutout_shards import ROW_GROUP_ROWS, Columns, is_tar, iter_rows
from pipeline.shards.fingerprints import fingerprint

__all__ = ["ShardSample", "ShardSampler"]

WANTED = ("object_id", "ra", "dec", "image")
# Rows that are classified of one shard, at most: as many pictures are in memory.
MAX_COMPUTED_ROWS = 2048
WARM_UP_ROWS = 32


@dataclass(frozen=True)
class ShardSample:
    """What a look into one shard showed.

    Parameters
    ----------
    shard : str
    rows_read, rows_computed : int
        A long shard is not read to its end, and fewer rows are classified than read.
    read_seconds, compute_seconds : float
        Of those rows.
    shard_seconds : float
        What a shard takes once, however many rows it has.
    bytes_read : int
        For `rows_read`.
    requests : int
        GET requests for `rows_read`, 0 outside S3.
    empty_part_bytes, part_bytes : int
        Of a part without rows, and of one with `rows_read`.
    """

    shard: str
    rows_read: int
    read_seconds: float
    rows_computed: int
    compute_seconds: float
    shard_seconds: float
    bytes_read: int
    requests: int
    empty_part_bytes: int
    part_bytes: int

    @property
    def read_seconds_a_row(self) -> float:
        """Seconds to read a row."""
        return self.read_seconds / self.rows_read

    @property
    def compute_seconds_a_row(self) -> float:
        """Seconds to decode and classify a row; 0 if that was not timed."""
        return self.compute_seconds / self.rows_computed if self.rows_computed else 0.0

    @property
    def seconds_a_row(self) -> float:
        """Seconds of one worker for a row, at most: reading overlaps with the networks on free cores."""
        return self.read_seconds_a_row + self.compute_seconds_a_row


class ShardSampler:
    """Takes samples of shards with one loaded classifier.

    Parameters
    ----------
    bundle : ModelBundle
    columns : Columns
    carry : sequence of str
        Further columns for the catalog.
    settings : dict
        As in the catalog's plan, since they stand in the footer of each part.
    seconds : float
        To spend on one shard, about: half of it at most on reading.
    engine : EngineChoice or None
        None: do not classify.
    threads : int
        Of a worker.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        columns: Columns,
        carry: Sequence[str],
        settings: dict[str, Any],
        seconds: float,
        engine: EngineChoice | None,
        threads: int,
    ) -> None:
        self._bundle, self._columns, self._carry = bundle, columns, list(carry)
        self._settings, self._seconds, self._batch_rows = settings, seconds, 0
        self._classifier: CascadeClassifier | None = None
        if engine is not None:
            torch.set_num_threads(threads)
            always = settings["stage2"] == "always"
            self._classifier = CascadeClassifier(bundle, engine, threads, always_stage2=always)

    def sample(self, shard: str) -> ShardSample | None:
        """Read a shard, or its beginning, and classify some of its rows; None if it has no rows.

        Raises
        ------
        OSError, pyarrow.ArrowException, tarfile.TarError, ValueError
            If the shard is damaged.
        """
        requests_before, bytes_before = bytes_got(shard)
        started = time.perf_counter()
        mark = fingerprint(shard)
        shard_seconds = time.perf_counter() - started
        images, tables, read_seconds = self._read(shard)
        requests, got = bytes_got(shard)
        rows = pa.concat_tables(tables, promote_options="permissive")
        if not rows.num_rows:
            return None
        computed, compute_seconds = self._compute(images)
        started = time.perf_counter()
        part_bytes = self._part_bytes(rows, shard, mark)
        shard_seconds += time.perf_counter() - started
        return ShardSample(
            shard=shard,
            rows_read=rows.num_rows,
            read_seconds=read_seconds,
            rows_computed=computed,
            compute_seconds=compute_seconds,
            shard_seconds=shard_seconds,
            bytes_read=got - bytes_before or self._column_bytes(shard, rows.num_rows),
            requests=requests - requests_before,
            empty_part_bytes=self._part_bytes(rows.slice(0, 0), shard, mark),
            part_bytes=part_bytes,
        )

    def _read(self, shard: str) -> tuple[list[bytes | None], list[pa.Table], float]:
        """Some images, the other columns of all rows that were read, and the seconds that it took."""
        images: list[bytes | None] = []
        tables: list[pa.Table] = []
        seconds = 0.0
        stream = iter_rows(shard, self._columns, WANTED, self._carry)
        while seconds < self._seconds / 2:
            started = time.perf_counter()
            table = next(stream, None)
            seconds += time.perf_counter() - started
            if table is None:
                break
            images += table["image"].to_pylist()[: MAX_COMPUTED_ROWS - len(images)]
            tables.append(table.drop_columns(["image"]))
        return images, tables, seconds

    def _compute(self, images: list[bytes | None]) -> tuple[int, float]:
        if self._classifier is None:
            return 0, 0.0
        if not self._batch_rows:
            # The first rows pay for allocations, the next say how many go into the time there is.
            self._classifier.classify(images[:WARM_UP_ROWS])
            started = time.perf_counter()
            self._classifier.classify(images[:WARM_UP_ROWS])
            rate = len(images[:WARM_UP_ROWS]) / (time.perf_counter() - started)
            self._batch_rows = int(min(max(rate * self._seconds / 4, WARM_UP_ROWS), ROW_GROUP_ROWS))
        started = time.perf_counter()

        def batches() -> Iterator[list[bytes | None]]:
            for first in range(0, len(images), self._batch_rows):
                if first and time.perf_counter() - started > self._seconds / 2:
                    return
                yield images[first : first + self._batch_rows]

        computed = sum(len(statuses) for statuses, _ in self._classifier.classify_batches(batches()))
        return computed, time.perf_counter() - started

    def _part_bytes(self, rows: pa.Table, shard: str, mark: str) -> int:
        """Size of the part: the rows' own ids and columns, with drawn probabilities."""
        bundle = self._bundle
        record = PartRecord(shard.rsplit("/", 1)[-1], mark, bundle.model_id, self._settings)
        carried = [rows.schema.field(name).remove_metadata() for name in self._carry]
        prediction = _drawn(rows.num_rows, bundle, self._settings["stage2"] == "always")
        statuses = [OK] * rows.num_rows
        table = part_table(rows, statuses, prediction, bundle.taxonomy, bundle.model_id, carried)
        return len(encode_part(table, record))

    def _column_bytes(self, shard: str, rows: int) -> int:
        """Bytes of the columns that are read, of so many rows."""
        if is_tar(shard):
            return round(tar_bytes_a_row(shard) * rows)
        names = self._columns.standard_names()
        read = {*(names[standard] for standard in WANTED), *self._carry}
        with storage.open_input(shard) as file:
            facts = pq.ParquetFile(file).metadata
            groups = [facts.row_group(index) for index in range(facts.num_row_groups)]
            size = sum(
                group.column(index).total_compressed_size
                for group in groups
                for index in range(group.num_columns)
                if facts.schema.column(index).path.split(".")[0] in read
            )
            return round(size * rows / facts.num_rows)


def _drawn(rows: int, bundle: ModelBundle, always: bool) -> CascadePrediction:
    """Probabilities at random, which take as many bytes as true ones."""
    generator = np.random.default_rng(0)
    taxonomy: Taxonomy = bundle.taxonomy

    def draw(stage: str, count: int) -> np.ndarray:
        classes = len(taxonomy.stage_classes(stage))
        return generator.dirichlet([0.3] * classes, count).astype(np.float32)

    return run_cascade(
        lambda stage, chosen: draw(stage, len(chosen)),
        rows,
        bundle.member_frequencies,
        taxonomy,
        always,
    )
