"""The name that somebody meant, where one is written almost right."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["meant", "or_meant"]


def meant(wanted: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to a wanted one, or the same but for its case; None if none is near."""
    by_case = {name.casefold(): name for name in known}
    if (same := by_case.get(wanted.casefold())) is not None:
        return same
    near = get_close_matches(wanted.casefold(), by_case, n=1)
    return by_case[near[0]] if near else None


def or_meant(wanted: str, known: Iterable[str], mend: str = "") -> str:
    """For the end of a message: ``; did you mean 'RA'?``, or nothing.

    Parameters
    ----------
    wanted : str
    known : iterable of str
    mend : str
        What to type then, with ``{}`` for the name.
    """
    name = meant(wanted, known)
    if name is None:
        return ""
    return f"; did you mean {name!r}?" + (f" {mend.format(name)}" if mend else "")
