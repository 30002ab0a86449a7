"""What a publication is made of and how far it is: the parts, the groups they are read in, the tiles.

out/_publish.json       parts, options and, at the end, counts; refuses another publication in the same folder
out/_spill/plan.npz     the tiles, once all rows are counted
out/_spill/00007.arrow  sorted rows of a group of parts, and its index ``00007.arrow.json``
out/<name>/             the catalog
out/<name>_10arcs/      its margin cache
out/no_position/        rows without a position, a file a group
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.catalog.manifest import is_catalog, read_plan
from pipeline.publication.hats_tiles import INDEX_COLUMN, HatsCell
from pipeline.storage import Entry

__all__ = ["Publication", "TilePlan", "list_inputs"]

FORMAT = 1
# So many bytes of parts are read, sorted and spilled by one task: some hundred megabytes of memory.
GROUP_BYTES = 64 * 2**20
# Small catalogs are cut into more groups than that, so that all cores have work.
LEAST_GROUPS = 16
LEAST_GROUP_BYTES = 2**20
SPILL = "_spill"
REQUIRED = ("object_id", "ra", "dec", "status", "model_id")


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a catalog.

    Parameters
    ----------
    rows, without_position : int
        In all parts.
    tiles : list of HatsCell
        In the order of their place on the sky.
    sky : numpy.ndarray of int64
        Rows by cell of `pipeline.publication.hats_metadata.SKYMAP_ORDER`.
    """

    rows: int
    without_position: int
    tiles: list[HatsCell]
    sky: np.ndarray

    def to_bytes(self) -> bytes:
        """As a file's content; `from_bytes` is its inverse."""
        buffer = io.BytesIO()
        tiles = np.array([(tile.order, tile.pixel, tile.rows) for tile in self.tiles], dtype=np.int64)
        totals = np.array([self.rows, self.without_position])
        np.savez_compressed(buffer, tiles=tiles.reshape(-1, 3), totals=totals, sky=self.sky)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> TilePlan:
        """The plan that `to_bytes` wrote."""
        with np.load(io.BytesIO(content)) as file:
            rows, without = (int(number) for number in file["totals"])
            return cls(rows, without, [HatsCell(*map(int, row)) for row in file["tiles"]], file["sky"])


def list_inputs(catalog: str) -> list[Entry]:
    """The parts of an unpublished catalog.

    Raises
    ------
    UserError
        If there are none, if the first one is not a part, or if parts of the catalog's plan are missing.
    """
    folder = storage.absolute(catalog).rstrip("/")
    if not storage.exists(folder):
        raise UserError(f"no catalog at {catalog!r}: check the path")
    if storage.exists(f"{folder}/collection.properties"):
        raise UserError(f"{catalog} is a published catalog already: give the folder that classify wrote")
    parts = sorted(
        (
            entry
            for entry in storage.iter_entries(folder)
            if entry.path.endswith(".parquet") and "/" not in entry.path.removeprefix(f"{folder}/")
        ),
        key=lambda entry: entry.path,
    )
    if not parts:
        raise UserError(f"no part of a catalog in {catalog!r}: give the folder that classify wrote")
    try:
        with storage.open_input(parts[0].path) as file:
            names = pq.ParquetFile(file).schema_arrow.names
    except storage.StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{parts[0].path} cannot be read ({error}): classify its shard again") from None
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise UserError(f"{parts[0].path} has no column {missing[0]!r}: give a folder that classify wrote")
    if INDEX_COLUMN in names:
        raise UserError(f"{parts[0].path} has a column {INDEX_COLUMN!r}, which is HATS's own: rename it")
    _check_finished(folder, parts)
    return parts


def _check_finished(folder: str, parts: list[Entry]) -> None:
    """Refuse a catalog with parts still to come; a folder of parts without a plan is taken as it is."""
    if not is_catalog(folder):
        return
    planned = read_plan(folder).shards
    missing = planned.keys() - {part.path.rsplit("/", 1)[-1] for part in parts}
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(planned)} parts of {folder} are not there yet: let `hiwl classify` "
            "finish it first"
        )


class Publication:
    """The folder of a publication and the files in it.

    Parameters
    ----------
    out : str
        Path or URL of the folder.
    parts : list of Entry
    options : dict
        What decides the result: name, max_rows, margin.
    group_bytes : int, optional
        Bytes of parts that one task reads.
    making : str
        What all parts must have been made by; see `pipeline.catalog.parts.making_of`.
    """

    def __init__(
        self,
        out: str,
        parts: list[Entry],
        options: dict[str, Any],
        group_bytes: int | None = None,
        making: str = "",
    ) -> None:
        self.making = making
        self.path = storage.absolute(out).rstrip("/")
        self.options = options
        self._given = out
        self._parts = parts
        self._groups = _grouped(parts, group_bytes)
        self.summary: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        """Of the catalog, and of its folder."""
        return str(self.options["name"])

    @property
    def catalog(self) -> str:
        """Folder of the catalog."""
        return f"{self.path}/{self.name}"

    @property
    def margin_name(self) -> str:
        """Of the margin cache, and of its folder."""
        return f"{self.name}_{self.options['margin']:g}arcs"

    @property
    def margin(self) -> str:
        """Folder of the margin cache."""
        return f"{self.path}/{self.margin_name}"

    @property
    def spill(self) -> str:
        """Folder of the intermediate files."""
        return f"{self.path}/{SPILL}"

    @property
    def groups(self) -> list[list[str]]:
        """Paths of the parts that one task reads, for each group."""
        return [[self._parts[index].path for index in group] for group in self._groups]

    @property
    def _inner(self) -> tuple[str, ...]:
        """Names of the folders in it that are all ours."""
        return (self.name, self.margin_name, "no_position", SPILL)

    def spill_file(self, group: int) -> str:
        """Spill file of a group of parts."""
        return f"{self.spill}/{group:05d}.arrow"

    def no_position_file(self, group: int) -> str:
        """File with the rows of a group that have no position."""
        return f"{self.path}/no_position/{group:05d}.parquet"

    def open(self, claim: Callable[[], object] = lambda: None) -> None:
        """Take the folder, or go on with what is there.

        Parameters
        ----------
        claim : callable
            Makes the folder this run's; called when it is known to be fit, unless all is done already.

        Raises
        ------
        UserError
            If it holds anything else than this very publication.
        """
        marker = f"{self.path}/_publish.json"
        if not storage.exists(marker):
            if storage.exists(self.path) and not _is_empty(self.path):
                raise UserError(f"{self._given} holds files that publish did not make: choose another folder")
            claim()
            # Another run may have begun meanwhile, or even be done.
            if storage.exists(marker):
                self._go_on(marker)
                return
            storage.prepare_folder(self.path, self._inner)
            self._write(None)
            return
        self._go_on(marker)
        if self.summary is None:
            claim()
            self._go_on(marker)

    def _go_on(self, marker: str) -> None:
        begun = json.loads(storage.read_bytes(marker))
        for key, value in self.options.items():
            if begun["options"].get(key) != value:
                flag = "--" + key.replace("_", "-")
                raise UserError(
                    f"{self._given} is a publication with {flag} {begun['options'].get(key)}, not {value}: "
                    "choose another folder, or remove it"
                )
        if begun["inputs"] != _fingerprint(self._parts):
            raise UserError(
                f"{self._given} is a publication of other parts, or they were changed since: choose another "
                "folder, or remove it"
            )
        self._groups = [list(range(first, last)) for first, last in begun["groups"]]
        self.summary = begun["summary"]

    def read_plan(self) -> TilePlan | None:
        """The tiles, if they are planned already."""
        path = f"{self.spill}/plan.npz"
        return TilePlan.from_bytes(storage.read_bytes(path)) if storage.exists(path) else None

    def write_plan(self, plan: TilePlan) -> None:
        """Keep the tiles."""
        storage.write_bytes(f"{self.spill}/plan.npz", plan.to_bytes())

    def finish(self, summary: dict[str, Any]) -> None:
        """Note that all is written, and remove what is not needed any more."""
        storage.remove_partials(self.path, self._inner)
        self._write(summary)
        storage.remove(self.spill)

    def abandon(self) -> None:
        """Leave the folder as if nothing had been begun."""
        storage.remove(self.spill)
        storage.remove(f"{self.path}/_publish.json")

    def _write(self, summary: dict[str, Any] | None) -> None:
        said = {
            "format": FORMAT,
            "options": self.options,
            "inputs": _fingerprint(self._parts),
            "groups": [(group[0], group[-1] + 1) for group in self._groups],
            "summary": summary,
        }
        storage.write_bytes(f"{self.path}/_publish.json", (json.dumps(said, indent=1) + "\n").encode())


def _is_empty(folder: str) -> bool:
    # Listings leave hidden names out: another verb's, and the one that is removed at the end.
    hidden = ("_catalog.json", SPILL)
    return not storage.list_files(folder) and not any(storage.exists(f"{folder}/{name}") for name in hidden)


def _fingerprint(parts: Sequence[Entry]) -> str:
    said = "\n".join(f"{part.path.rsplit('/', 1)[-1]} {part.size} {part.mark}" for part in parts)
    return hashlib.sha256(said.encode()).hexdigest()


def _grouped(parts: Sequence[Entry], group_bytes: int | None) -> list[list[int]]:
    """Neighboring parts, of about the same bytes together."""
    total = sum(part.size for part in parts)
    size = group_bytes or min(GROUP_BYTES, max(total // LEAST_GROUPS, LEAST_GROUP_BYTES))
    groups: list[list[int]] = []
    filled = 0
    for index, part in enumerate(parts):
        if not groups or filled + part.size > size:
            groups.append([])
            filled = 0
        groups[-1].append(index)
        filled += part.size
    return groups
