"""The files of a catalog as tables of a DuckDB: all of them, or the few that hold some rows.

DuckDB reads the files of a local catalog itself, which is several times as fast as by way of Arrow when there
are thousands of parts; those in object storage come by Arrow, as in `pipeline.querying.query`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

from pipeline import storage
from pipeline.querying.files import PART_COLUMN, find_catalog, scan
from pipeline.querying.query import connect
from pipeline.querying.validated_columns import sql_texts
from pipeline.storage.listing import is_pattern

__all__ = ["OpenFiles"]


class OpenFiles:
    """A catalog's files, and a connection that reads them and nothing else.

    Parameters
    ----------
    catalog : str
        See `pipeline.querying.query.open_catalog`.

    Attributes
    ----------
    connection : duckdb.DuckDBPyConnection
    fields : dict of pyarrow.Field
        The columns, with their units and descriptions.
    everything : str
        SQL for all rows, with `PART_COLUMN`.

    Raises
    ------
    UserError
        If there is no catalog.
    """

    def __init__(self, catalog: str) -> None:
        self._files = find_catalog(catalog)
        self._by_name: dict[str, list[str]] = {}
        for path in [*self._files.paths, *self._files.beside]:
            self._by_name.setdefault(path.rsplit("/", 1)[-1], []).append(path)
        datasets = scan(self._files)
        filesystem, _ = storage.arrow_path(self._files.paths[0])
        places = [place for dataset in datasets for place in dataset.files]
        local = isinstance(filesystem, pyarrow.fs.LocalFileSystem)
        self._native = local and not any(map(is_pattern, places))
        self.connection = connect(places if self._native else ())
        self._numbers = count()
        self.fields: dict[str, pa.Field] = {}
        for dataset in datasets:
            self.fields = {**{field.name: field for field in dataset.schema}, **self.fields}
        self.fields.pop(PART_COLUMN)
        self.everything = self._native_union(datasets) if self._native else self._registered(datasets)[0]

    @property
    def published(self) -> bool:
        """Whether the files are tiles of the sky, and not parts."""
        return self._files.tiles is not None

    @property
    def names(self) -> Collection[str]:
        """What the files are called."""
        return self._by_name

    @contextmanager
    def some(self, names: Collection[str]) -> Iterator[str]:
        """SQL for the rows of the files of some names, for the length of a ``with`` block."""
        paths = [path for name in names for path in self._by_name.get(name, ())]
        if not paths:
            yield f"SELECT * FROM ({self.everything}) WHERE false"
        elif self._native:
            places = [storage.arrow_path(path)[1] for path in paths]
            yield _native(places, union_by_name=len(places) > 1)
        else:
            datasets = scan(replace(self._files, paths=paths, tiles=None, beside=[]))
            union, registered = self._registered(datasets)
            try:
                yield union
            finally:
                for name in registered:
                    self.connection.unregister(name)

    def _native_union(self, datasets: Sequence[ds.Dataset]) -> str:
        return " UNION ALL BY NAME ".join(_native(dataset.files) for dataset in datasets)

    def _registered(self, datasets: Sequence[ds.Dataset]) -> tuple[str, list[str]]:
        names = [f"_files{next(self._numbers)}" for _ in datasets]
        for name, dataset in zip(names, datasets, strict=True):
            self.connection.register(name, dataset)
        return " UNION ALL BY NAME ".join(f"SELECT * FROM {name}" for name in names), names


def _native(paths: Sequence[str], union_by_name: bool = False) -> str:
    settings = f"filename = true, hive_partitioning = false, union_by_name = {str(union_by_name).lower()}"
    return (
        f"SELECT * EXCLUDE (filename), parse_filename(filename) AS {PART_COLUMN} "
        f"FROM read_parquet([{sql_texts(paths)}], {settings})"
    )
