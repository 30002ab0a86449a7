"""Cutout shards as a source of Ray Data: the one way in which the rows of shards come to a cluster.

::

    import ray
    from pipeline.shards.shards_datasource import ShardsDatasource

    cutouts = ray.data.read_datasource(ShardsDatasource("s3://sky/cutouts", carry=["redshift"]))

A read task is a group of whole shards, since a task costs the driver milliseconds and a shard may hold ten
galaxies. Parquet files, WebDataset tars and FITS cutouts in either come under the contract's names and types.
What cannot be read is a row that says so, never an exception, which would end the reading of all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ray.data import DataContext, Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from pipeline import storage
from pipeline.shards.cutout_shards import CONTRACT_NAMES, SHARD_SCHEMA, Columns, list_shards
from pipeline.shards.shard_groups import ShardToRead, group_shards, iter_group, read_group

__all__ = ["ShardsDatasource"]


class ShardsDatasource(Datasource):
    """The rows of cutout shards, for `ray.data.read_datasource`.

    Each row has its shard's path in ``_shard`` and its number there in ``_row``. ``_failed`` is null but in
    the last row of a shard that could not be read to its end, which has nothing else. The rows of a tar have
    ``_status`` too: null, or why the row is none to be classified.

    Parameters
    ----------
    shards : str, or sequence of sequences of ShardToRead
        A file, a folder or a glob, local or a URL; or groups of shards, one for each read task.
    columns : Columns
        What the columns of the shards are called.
    wanted : sequence of str
        Columns to read, by the contract's names; those that a file lacks are null.
    carry : sequence of str
        Further columns, read as they are.
    whole_groups : bool
        Give each group as one table; see `pipeline.shards.shard_groups.read_group`.
    may_read : callable, optional
        For whole groups; called with the paths of a group where it is about to be read.

    Raises
    ------
    UserError
        If there are no shards.
    """

    def __init__(
        self,
        shards: str | Sequence[Sequence[ShardToRead]],
        columns: Columns = CONTRACT_NAMES,
        wanted: Sequence[str] = tuple(SHARD_SCHEMA.names),
        carry: Sequence[str] = (),
        whole_groups: bool = False,
        may_read: Callable[[list[str]], bool] | None = None,
    ) -> None:
        super().__init__()
        self._names = (columns, list(wanted), list(carry))
        self._whole, self._may_read = whole_groups, may_read
        if isinstance(shards, str):
            sizes = dict(storage.list_files(shards))
            self._shards = [ShardToRead(path, sizes[path]) for path in list_shards(shards)]
            self._groups = None
        else:
            self._shards = [shard for group in shards for shard in group]
            self._groups = [list(group) for group in shards]

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of the shards: they are encoded images for the most part, which are no larger in memory."""
        return sum(shard.size for shard in self._shards)

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """A task for each group; where no groups were given, they are at least so many if the shards are."""
        groups = self._groups if self._groups is not None else group_shards(self._shards, parallelism)
        # A bound method would carry all shards along in each task.
        read = partial(read_group, may_read=self._may_read) if self._whole else iter_group
        return [
            ReadTask(partial(read, group, *self._names), _facts(group, self._whole), None, per_task_row_limit)
            for group in groups
        ]


def _facts(group: Sequence[ShardToRead], whole: bool) -> BlockMetadata:
    counts = [shard.rows for shard in group]
    return BlockMetadata(
        # Of a whole group some shards may be left out.
        num_rows=None if whole or None in counts else sum(count or 0 for count in counts),
        size_bytes=sum(shard.size for shard in group),
        input_files=None,
        exec_stats=None,
    )
