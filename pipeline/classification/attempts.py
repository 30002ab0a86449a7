"""How often each shard was tried, over the lives of the workers that try: what bounds Ray's retries.

Ray tries again without end what a worker died over. So each try is counted here before its first byte is
read, in a small actor beside the driver, which outlives the workers: a shard over which workers die, or in
which they raise, is in the end set aside by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

from pipeline.cluster import beside_driver
from pipeline.retry_policy import HOPELESS_SHARDS, MAX_DEATHS, MAX_DEATHS_OF_A_GROUP, MAX_RAISED

if TYPE_CHECKING:
    from pipeline.catalog.ledger import LedgerEntry

__all__ = ["Attempts", "Verdict", "ask_to_read", "start_attempts"]


class Verdict(NamedTuple):
    """What is to become of a shard.

    Parameters
    ----------
    entry : LedgerEntry or None
        It was done by an earlier try of its group.
    give_up : str
        Why it is not to be tried again; empty if it is.
    hopeless : str
        Why nothing is to be tried any more; empty if something is.
    """

    entry: LedgerEntry | None = None
    give_up: str = ""
    hopeless: str = ""


class Attempts:
    """The tries of all shards of a run.

    A try begins with `may_read` for a group that is read as one, else with `begin`, and ends with `end`,
    unless its worker dies. If others read, what they have read outlives a worker: then the next try begins
    with `may_classify`. Shards are named by their paths; those of a group stay together.

    Parameters
    ----------
    fed : bool
        Whether others read for those who classify.
    """

    def __init__(self, fed: bool = False) -> None:
        self._fed = fed
        # Tries that have begun and not ended, of a shard or, under its first shard, of a group.
        self._begun: dict[str, int] = defaultdict(int)
        self._begun_groups: dict[str, int] = defaultdict(int)
        self._raised: dict[str, list[str]] = defaultdict(list)
        self._done: dict[str, LedgerEntry] = {}
        self._given_up = 0
        self._read: set[str] = set()
        self._any_read = self._any_begun = self._any_done = False

    def may_read(self, shards: Sequence[str]) -> bool:
        """Count a try of a group, or say no: its shards are to be tried one by one."""
        self._any_read = True
        self._any_begun = self._any_begun or not self._fed
        may = self._may_try(shards)
        if may:
            self._read.add(shards[0])
        return may

    def may_classify(self, shards: Sequence[str]) -> bool:
        """The same for a group that was read; its first try is the one that reading began."""
        self._any_begun = True
        if shards[0] in self._read:
            self._read.remove(shards[0])
            return True
        return self._may_try(shards)

    def _may_try(self, shards: Sequence[str]) -> bool:
        begun = self._begun if len(shards) == 1 else self._begun_groups
        if begun[shards[0]] >= MAX_DEATHS_OF_A_GROUP:
            return False
        begun[shards[0]] += 1
        return True

    def begin(self, shard: str) -> Verdict:
        """Count a try of a shard by itself, if there is to be another."""
        self._any_begun = True
        if shard in self._done:
            return Verdict(self._done[shard])
        raised = self._raised[shard]
        if len(raised) >= MAX_RAISED:
            self._given_up += 1
            if self._given_up >= HOPELESS_SHARDS and not self._any_done:
                return Verdict(hopeless=raised[-1])
            return Verdict(give_up=raised[-1])
        if self._begun[shard] >= MAX_DEATHS:
            return Verdict(give_up=f"its worker died {MAX_DEATHS} times, for lack of memory perhaps")
        self._begun[shard] += 1
        return Verdict()

    def any_begun(self) -> tuple[bool, bool]:
        """Whether anything was ever read, and whether a worker that classifies has ever been at work."""
        return self._any_read, self._any_begun

    def raised(self, shards: Sequence[str], reason: str) -> None:
        """Note that the process which tries these shards raised, and ends."""
        # Which of several it was shows when they are tried one by one.
        if len(shards) == 1:
            self._raised[shards[0]].append(reason)

    def end(self, shard: str, entry: LedgerEntry) -> None:
        """Note what became of a shard."""
        self._done[shard] = entry
        self._any_done = self._any_done or not entry.failed

    def forget(self, shards: Sequence[str], any_done: bool) -> None:
        """Let go of what is known of a group whose entries are on their way to the driver."""
        self._any_done = self._any_done or any_done
        self._begun_groups.pop(shards[0], None)
        self._read.discard(shards[0])
        for shard in shards:
            for known in (self._begun, self._raised, self._done):
                known.pop(shard, None)


def start_attempts(fed: bool = False) -> Any:
    """The actor, beside the driver, whose end is its own; `ray.kill` ends it."""
    return ray.remote(Attempts).options(num_cpus=0, scheduling_strategy=beside_driver()).remote(fed)


def ask_to_read(attempts: Any, shards: list[str]) -> bool:
    """`Attempts.may_read`, where a group is read."""
    return bool(ray.get(attempts.may_read.remote(shards)))
