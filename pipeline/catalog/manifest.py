"""The plan of a catalog: which shards become which parts, stored before any work begins.

``CATALOG/_plan.arrow`` has one row a shard, ``CATALOG/_catalog.json`` says which model and which settings
made the catalog. A later call must find the same; what is there is never taken for something else.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import feather

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.catalog.parts import PartRecord, list_parts, making_of, part_name

__all__ = [
    "HEADER",
    "CatalogPlan",
    "PlannedShard",
    "check_free",
    "claim_catalog",
    "is_catalog",
    "part_names",
    "part_record",
    "planned_meanwhile",
    "read_making",
    "read_plan",
    "write_model_facts",
]

HEADER = "_catalog.json"
# What those who only have the catalog want to know of its model.
MODEL_FACTS = "_model.json"
# Not Parquet: people read their catalog as `catalog/*.parquet`.
TABLE = "_plan.arrow"
FORMAT_VERSION = 1

PLAN_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string()),
        pa.field("part", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("mark", pa.string()),
        pa.field("fingerprint", pa.string()),
    ]
)
NEXT_STEPS = "choose another folder for the catalog"


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard and the part that it becomes.

    Parameters
    ----------
    shard : str
        Absolute path or URL.
    part : str
        File name of the part, a function of the shard's name alone.
    rows : int or None
        None for a tar, whose rows are counted when it is read.
    size : int
        Bytes of the shard.
    mark : str
        What the storage says of the file's version: an ETag, a time of modification.
    fingerprint : str
        Short hash of the content; see `pipeline.shards.fingerprints.fingerprint`.
    """

    shard: str
    part: str
    rows: int | None
    size: int
    mark: str
    fingerprint: str


@dataclass(frozen=True)
class CatalogPlan:
    """What a catalog is to hold.

    Parameters
    ----------
    model_id : str
    settings : dict
        All else that decides what the parts hold: column names, carried columns, when stage 2 runs.
    shards : dict of PlannedShard
        By the name of the part.
    """

    model_id: str
    settings: dict[str, Any]
    shards: dict[str, PlannedShard]

    @property
    def making(self) -> str:
        """See `pipeline.catalog.parts.making_of`."""
        return making_of(self.model_id, self.settings)

    @property
    def rows(self) -> int | None:
        """Rows in all; None if a tar is among the shards."""
        counts = [shard.rows for shard in self.shards.values()]
        return None if None in counts else sum(count or 0 for count in counts)


def is_catalog(folder: str) -> bool:
    """Whether a folder holds a catalog that `classify` began."""
    return storage.exists(f"{folder}/{HEADER}")


def read_plan(folder: str) -> CatalogPlan:
    """The plan of a catalog.

    Raises
    ------
    UserError
        If the folder is no catalog, or one of another format.
    """
    if not is_catalog(folder):
        raise UserError(f"{folder} is not a catalog of `hiwl classify`: it has no {HEADER}")
    try:
        header = json.loads(storage.read_bytes(f"{folder}/{HEADER}"))
        if header["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"{folder} is a catalog of format {header['format_version']}, "
                f"this HIWL reads {FORMAT_VERSION}"
            )
        table = feather.read_table(io.BytesIO(storage.read_bytes(f"{folder}/{TABLE}")))
        columns = [table[name].to_pylist() for name in PLAN_SCHEMA.names]
        shards = {row.part: row for row in map(PlannedShard, *columns)}
        return CatalogPlan(header["model_id"], header["settings"], shards)
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"the plan of {folder} is damaged ({error}): {NEXT_STEPS}") from None


def read_making(folder: str) -> str:
    """The `making_of` that the header of a catalog says, in one request; empty if there is no header.

    Raises
    ------
    UserError
        If the header is damaged.
    """
    path = f"{folder}/{HEADER}"
    try:
        with storage.open_input(path) as file:
            header = json.loads(file.read())
        return making_of(header["model_id"], header["settings"])
    except FileNotFoundError:
        return ""
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): {NEXT_STEPS}") from None


def check_free(folder: str) -> None:
    """Check that a folder that is no catalog yet can become one.

    Raises
    ------
    UserError
        If it holds Parquet files of something else.
    """
    strange = list(list_parts(folder))
    if strange:
        raise UserError(f"{folder}/{strange[0]} was not made by `hiwl classify`: {NEXT_STEPS}")


def planned_meanwhile(folder: str) -> UserError:
    """What ends a run that found a catalog where there was none, or another one, when it looked first."""
    return UserError(f"{folder} was planned by another run meanwhile: start the same command again")


def claim_catalog(folder: str, plan: CatalogPlan, is_new: bool) -> None:
    """Write the plan of a new catalog, or of one that grows.

    Parameters
    ----------
    folder : str
    plan : CatalogPlan
    is_new : bool
        Whether there was none when this was planned. Asked here, another run's of just now would be taken for
        one that grows, and written over.

    Raises
    ------
    UserError
        If a new one's folder holds Parquet files of something else, or was planned by another run meanwhile.
    """
    if is_new:
        if is_catalog(folder):
            raise planned_meanwhile(folder)
        check_free(folder)
    shards = plan.shards.values()
    # By columns: a million rows as dictionaries would take gigabytes.
    table = pa.table(
        [
            pa.array(
                (getattr(shard, name) for shard in shards), PLAN_SCHEMA.field(name).type, size=len(shards)
            )
            for name in PLAN_SCHEMA.names
        ],
        schema=PLAN_SCHEMA,
    )
    buffer = io.BytesIO()
    feather.write_feather(table, buffer, compression="zstd")
    header = {"format_version": FORMAT_VERSION, "model_id": plan.model_id, "settings": plan.settings}
    # The header comes last: a folder without it is no catalog yet and is planned anew.
    storage.write_bytes(f"{folder}/{TABLE}", buffer.getvalue())
    content = (json.dumps(header, indent=2) + "\n").encode()
    if not is_new:
        storage.write_bytes(f"{folder}/{HEADER}", content)
    elif not storage.create_bytes(f"{folder}/{HEADER}", content):
        raise planned_meanwhile(folder)


def write_model_facts(folder: str, facts: dict[str, Any] | None) -> None:
    """Write what is to be known of a catalog's model beside it; nothing for one that was not calibrated."""
    if facts is not None:
        storage.write_bytes(f"{folder}/{MODEL_FACTS}", (json.dumps(facts) + "\n").encode())


def part_record(plan: CatalogPlan, shard: PlannedShard) -> PartRecord:
    """What the footer of a shard's part says."""
    return PartRecord(shard.shard.rsplit("/", 1)[-1], shard.fingerprint, plan.model_id, plan.settings)


def part_names(shards: Sequence[str]) -> dict[str, str]:
    """The shards by the names of their parts.

    Raises
    ------
    UserError
        If two shards would become one part.
    """
    names: dict[str, str] = {}
    for shard in shards:
        name = part_name(shard)
        if name in names:
            raise UserError(
                f"{names[name]} and {shard} would both become {name}: a part is named after its shard, "
                "so classify them into two catalogs or rename one"
            )
        names[name] = shard
    return names
