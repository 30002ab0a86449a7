"""Which parts of a planned catalog are there, whole and of this plan, and which are to be made."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.catalog.ledger import LedgerEntry, read_ledger
from pipeline.catalog.manifest import NEXT_STEPS, CatalogPlan, PlannedShard, part_record
from pipeline.catalog.parts import PartRecord, check_part_record, content_in, facts_of, list_parts, read_part

__all__ = ["PartsFound", "find_parts"]


@dataclass
class PartsFound:
    """What an earlier call left in the catalog's folder.

    Parameters
    ----------
    done : list of LedgerEntry
        Of the parts that are there and are what the ledger says.
    adopted : list of LedgerEntry
        Those among `done` that the ledger did not know: their driver was killed.
    damaged : list of str
        Parts that are not what was written; they are made anew.
    missing : list of PlannedShard
        Shards whose parts are to be made, those of `damaged` among them.
    """

    done: list[LedgerEntry] = field(default_factory=list)
    adopted: list[LedgerEntry] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    missing: list[PlannedShard] = field(default_factory=list)


def find_parts(folder: str, plan: CatalogPlan) -> PartsFound:
    """Compare a catalog's folder with its plan; only parts that the ledger does not know are opened.

    Raises
    ------
    UserError
        If there is a Parquet file that no call of `classify` for this catalog wrote.
    """
    there = list_parts(folder)
    for name in there:
        if name not in plan.shards:
            raise UserError(f"{folder}/{name} is no part of this catalog: move it elsewhere")
    ledger = read_ledger(folder) if there else {}
    found, orphans = PartsFound(), []
    unsaid: list[tuple[PlannedShard, LedgerEntry]] = []
    for part, shard in plan.shards.items():
        made = [
            entry
            for entry in ledger.get(part, [])
            if not entry.failed and entry.fingerprint == shard.fingerprint
        ]
        # Versions that did not count left parts of shards that claim more rows than they have.
        whole = [
            entry for entry in made if entry.size == there.get(part) and shard.rows in (None, entry.rows)
        ]
        if whole and whole[-1].making == plan.making:
            found.done.append(whole[-1])
        elif whole and not whole[-1].making:
            unsaid.append((shard, whole[-1]))
        elif whole:
            raise _another_makes(f"{folder}/{part}")
        elif part in there and not made:
            orphans.append(shard)
        else:
            found.missing.append(shard)
            if part in there:
                found.damaged.append(part)

    def adopt(shard: PlannedShard) -> LedgerEntry | None:
        entry = _adopt_part(f"{folder}/{shard.part}", part_record(plan, shard))
        return entry if entry is not None and shard.rows in (None, entry.rows) else None

    def made_here(one: tuple[PlannedShard, LedgerEntry]) -> LedgerEntry | None:
        shard, entry = one
        path = f"{folder}/{shard.part}"
        metadata = read_part(path, []).schema.metadata
        same = check_part_record(path, metadata, part_record(plan, shard))
        return replace(entry, making=plan.making) if same else None

    # Ledgers of before do not say what a part was made by: its footer does, and then they do.
    looks = [*storage.in_threads(made_here, unsaid), *storage.in_threads(adopt, orphans)]
    for shard, known in zip([*(shard for shard, _ in unsaid), *orphans], looks, strict=True):
        if known is None:
            found.missing.append(shard)
        else:
            found.adopted.append(known)
            found.done.append(known)
    return found


def _another_makes(path: str) -> UserError:
    return UserError(f"{path} was made by another model or with other settings: remove it, or {NEXT_STEPS}")


def _adopt_part(path: str, record: PartRecord) -> LedgerEntry | None:
    """The ledger's entry of a part that it does not know; None if the part is of an older state of its shard.

    Raises
    ------
    UserError
        If the file is not a part of this catalog.
    """
    content = storage.read_bytes(path)
    try:
        table = pq.ParquetFile(io.BytesIO(content)).read()
    except (pa.ArrowException, OSError):
        raise UserError(
            f"{path} is not a part of a HIWL catalog: move it elsewhere, or {NEXT_STEPS}"
        ) from None
    if not check_part_record(path, table.schema.metadata, record):
        return None
    return LedgerEntry(
        part=path.rsplit("/", 1)[-1],
        fingerprint=record.shard_fingerprint,
        **facts_of(content, table),
        finished=time.time(),
        content=content_in(table.schema.metadata),
        making=record.making,
    )
