"""How far a catalog is, from storage alone: while its job runs, or after it died."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from pipeline import storage
from pipeline.catalog.ledger import LedgerEntry, read_heartbeat, read_ledger
from pipeline.catalog.manifest import read_plan
from pipeline.catalog.parts import list_parts
from pipeline.in_notebooks import InNotebooks

__all__ = ["CatalogStatus", "catalog_status"]

# A driver gives a sign of life every ten seconds; storage may be slow.
SECONDS_WITHOUT_A_SIGN = 60.0
# The rate is that of the last minutes: what it was hours ago says little of the hours to come.
SECONDS_OF_RATE = 600.0


@dataclass
class CatalogStatus(InNotebooks):
    """How far a catalog is.

    Parameters
    ----------
    catalog, model_id : str
    parts_done, parts : int
    rows_done : int
    rows : int or None
        None if a tar is among the shards, whose rows are counted when it is read.
    classes, statuses : Counter
        Rows by label and by status.
    failed : dict of str
        By shard without a part, why.
    state : {"complete", "running", "stopped"}
    last_sign : float or None
        Seconds since the driver's last sign of life.
    rate : float
        Rows a second of the last run's last ten minutes; 0 if there is none.
    """

    catalog: str
    model_id: str
    parts_done: int
    parts: int
    rows_done: int
    rows: int | None
    classes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)
    state: str = "stopped"
    last_sign: float | None = None
    rate: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Until all is done, at the present rate; None if that is not known or nobody works."""
        if self.state != "running" or not self.rate or self.rows is None:
            return None
        return (self.rows - self.rows_done) / self.rate


def catalog_status(catalog: str) -> CatalogStatus:
    """How far a catalog is.

    Parameters
    ----------
    catalog : str
        Folder of a catalog that `classify` began.

    Raises
    ------
    UserError
        If there is no catalog.
    """
    folder = storage.absolute(catalog).rstrip("/")
    plan = read_plan(folder)
    there = list_parts(folder).keys() & plan.shards.keys()
    ledger = read_ledger(folder)
    written: dict[str, LedgerEntry] = {}
    failed: dict[str, str] = {}
    for part, shard in plan.shards.items():
        entries = [entry for entry in ledger.get(part, []) if entry.fingerprint == shard.fingerprint]
        whole = [entry for entry in entries if not entry.failed]
        if part in there and whole:
            written[part] = whole[-1]
        elif part not in there and entries and entries[-1].failed:
            failed[shard.shard] = entries[-1].failed
    # Parts that are there but not yet in the ledger count with the rows of their plan.
    unlisted = sum(plan.shards[part].rows or 0 for part in there - written.keys())
    status = CatalogStatus(
        catalog,
        plan.model_id,
        parts_done=len(there),
        parts=len(plan.shards),
        rows_done=sum(entry.rows for entry in written.values()) + unlisted,
        rows=plan.rows,
        failed=failed,
    )
    for entry in written.values():
        status.classes.update(entry.classes)
        status.statuses.update(entry.statuses)
    sign = read_heartbeat(folder)
    if sign is not None:
        status.last_sign = max(0.0, time.time() - sign["time"])
        status.rate = _rate([entry for entry in written.values() if entry.run == sign["run"]])
        if sign["running"] and status.last_sign < SECONDS_WITHOUT_A_SIGN:
            status.state = "running"
    if status.parts_done == status.parts:
        status.state = "complete"
        status.rows = status.rows_done
    return status


def _rate(entries: list[LedgerEntry]) -> float:
    if not entries:
        return 0.0
    last = max(entry.finished for entry in entries)
    recent = [entry for entry in entries if entry.finished > last - SECONDS_OF_RATE]
    first = min(entry.finished - entry.seconds for entry in recent)
    return sum(entry.rows for entry in recent) / max(last - first, 1e-9)
