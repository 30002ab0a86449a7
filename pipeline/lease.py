"""Who writes an output folder: one run at a time, named to the others.

``FOLDER/_lease/000007.json`` is the claim of a run, made only if there is none of that number; who has the
highest number owns the folder. Its owner signs it every ten seconds. A claim that was given back, one of a
process of this machine that is gone, and one without a sign for a minute are followed by the next number.
Clocks of machines differ: who finds a sign old, or of a time to come, waits whether there is another.
A run that was taken for dead, and comes back, finds a higher number than its own and stops.
"""

from __future__ import annotations

import getpass
import json
import os
import platform
import secrets
import threading
import time
from contextlib import suppress
from typing import Any

from hiwl_core.errors import IncompleteError, UserError
from pipeline import storage
from pipeline.progress import say
from pipeline.retry_policy import CLAIM_ATTEMPTS, CLAIM_READS
from pipeline.storage.partials import is_running, this_machine

__all__ = ["LEASE_FOLDER", "SECONDS_TO_DEATH", "Lease", "user_name"]

LEASE_FOLDER = "_lease"
SECONDS_BETWEEN_SIGNS = 10.0
SECONDS_TO_DEATH = 60.0
# For a sign of an owner who may only have another time of day.
SECONDS_OF_WATCH = 25.0


class Lease:
    """The right to write a folder, for the length of a ``with`` block.

    Parameters
    ----------
    folder : str
        Absolute path or URL.
    work : str
        What is done there, such as ``"hiwl classify"``, for those who are refused.
    keep : bool
        Leave the last claim behind, without names. False where others are to get the folder: it is removed,
        and so is the folder if it is a local one that this run made and wrote nothing to.

    Raises
    ------
    UserError
        On entering, if another run that is alive has it.
    """

    def __init__(self, folder: str, work: str, keep: bool = True) -> None:
        self._folder, self._keep = folder, keep
        self._number, self._lost, self._made = 0, "", False
        self._claim: dict[str, Any] = {
            "token": secrets.token_hex(8),
            "work": work,
            "user": user_name(),
            "host": platform.node(),
            "machine": this_machine(),
            "process": os.getpid(),
            "started": time.time(),
        }
        self._stopped = threading.Event()
        self._signer = threading.Thread(target=self._sign_now_and_then, daemon=True)

    def __enter__(self) -> Lease:
        self._made = not self._keep and not storage.exists(self._folder)
        for _ in range(CLAIM_ATTEMPTS):
            before = _numbers(self._folder)
            newest = max(before, default=0)
            owner = _read(_path(self._folder, newest)) if newest else None
            ago = None if owner is None else _last_sign(_path(self._folder, newest), owner)
            if owner is not None and ago is not None:
                raise UserError(_refusal(self._folder, owner, ago))
            self._number = newest + 1
            place = _path(self._folder, self._number)
            # The folder may go while it is written to: its last owner did not keep it.
            with suppress(FileNotFoundError):
                if not storage.create_bytes(place, self._signed(running=True)):
                    continue
                # Others began where numbers were left behind, or begin again where claims were removed.
                if set(_numbers(self._folder)) - {self._number, *before}:
                    storage.remove(place)
                    continue
                for number in before:
                    storage.remove(_path(self._folder, number))
                self._signer.start()
                return self
        raise UserError(f"{self._folder} is claimed by several runs at once: start the same command again")

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._signer.join()
        # What cannot be given back is free after a minute, or as soon as this process is gone.
        with suppress(OSError, UserError):
            self.sign(running=False)
            mine = _path(self._folder, self._number)
            if self._lost:
                # A sign that was late may have come after the next owner had removed the claim.
                claim = _read(mine) if storage.exists(mine) else None
                if claim is not None and claim.get("token") == self._claim["token"]:
                    storage.remove(mine)
            elif not self._keep:
                storage.remove(mine)
                storage.remove_empty(f"{self._folder}/{LEASE_FOLDER}")
                if self._made:
                    storage.remove_empty(self._folder)

    def check(self) -> None:
        """Go on only if the folder is still this run's, as far as is known.

        Raises
        ------
        IncompleteError
            If another run has it.
        """
        if self._lost:
            raise IncompleteError(self._lost)

    def sign(self, running: bool = True) -> None:
        """Give a sign of life, unless another run has the folder."""
        place = _path(self._folder, self._number)
        newest = max(_numbers(self._folder), default=0)
        owner = _read(_path(self._folder, newest)) if newest else None
        if owner is None and not running:
            return
        # Nobody's: somebody removed the claim, and not to claim the folder.
        if owner is None or owner.get("token") == self._claim["token"]:
            storage.write_bytes(place, self._signed(running))
        else:
            self._lost = (
                f"{self._folder} was taken over by {_described(owner)}, since this run gave no sign for "
                f"{SECONDS_TO_DEATH:.0f} s; whole parts are kept: start the same command again when it has "
                "ended"
            )

    def _sign_now_and_then(self) -> None:
        while not self._lost and not self._stopped.wait(SECONDS_BETWEEN_SIGNS):
            # Storage that is away for a while must not end the night.
            with suppress(OSError, UserError):
                self.sign()

    def _signed(self, running: bool) -> bytes:
        if not running:
            # Who it was is nobody's business any more.
            return json.dumps({"token": self._claim["token"], "running": False}).encode()
        return json.dumps({**self._claim, "time": time.time(), "running": True}).encode()


def _last_sign(place: str, owner: dict[str, Any]) -> float | None:
    """Seconds since an owner's last sign of life; None if he is dead."""
    if not owner["running"]:
        return None
    if owner["machine"] == this_machine() and not is_running(int(owner["process"])):
        return None
    ago = time.time() - owner["time"]
    if abs(ago) < SECONDS_TO_DEATH:
        return max(0.0, ago)
    if SECONDS_OF_WATCH:
        say(f"{place} was signed {_distance(ago)}: waiting {SECONDS_OF_WATCH:.0f} s for another sign")
    until = time.monotonic() + SECONDS_OF_WATCH
    while time.monotonic() < until:
        time.sleep(SECONDS_OF_WATCH / 25)
        now = _read(place) if storage.exists(place) else None
        if now is None or not now["running"]:
            return None
        if now["time"] != owner["time"]:
            return 0.0
    return None


def _distance(ago: float) -> str:
    return f"{ago:.0f} s ago" if ago > 0 else f"{-ago:.0f} s in the time to come"


def _refusal(folder: str, owner: dict[str, Any], ago: float) -> str:
    return (
        f"{folder} is being written by {_described(owner)}, last sign of life {ago:.0f} s ago: wait until it "
        f"has ended, or if it is gone until {SECONDS_TO_DEATH:.0f} s after its last sign"
    )


def _described(owner: dict[str, Any]) -> str:
    if "started" not in owner:
        return "another run, which has ended"
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(owner["started"]))
    return (
        f"{owner['work']} of {owner['user']} on {owner['host']} (process {owner['process']}, since {since})"
    )


def _path(folder: str, number: int) -> str:
    return f"{folder}/{LEASE_FOLDER}/{number:06d}.json"


def _numbers(folder: str) -> list[int]:
    names = (path.rsplit("/", 1)[-1] for path, _ in storage.list_files(f"{folder}/{LEASE_FOLDER}"))
    stems = (name.removesuffix(".json") for name in names)
    return [int(stem) for stem in stems if stem.isdecimal()]


def _read(path: str) -> dict[str, Any] | None:
    """A claim; None if it is none, or is gone."""
    for _ in range(CLAIM_READS):
        with suppress(UserError, ValueError, KeyError, TypeError):
            claim = json.loads(storage.read_bytes(path))
            if claim["running"] is False or set(claim) >= {"token", "machine", "process", "time", "started"}:
                return dict(claim)
        # Where there are no links a claim is not whole from its first moment.
        time.sleep(0.1)
    return None


def user_name() -> str:
    """Who runs this process, for others to read."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # A container may know no name for its user.
        return "somebody"
