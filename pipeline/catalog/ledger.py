"""The ledger of a catalog: what is known of each part that was written, kept beside the parts.

Parts are the truth; the ledger adds their checksums and counts, so that a resume, `status` and `verify` need
not open each part. The driver writes it in segments, a few a minute; what a killed driver did not write down
is found by opening those parts alone.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Any

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.progress import say

__all__ = ["LEDGER_FOLDER", "Ledger", "LedgerEntry", "read_heartbeat", "read_ledger"]

LEDGER_FOLDER = "_ledger"
HEARTBEAT = "_ledger/_heartbeat.json"
SECONDS_BETWEEN_SEGMENTS = 10.0
# Segments are read one request each; beyond so many they are merged into one.
MAX_SEGMENTS = 64


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A part that was written, or a shard that could not become one.

    Parameters
    ----------
    part : str
        File name.
    fingerprint : str
        Of the shard that it was made from.
    size : int
        Bytes of the part.
    sha256 : str
        Of the part's file; empty where `failed` says why there is none.
    classes, statuses : dict of int
        Rows by label and by status.
    finished : float
        Seconds since the epoch.
    seconds : float
        How long the shard took.
    run : str
        Which call of `classify` made it.
    failed : str
        Why there is no part; empty if there is one.
    content : str
        Digest of the shard's rows; see `pipeline.catalog.shard_content`. Empty in catalogs of before.
    making : str
        Digest of model and settings; see `pipeline.catalog.parts.making_of`. Empty in catalogs of before.
    flags : dict of int or None
        Rows by flag; None where there is no part, and in catalogs of before.
    """

    part: str
    fingerprint: str
    size: int = 0
    sha256: str = ""
    classes: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    finished: float = 0.0
    seconds: float = 0.0
    run: str = ""
    failed: str = ""
    content: str = ""
    making: str = ""
    flags: dict[str, int] | None = None

    @property
    def rows(self) -> int:
        """Rows of the part."""
        return sum(self.statuses.values())


NAMES = [one.name for one in fields(LedgerEntry)]
# What a line may hold under each name that is no text.
KINDS: dict[str, type | tuple[type, ...]] = {
    "size": int,
    "classes": dict,
    "statuses": dict,
    "flags": (dict, NoneType),
    "finished": (int, float),
    "seconds": (int, float),
}


def read_ledger(catalog: str) -> dict[str, list[LedgerEntry]]:
    """All entries by the name of the part, oldest first.

    A part has several if it was written more than once: by a retry, by two drivers at once, or after its
    shard was mended.
    """
    try:
        return _read_segments(catalog)
    except UserError:
        # A driver that just ended merged the segments between our listing and our reading.
        return _read_segments(catalog)


class Ledger:
    """Takes entries down, a segment now and then, with a sign of life; a context manager.

    Parameters
    ----------
    catalog : str
        Folder of the catalog.
    parts : int
        Parts that the call is to write, for the sign of life.
    """

    def __init__(self, catalog: str, parts: int) -> None:
        self._catalog, self._parts = catalog, parts
        self.run = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
        self._waiting: list[LedgerEntry] = []
        self._number = 0
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._writer = threading.Thread(target=self._write_now_and_then, daemon=True)

    def add(self, entry: LedgerEntry) -> None:
        """Take an entry down; it is in storage some seconds later."""
        with self._lock:
            self._waiting.append(entry)

    def __enter__(self) -> Ledger:
        self._write(running=True)
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._writer.join()
        try:
            self._write(running=False)
            _merge_segments(self._catalog)
        # What became of the parts is still to be told, and a resume opens those that are not taken down.
        except (OSError, UserError) as fault:
            say(f"the ledger of {self._catalog} could not be written ({fault}): the next run reads the parts")

    def _write_now_and_then(self) -> None:
        while not self._stopped.wait(SECONDS_BETWEEN_SEGMENTS):
            # Storage that is away for a while must not end the night: what waits is written the next time.
            with suppress(OSError, UserError):
                self._write(running=True)

    def _write(self, running: bool) -> None:
        with self._lock:
            entries = list(self._waiting)
        if entries:
            _write_segment(self._catalog, f"{self.run}-{self._number:06d}", entries)
            self._number += 1
            with self._lock:
                del self._waiting[: len(entries)]
        sign = {"run": self.run, "parts": self._parts, "running": running, "time": time.time()}
        storage.write_bytes(f"{self._catalog}/{HEARTBEAT}", json.dumps(sign).encode())


def _merge_segments(catalog: str) -> None:
    """Make one segment of many. Killed half way, it leaves entries twice, which does no harm."""
    segments = _segments(catalog)
    if len(segments) <= MAX_SEGMENTS:
        return
    entries = [entry for versions in read_ledger(catalog).values() for entry in versions]
    _write_segment(catalog, f"merged-{secrets.token_hex(6)}", dict.fromkeys(map(_line, entries)))
    for segment in segments:
        storage.remove(segment)


def read_heartbeat(catalog: str) -> dict[str, Any] | None:
    """The last sign of life of a driver: its `run`, `parts` to write, `running` and `time`."""
    path = f"{catalog}/{HEARTBEAT}"
    if not storage.exists(path):
        return None
    try:
        sign = json.loads(storage.read_bytes(path))
        return {
            **sign,
            "run": str(sign["run"]),
            "running": bool(sign["running"]),
            "time": float(sign["time"]),
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        # Another's, or torn: as if there were none.
        return None


def _read_segments(catalog: str) -> dict[str, list[LedgerEntry]]:
    entries: dict[str, list[LedgerEntry]] = defaultdict(list)
    for content in storage.in_threads(storage.read_bytes, _segments(catalog)):
        for line in content.split(b"\n"):
            if (entry := _entry(line)) is not None:
                entries[entry.part].append(entry)
    for versions in entries.values():
        versions.sort(key=lambda entry: entry.finished)
    return dict(entries)


def _entry(line: bytes) -> LedgerEntry | None:
    """A line's entry; None if it is torn or says what no line of ours does.

    A part without an entry is opened by who needs to know of it, so that nothing is lost by leaving one out.
    """
    try:
        # What a later version adds is of no use here.
        said = {name: value for name, value in json.loads(line).items() if name in NAMES}
        kinds = all(isinstance(value, KINDS.get(name, str)) for name, value in said.items())
        of_kinds = (said.get(name) or {} for name in ("classes", "statuses", "flags"))
        counts = [count for of_kind in of_kinds for count in of_kind.values()]
        return LedgerEntry(**said) if kinds and all(isinstance(count, int) for count in counts) else None
    except (ValueError, AttributeError, TypeError, RecursionError):
        return None


def _segments(catalog: str) -> list[str]:
    return [name for name, _ in storage.list_files(f"{catalog}/{LEDGER_FOLDER}") if name.endswith(".jsonl")]


def _write_segment(catalog: str, name: str, entries: Iterable[LedgerEntry | str]) -> None:
    lines = [entry if isinstance(entry, str) else _line(entry) for entry in entries]
    storage.write_bytes(
        f"{catalog}/{LEDGER_FOLDER}/{name}.jsonl", "".join(f"{line}\n" for line in lines).encode()
    )


def _line(entry: LedgerEntry) -> str:
    # `asdict` copies all that is in it, which takes three times as long.
    return json.dumps({name: getattr(entry, name) for name in NAMES}, sort_keys=True)
