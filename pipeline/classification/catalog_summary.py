"""What a classification made: parts, and rows by status and flag."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hiwl_core.statuses import OK
from pipeline.catalog.ledger import LedgerEntry
from pipeline.in_notebooks import InNotebooks

__all__ = ["CatalogSummary", "failures"]


@dataclass
class CatalogSummary(InNotebooks):
    """What a catalog holds, and what this call did for it.

    Parameters
    ----------
    catalog : str
    parts : list of str
        Parts of the shards that were asked for.
    classes, statuses : Counter
        Rows of each label and of each status, in all of `parts`.
    flags : Counter or None
        Rows with each flag; None if not all parts have told, as those of an older catalog.
    computed : int
        Rows classified by this call.
    skipped_parts : int
        Parts that were there already.
    seconds : float
        Time of the classification alone.
    failed : list of str
        A line for each shard that could not be read or whose part could not be written; it has no part.
    """

    in_notebooks = (
        "catalog",
        "rows",
        "computed",
        "seconds",
        "skipped_parts",
        "classes",
        "statuses",
        "failed",
    )

    catalog: str
    parts: list[str]
    classes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] | None = field(default_factory=Counter)
    computed: int = 0
    skipped_parts: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Rows in all of `parts`."""
        return self.statuses.total()

    def take(self, entry: LedgerEntry) -> None:
        """Count a part, or a shard that has none."""
        if entry.failed:
            self.failed.append(entry.failed)
        self.classes.update(entry.classes)
        self.statuses.update(entry.statuses)
        if entry.flags is None and not entry.failed:
            self.flags = None
        elif self.flags is not None:
            self.flags.update(entry.flags or {})


def failures(summary: CatalogSummary) -> dict[str, int]:
    """Rows that could not be classified, by status."""
    return {status: count for status, count in summary.statuses.items() if status != OK}
