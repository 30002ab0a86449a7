"""Whether a page that is to be written would take the place of something else."""

from __future__ import annotations

from hiwl_core.errors import UserError
from pipeline import storage

__all__ = ["check_own_page"]

HEAD_BYTES = 2048


def check_own_page(out: str, marker: str, verb: str) -> None:
    """Refuse to write a page over a file that is not an earlier one of the same verb.

    Parameters
    ----------
    out : str
        The page's path or URL.
    marker : str
        What stands near the beginning of each page of the verb.
    verb : str
        Such as ``sample``.

    Raises
    ------
    UserError
        If there is such a file.
    """
    try:
        with storage.open_input(out) as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:
        return
    if marker.encode() not in head:
        raise UserError(f"{out} is there already and is not a page of hiwl {verb}: choose another file")
