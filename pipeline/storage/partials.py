"""Names of files that are being written, which say by whom and since when: only what died is removed.

A local file is written beside its place under such a name and renamed when it is whole. One that is left over
is removed when its writer is known to be dead: a process of this machine that is no more, or one elsewhere
that began long ago. What has any other name is never taken for ours.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

__all__ = ["dead_partials", "is_dead", "is_running", "partial_name", "this_machine"]

# No write of one file takes a day; a clock of another machine may be hours off.
SECONDS_ELSEWHERE = 24 * 3600.0
# The place's own name is not in it: it may be as long as a name can be.
_NAME = re.compile(r"\.hiwl-(?P<host>[0-9a-f]{12})-(?P<pid>\d+)-(?P<began>[0-9a-f]+)-[0-9a-f]{8}\.partial")


def partial_name() -> str:
    """A new name for a file that this process is about to write."""
    return f".hiwl-{this_machine()}-{os.getpid()}-{int(time.time()):x}-{secrets.token_hex(4)}.partial"


def is_dead(name: str) -> bool:
    """Whether a file of this name was left half written by a process that will not finish it.

    Parameters
    ----------
    name : str
        False for any that `partial_name` did not make.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return False
    if found["host"] == this_machine():
        return not is_running(int(found["pid"]))
    return time.time() - int(found["began"], 16) > SECONDS_ELSEWHERE


def dead_partials(folder: str, inner: Sequence[str] = ()) -> Iterator[Path]:
    """What dead processes left half written in a folder of ours.

    Parameters
    ----------
    folder : str
        Searched at its top only: what lies deeper may be anybody's.
    inner : sequence of str
        Names of folders in it that are all ours, and searched to the bottom.
    """
    for place, deep in [(Path(folder), False), *((Path(folder, name), True) for name in inner)]:
        for path in (place.rglob if deep else place.glob)(".hiwl-*.partial"):
            if is_dead(path.name) and path.is_file() and not path.is_symlink():
                yield path


@lru_cache(maxsize=1)
def this_machine() -> str:
    """This machine since it was started, and the container in it: where a process has its number."""
    known = [platform.node()]
    for fact in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            known.append(fact())
        except OSError:
            known.append("")
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]


def is_running(pid: int) -> bool:
    """Whether there is a process of this number on `this_machine`."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        # There is one, of another user.
        return True
    return True
