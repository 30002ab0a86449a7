"""How a verb ends that does not end well: one line for each cause, and an exit code.

2 is a mistake of the user, 1 work that a fault of the machine left unfinished, 130 and its kin a signal. What
is none of these is a fault of the program, and keeps its traceback.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import click

from hiwl_core.errors import IncompleteError, UserError
from pipeline.progress import event_line, log_event
from pipeline.ray_watch import own_process, said
from pipeline.storage.disk_faults import disk_fault, room_at
from pipeline.storage.retries import StoreError
from pipeline.storage.secret_urls import without_secrets

__all__ = ["Ending", "Stopped", "end", "ending_of", "one_line", "places_of", "stoppable"]

PATH_ERRORS = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)
# Longer lines are lists of names, which nobody reads to the end.
MOST_CHARACTERS = 2000
# What a verb writes to, by the names of its parameters.
PLACES = ("catalog", "out")
KEPT = "what was written whole is kept: start the same command again to go on"
# By name: importing Ray takes a second.
RAY_ERRORS = {
    "AuthenticationError": "the Ray cluster refused the token, or got none: RAY_AUTH_MODE=token and the "
    "cluster's own RAY_AUTH_TOKEN are wanted",
    "LocalRayletDiedError": "Ray's raylet on this machine died",
    "NodeDiedError": "a node of the Ray cluster died",
    "RaySystemError": "Ray failed",
    "RpcError": "Ray's head does not answer",
    "ObjectStoreFullError": "Ray's object store is full",
}
SECONDS_OF_ONE_SIGNAL = 1.0
SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
if hasattr(signal, "SIGHUP"):
    SIGNALS[signal.SIGHUP] = "SIGHUP, the end of its terminal"


class Ending(NamedTuple):
    """What is printed, and the exit code."""

    words: str
    code: int


class Stopped(KeyboardInterrupt):
    """A signal that asks for the end.

    Parameters
    ----------
    number : int
        The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def ending_of(error: BaseException, parameters: Mapping[str, Any], command: str = "") -> Ending | None:
    """How a verb ends with an error; None if that is nothing foreseen.

    Parameters
    ----------
    error : BaseException
    parameters : mapping
        Of the verb, for the places that it writes to.
    command : str
        As it was typed, where that is known.
    """
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        # One that cannot be typed as it is printed is none to print.
        typed = f": {command}" if command and one_line(command) == command else ""
        return Ending(f"stopped by {SIGNALS[signal.Signals(number)]}; {KEPT}{typed}", 128 + number)
    # What a Ray task raises comes wrapped, with the whole remote traceback in its text.
    words = str(getattr(error, "cause", error))
    if isinstance(error, (UserError, *PATH_ERRORS)):
        return Ending(words, 2)
    fault = disk_fault(error)
    local = [place for place in places_of(parameters) if "://" not in place]
    room = room_at([*local, tempfile.gettempdir()])
    if isinstance(error, (IncompleteError, StoreError)):
        return Ending(f"{words}; free are {room}" if fault and "free are" not in words else words, 1)
    if fault:
        return Ending(f"{fault}; free are {room}: make room; {KEPT}", 1)
    for kind in type(error).__mro__:
        if kind.__module__ == "ray.exceptions" and kind.__name__ in RAY_ERRORS:
            last = (words.strip().splitlines() or [""])[0]
            return Ending(f"{RAY_ERRORS[kind.__name__]} ({last[:300]}); {KEPT}", 1)
    return None


def places_of(parameters: Mapping[str, Any]) -> list[str]:
    """What a verb writes to, the main place first."""
    return [str(parameters[name]) for name in PLACES if parameters.get(name)]


def one_line(words: str) -> str:
    """Words as a line for a terminal: no line breaks, no control characters, no secrets, not too long."""
    line = without_secrets(" ".join("".join(_printable(one) for one in words).split()))
    left = len(line) - MOST_CHARACTERS
    return line if left <= 0 else f"{line[:MOST_CHARACTERS]}... ({left:,} more characters)"


def _printable(character: str) -> str:
    return character if character.isprintable() or character.isspace() else "\N{REPLACEMENT CHARACTER}"


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn the signals that ask for the end into `Stopped`, for the length of a ``with`` block.

    The first lets the work end in order; a second ends the process at once, and what it started follows.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[tuple[float, int]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        # `timeout` and batch systems send one to the process and one to its group.
        if asked and time.monotonic() - asked[0][0] < SECONDS_OF_ONE_SIGNAL:
            return
        if asked:
            words = f"ended at once by a second signal; {KEPT}"
            line = event_line(f"Error: {words}", error=words, exit_code=128 + number)
            os.write(2, f"{line}\n".encode())
            os._exit(128 + number)
        asked.append((time.monotonic(), number))
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    # What is ignored stays so, as under nohup.
    mine = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, stop)
    try:
        with own_process():
            yield
    except (Exception, KeyboardInterrupt) as error:
        # What fails on the way out fails of that: Ray, in the same process group, was sent the signal too.
        if asked and not isinstance(error, Stopped):
            raise Stopped(asked[0][1]) from error
        raise
    finally:
        for number in mine:
            # None is one that was not set from Python, which cannot put it back.
            if before[number] is not None:
                signal.signal(number, before[number])


def end(ctx: click.Context, ending: Ending) -> None:
    """Print how a verb ended, and leave with its code."""
    words = one_line(ending.words)
    log_event(f"Error: {words}", error=words, exit_code=ending.code)
    said(ending.code)
    ctx.exit(ending.code)
