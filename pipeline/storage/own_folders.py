"""Folders that a verb writes to: its own ones, and none that lies in what it reads."""

from __future__ import annotations

from collections.abc import Iterable

from hiwl_core.errors import UserError
from pipeline import storage

__all__ = ["check_folders_apart", "check_own"]


def check_own(folder: str, begun: bool, names: Iterable[str], verb: str, option: str = "--out") -> None:
    """Check that a verb writes over nothing but what it has written.

    Parameters
    ----------
    folder : str
    begun : bool
        Whether the folder has the verb's mark: then all in it is its own.
    names : iterable of str
        That it would write.
    verb, option : str
        For the message: who asks, and where another folder is said.

    Raises
    ------
    UserError
        If one of the names is there.
    """
    for name in () if begun else names:
        if storage.exists(f"{folder}/{name}"):
            raise UserError(f"{folder}/{name} was not made by `hiwl {verb}`: choose another {option}")


def check_folders_apart(output: str, source: str, words: str) -> None:
    """Check that neither of two folders lies in the other: what is written would be read the next time.

    Parameters
    ----------
    output, source : str
    words : str
        What the source is, for the message.

    Raises
    ------
    UserError
    """
    first, second = (f"{storage.absolute(path).rstrip('/')}/" for path in (output, source))
    if first.startswith(second) or second.startswith(first):
        raise UserError(f"{output} and {words} {source} lie in each other: choose another folder")
