"""The objects of a source in a DuckDB file on the driver's disk: 10^8 need no more memory than 10^6.

DuckDB sorts and joins in pieces on the disk (in ``TMPDIR``) what does not fit in its share of memory. An
object takes some 100 bytes there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.errors import UserError
from pipeline.ingestion.labels import UNLABELED, LabelsTable
from pipeline.ingestion.source import class_folder, split_band, stem
from pipeline.ingestion.split import Split
from pipeline.shards.object_ids import integer_ids
from pipeline.storage import Entry

__all__ = ["OBJECTS_SCHEMA", "Inventory"]

MEMORY = "256MB"
ROWS_IN = 65_536
ROWS_OUT = 16_384
FITS_BYTES_PER_PNG = 4
"""Bytes of a set of three float32 images for each of the RGB image that is made of it, about."""

OBJECTS_SCHEMA = pa.schema(
    [
        pa.field("object_id", pa.string()),
        pa.field("file", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("mark", pa.string()),
        pa.field("label", pa.string()),
    ]
)
"""An object: its file (path, or member of a zip), its row there (null for images), the bytes of its image
(estimated for Parquet), the file's mark and the source's own label."""


class Inventory:
    """The objects of a source; a context manager, which removes its file at the end.

    Parameters
    ----------
    bands : sequence of str
        If given, the images are those of one band each, and an object is what its files' names share.

    Attributes
    ----------
    integers : bool
        Whether all ids so far are 64-bit integers.
    """

    def __init__(self, bands: Sequence[str] = ()) -> None:
        self._bands = tuple(bands)
        self._folder = tempfile.TemporaryDirectory(prefix="hiwl-ingest-")
        self._files = "files" if bands else "objects"
        self.integers = True
        self._database = duckdb.connect(
            f"{self._folder.name}/objects.duckdb",
            config={
                "memory_limit": MEMORY,
                "threads": 2,
                "preserve_insertion_order": False,
                "temp_directory": f"{self._folder.name}/spilled",
            },
        )
        self._database.execute(
            f"CREATE TABLE {self._files} "
            "(object_id VARCHAR, file VARCHAR, row BIGINT, size BIGINT, mark VARCHAR, "
            f"label VARCHAR{', band VARCHAR' if bands else ''}); "
            "CREATE TABLE labels (object_id VARCHAR, label VARCHAR, series VARCHAR, labels_row BIGINT, "
            "together VARCHAR)"
        )

    def __enter__(self) -> Inventory:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._folder.cleanup()

    def add_images(self, entries: Iterable[Entry], classes_in: str | None = None) -> None:
        """Add images, each an object that its file's name identifies.

        Parameters
        ----------
        entries : iterable of Entry
        classes_in : str, optional
            The place in which each class has a folder; see `pipeline.ingestion.source.class_folder`.

        Raises
        ------
        UserError
            If a file's name is not text.
        """
        entries = iter(entries)
        while some := list(islice(entries, ROWS_IN)):
            paths = [entry.path for entry in some]
            names = [stem(path) for path in paths]
            bands: list[str] = []
            if self._bands:
                split = [split_band(name, self._bands) or (name, "") for name in names]
                names, bands = [name for name, _ in split], [band for _, band in split]
            try:
                ids = pa.array(names, pa.string())
                files = pa.array(paths, pa.string())
            except UnicodeEncodeError:
                bad = next(path for path in paths if path.encode(errors="ignore").decode() != path)
                raise UserError(f"the name of the file {bad!r} is not UTF-8: rename it") from None
            labels = pa.nulls(len(some), pa.string())
            if classes_in is not None:
                labels = pa.array([class_folder(path, classes_in) or None for path in paths], pa.string())
            columns = [
                ids,
                files,
                pa.nulls(len(some), pa.int64()),
                pa.array([entry.size for entry in some], pa.int64()),
                pa.array([entry.mark for entry in some], pa.string()),
                labels,
            ]
            added = pa.table(columns, schema=OBJECTS_SCHEMA)
            if self._bands:
                added = added.append_column("band", pa.array(bands, pa.string()))
            self.add(added, integer_ids(ids) is not None)

    def add(self, objects: pa.Table, integers: bool) -> None:
        """Add objects, see `OBJECTS_SCHEMA`, and whether all their ids are 64-bit integers."""
        self.integers &= integers
        self._insert(self._files, objects)

    def gather_sets(self, bands: Sequence[str], wanted: Sequence[str]) -> None:
        """Make one object of the files of different bands that share an id.

        Parameters
        ----------
        bands : sequence of str
            All of them.
        wanted : sequence of str
            Those whose files are to be read, in any case.

        Raises
        ------
        UserError
            If there are two files of one object and band.
        """
        repeated = self._rows(
            "SELECT object_id, band, min(file), max(file) FROM files GROUP BY ALL HAVING count(*) > 1 "
            "ORDER BY 1, 2 LIMIT 1"
        )
        if repeated:
            identifier, band, first, second = repeated[0]
            raise UserError(
                f"object id {identifier!r} has two files of band {band}, {first} and {second}: rename or "
                "remove one"
            )
        files = ", ".join("max(file) FILTER (band = ?)" for _ in wanted)
        self._database.execute(
            "CREATE TABLE objects AS SELECT object_id, min(file) AS file, NULL::BIGINT AS row, "
            f"sum(size)::BIGINT // {FITS_BYTES_PER_PNG} AS size, NULL::VARCHAR AS mark, "
            f"NULL::VARCHAR AS label, [{files}] AS files, max(size) AS largest FROM files GROUP BY object_id",
            [next(band for band in bands if band.lower() == one.lower()) for one in wanted],
        )
        self._database.execute("DROP TABLE files")

    def identify_by_class(self) -> bool:
        """Where two images have one id, make each a class and an id; whether that was so."""
        if not self._rows("SELECT 1 FROM objects GROUP BY object_id HAVING count(*) > 1 LIMIT 1"):
            return False
        self._database.execute("UPDATE objects SET object_id = concat_ws('/', label, object_id)")
        self.integers = False
        return True

    def rename_classes(self, renamed: Mapping[str, str]) -> None:
        """Give the source's own labels other names."""
        for there, wanted in renamed.items():
            self._database.execute("UPDATE objects SET label = ? WHERE label = ?", [wanted, there])

    def check_ids(self) -> None:
        """Check that no id stands for two images.

        Raises
        ------
        UserError
        """
        repeated = self._rows(
            "SELECT object_id FROM objects GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
        )
        if repeated:
            (identifier,) = repeated[0]
            first, second = (
                file if row is None else f"row {row + 1} of {file}"
                for file, row in self._rows(
                    "SELECT file, row FROM objects WHERE object_id = ? ORDER BY file, row LIMIT 2", identifier
                )
            )
            raise UserError(
                f"object id {identifier!r} stands for two images, {first} and {second}: rename or remove one"
            )

    def classes(self) -> list[str]:
        """The labels that the source itself has."""
        rows = self._rows("SELECT DISTINCT label FROM objects WHERE label IS NOT NULL ORDER BY 1")
        return [label for (label,) in rows]

    def join(self, labels: LabelsTable | None, series: str) -> list[str]:
        """Give each object the label and the split that the labels table has for it.

        Parameters
        ----------
        labels : LabelsTable, optional
        series : str
            The series of the objects where there is no split.

        Returns
        -------
        list of str
            Ids of the labels table that no object has.

        Raises
        ------
        UserError
            See `Labels.check_ids`.
        """
        if labels is None:
            self._database.execute(
                f"CREATE VIEW planned AS SELECT *, '{series}' AS series, NULL::BIGINT AS labels_row "
                "FROM objects"
            )
            return []
        ids, label = labels.table["id"], labels.table["label"]
        split = labels.table["split"] if "split" in labels.table.column_names else pa.scalar(series)
        self._insert(
            "labels",
            pa.table(
                {
                    "object_id": ids,
                    "label": label,
                    "series": pc.if_else(pc.is_valid(label), split, UNLABELED),
                    "labels_row": np.arange(len(ids)),
                    "together": labels.table["together"]
                    if "together" in labels.table.column_names
                    else pa.nulls(len(ids), pa.string()),
                }
            ),
        )
        found = self._database.sql("SELECT labels_row FROM labels SEMI JOIN objects USING (object_id)")
        present = np.zeros(len(ids), dtype=bool)
        present[found.fetchnumpy()["labels_row"]] = True
        ((example,),) = self._rows("SELECT object_id FROM objects ORDER BY file, row LIMIT 1")
        labels.check_ids(pa.array(present), example)
        self._database.execute(
            "CREATE VIEW planned AS SELECT o.* REPLACE (l.label AS label), "
            f"coalesce(l.series, '{UNLABELED}') AS series, l.labels_row "
            "FROM objects o LEFT JOIN labels l USING (object_id)"
        )
        return list(ids.filter(pa.array(~present)).to_pylist())

    def split(self, split: Split) -> None:
        """Give each object with a label its part, after `join`.

        Raises
        ------
        UserError
            If a part would be empty.
        """
        self._database.execute(
            "ALTER VIEW planned RENAME TO joined; CREATE VIEW to_split AS "
            "SELECT j.object_id, j.label, l.together FROM joined j LEFT JOIN labels l USING (object_id)"
        )
        self._database.execute(f"CREATE TABLE parts AS {split.query('to_split')}")
        self._database.execute(
            f"CREATE VIEW planned AS SELECT j.* REPLACE (coalesce(p.series, '{UNLABELED}') AS series) "
            "FROM joined j LEFT JOIN parts p USING (object_id)"
        )
        found = dict(self._rows("SELECT series, count(*) FROM parts GROUP BY 1"))
        if len(found) < len(split.shares):
            grouped = f", grouped by {split.group_by}" if split.group_by else ""
            raise UserError(
                f"--split {split}: the {sum(found.values())} objects with a class{grouped} are too few for "
                f"{len(split.shares)} parts"
            )

    def count(self) -> tuple[int, int]:
        """Objects, and those of them without a label, after `join`."""
        return self._rows("SELECT count(*), count(*) - count(label) FROM planned")[0]

    def iter_planned(self, drop_unlabeled: bool) -> Iterator[pa.Table]:
        """All objects in the order of the shards, after `join`: by series, then by file and row.

        The series ``train`` is the first, what has no label the last, whatever order the files came in.

        Yields
        ------
        pyarrow.Table
            `OBJECTS_SCHEMA` with integer ids where all are, ``series`` and ``labels_row``, the object's row
            in the labels table. For sets also ``files``, the paths by band, and ``largest``, in bytes.
        """
        rank = f"CASE series WHEN 'train' THEN 0 WHEN '{UNLABELED}' THEN 2 ELSE 1 END"
        query = (
            f"SELECT * FROM planned {'WHERE label IS NOT NULL' if drop_unlabeled else ''} "
            f"ORDER BY {rank}, series, file, row"
        )
        for batch in self._database.sql(query).to_arrow_reader(ROWS_OUT):
            table = pa.Table.from_batches([batch])
            if self.integers:
                table = table.set_column(0, "object_id", table["object_id"].cast(pa.int64()))
            yield table

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._database.register("added", rows)
        self._database.execute(f"INSERT INTO {table} SELECT * FROM added")
        self._database.unregister("added")

    def _rows(self, query: str, *parameters: object) -> list[tuple]:
        return self._database.execute(query, list(parameters)).fetchall()
