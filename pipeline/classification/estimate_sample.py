"""A look into some shards for an estimate: their beginnings become parts of a throw-away catalog.

They are read, decoded, classified and written by what does it in a catalog that stays, so each option takes
the time here that it takes there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.errors import words_of
from pipeline import storage
from pipeline.catalog.parts import encode_part, read_part
from pipeline.catalog.shard_content import wanted_columns
from pipeline.classification.estimate_count import bytes_got, tar_bytes_a_row
from pipeline.classification.shard_classifier import ShardClassifier
from pipeline.classification.shard_work import CatalogWork, ShardTask
from pipeline.shards.cutout_shards import is_tar, iter_rows
from pipeline.shards.fingerprints import fingerprint
from pipeline.shards.shard_groups import SHARD_DAMAGE

__all__ = ["ShardSample", "ShardSampler"]

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
        A long shard is not read to its end, and fewer rows may be classified than read.
    read_seconds, compute_seconds : float
        Of those rows; computing is all from decoding to the part.
    bytes_read : int
        For `rows_read`.
    requests : int
        GET requests for `rows_read`, 0 outside S3.
    empty_part_bytes, part_bytes : int
        Of a part without rows, and of that with `rows_computed`.
    """

    shard: str
    rows_read: int
    read_seconds: float
    rows_computed: int
    compute_seconds: float
    bytes_read: int
    requests: int
    empty_part_bytes: int
    part_bytes: int

    @property
    def seconds_a_row(self) -> float:
        """Seconds of one worker for a row, at most: reading overlaps with the networks on free cores."""
        return self.read_seconds / self.rows_read + self.compute_seconds / self.rows_computed


class ShardSampler:
    """Takes samples of shards with one classifier, that of an actor.

    Parameters
    ----------
    work : CatalogWork
        Of the throw-away catalog.
    cpus : int
        Threads of the actor.
    use_gpu : bool
    seconds : float
        To spend on one shard, about: half of it at most on reading.

    Attributes
    ----------
    computing : str
        What computes.
    """

    def __init__(self, work: CatalogWork, cpus: int, use_gpu: bool, seconds: float) -> None:
        self._work, self._seconds, self._most_rows = work, seconds, 0
        self._names = wanted_columns(work.settings).to_read
        self._classifier = ShardClassifier(work, cpus, use_gpu)
        self.computing = f"{self._classifier.engine}, {cpus} threads"

    def sample(self, shard: str) -> ShardSample | str | None:
        """Read a shard, or its beginning, and classify some of its rows; None if it has no rows.

        Of one that cannot be read it is said why, as `classify` does, which goes on with the others.
        """
        try:
            return self._sample(shard)
        except storage.StoreError:
            raise
        except SHARD_DAMAGE as error:
            return f"{shard} cannot be read: {words_of(error, 200)}"

    def _sample(self, shard: str) -> ShardSample | None:
        requests_before, bytes_before = bytes_got(shard)
        started = time.perf_counter()
        mark = fingerprint(shard)
        tables = []
        for table in iter_rows(shard, *self._names):
            tables.append(table)
            if time.perf_counter() - started > self._seconds / 2:
                break
        read_seconds = time.perf_counter() - started
        requests, got = bytes_got(shard)
        rows = pa.concat_tables(tables, promote_options="permissive")
        if not rows.num_rows:
            return None
        some = rows.slice(0, self._rows_in_time(shard, mark, rows))
        started = time.perf_counter()
        task, size = self._part(shard, mark, some)
        compute_seconds = time.perf_counter() - started
        return ShardSample(
            shard=shard,
            rows_read=rows.num_rows,
            read_seconds=read_seconds,
            rows_computed=some.num_rows,
            compute_seconds=compute_seconds,
            bytes_read=got - bytes_before or self._column_bytes(shard, rows.num_rows),
            requests=requests - requests_before,
            empty_part_bytes=len(encode_part(read_part(task.part).slice(0, 0), task.record)),
            part_bytes=size,
        )

    def _rows_in_time(self, shard: str, mark: str, rows: pa.Table) -> int:
        if not self._most_rows:
            # The first rows pay for allocations, the next say how many go into the time there is.
            some = rows.slice(0, WARM_UP_ROWS)
            self._part(shard, mark, some)
            started = time.perf_counter()
            self._part(shard, mark, some)
            rate = some.num_rows / (time.perf_counter() - started)
            self._most_rows = int(min(max(rate * self._seconds / 2, WARM_UP_ROWS), MAX_COMPUTED_ROWS))
        return self._most_rows

    def _part(self, shard: str, mark: str, rows: pa.Table) -> tuple[ShardTask, int]:
        """Make a part of rows; what was to be done, and the part's bytes."""
        task = self._work.task(shard, mark, rows)
        (entry,) = self._classifier.classify([task])
        if entry.failed:
            raise ValueError(entry.failed)
        return task, entry.size

    def _column_bytes(self, shard: str, rows: int) -> int:
        """Bytes of the columns that are read, of so many rows."""
        if is_tar(shard):
            return round(tar_bytes_a_row(shard) * rows)
        columns, wanted, carry = self._names
        names = columns.standard_names()
        read = {*(names[standard] for standard in wanted), *carry}
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
