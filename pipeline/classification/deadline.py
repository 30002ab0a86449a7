"""A time by which a catalog is wanted: whether it will be there, with how many workers, and when to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from hiwl_core.errors import IncompleteError, UserError
from pipeline.catalog.ledger import LedgerEntry
from pipeline.progress import say
from pipeline.read_ahead import with_pauses

__all__ = ["Deadline", "Forecast", "in_time", "workers_needed"]

# A rate that is measured in less is no more than a guess.
SECONDS_MEASURED = 60.0
SECONDS_BETWEEN_LINES = 600.0
SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Deadline:
    """When a catalog is wanted.

    Parameters
    ----------
    at : datetime
        In the time of this machine.
    stop : bool
        Whether to end the work then, whole.
    """

    at: datetime
    stop: bool = False

    @classmethod
    def parse(cls, text: str, stop: bool, now: datetime | None = None) -> Deadline:
        """The next time that a clock shows ``06:00``, or a date and time such as ``2027-03-01T06:00``.

        Raises
        ------
        UserError
            If it is neither, or is over.
        """
        now = now or datetime.now()
        try:
            if "T" in text or " " in text:
                at = datetime.fromisoformat(text)
                at = at.astimezone().replace(tzinfo=None) if at.tzinfo else at
            else:
                clock = datetime.strptime(text, "%H:%M").time()
                at = datetime.combine(now.date(), clock)
                at = at if at > now else at + timedelta(days=1)
        except ValueError:
            raise UserError(
                f"--deadline {text!r}: a time such as 06:00, or a date and time such as 2027-03-01T06:00"
            ) from None
        if at <= now:
            raise UserError(f"--deadline {text}: that was {str(now - at).split('.')[0]} ago")
        return cls(at, stop)

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M}"


def workers_needed(galaxies: int, rate: float, workers: int, seconds: float) -> int | None:
    """Workers that classify so many galaxies in time, if each is as fast as those that there are.

    Parameters
    ----------
    galaxies : int
    rate : float
        Galaxies a second of all workers that there are.
    workers : int
    seconds : float
        Until the deadline; if none are left no number is enough, which is None.
    """
    if seconds <= 0:
        return None
    return max(1, math.ceil(galaxies * workers / (rate * seconds)))


class Forecast:
    """Says now and then when the work will have ended, and ends it at the deadline if that is wanted.

    Parameters
    ----------
    deadline : Deadline
    galaxies : int or None
        To be classified; None if the shards do not say.
    workers : callable
        How many there are room for now.
    most : int or None
        Workers that the user allows.
    """

    def __init__(
        self, deadline: Deadline, galaxies: int | None, workers: Callable[[], int], most: int | None
    ) -> None:
        self._deadline, self._galaxies, self._workers, self._most = deadline, galaxies, workers, most
        # What was done, and when, where measuring began.
        self._since: tuple[int, float] | None = None
        self._next_line = 0.0

    def look(self, done: int) -> None:
        """Take notice that so many galaxies are done.

        Raises
        ------
        IncompleteError
            At the deadline, if the work is to stop then.
        """
        now = time.time()
        left = self._deadline.at.timestamp() - now
        if self._deadline.stop and left <= 0:
            raise IncompleteError(
                f"stopped at the deadline {self._deadline}: whole parts are kept, start the same command "
                "again to go on"
            )
        if done and self._since is None:
            self._since = (done, now)
        if self._since is None or self._galaxies is None or now < self._next_line:
            return
        first, began = self._since
        if now - began >= SECONDS_MEASURED and done > first:
            self._next_line = now + SECONDS_BETWEEN_LINES
            say(self._line((done - first) / (now - began), self._galaxies - done, left))

    def _line(self, rate: float, galaxies: int, seconds: float) -> str:
        workers = max(1, self._workers())
        end = datetime.now() + timedelta(seconds=galaxies / rate)
        line = (
            f"deadline {self._deadline}: at {rate:,.0f} galaxies/s all are classified at {end:%Y-%m-%d %H:%M}"
        )
        needed = workers_needed(galaxies, rate, workers, seconds)
        if end.timestamp() <= self._deadline.at.timestamp():
            return line
        if needed is None:
            return f"{line}: it is over"
        if self._most is not None and needed > self._most:
            return f"{line}: {needed} workers are needed, --workers allows {self._most}"
        return (
            f"{line}: {needed} workers are needed, there are {workers}; more are used as soon as nodes join"
        )


def in_time(entries: Iterable[LedgerEntry], forecast: Forecast) -> Iterator[LedgerEntry]:
    """The same entries, with a look at the clock after each, and while there are none.

    Raises
    ------
    IncompleteError
        See `Forecast.look`.
    """
    done = 0
    for entry in with_pauses(entries, SECONDS_BETWEEN_LOOKS):
        if entry is not None:
            done += entry.rows
            yield entry
        forecast.look(done)
