"""What can go wrong in words for the user: a mistake of theirs, or work that could not be finished."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["IncompleteError", "UserError", "if_missing", "last_line", "words_of"]


class UserError(ValueError):
    """A mistake in what the user gave: a wrong column, a missing file, a bad recipe.

    The message is one line that names the value, the place and the mend. The command line prints it
    without a traceback and exits with code 2; in a notebook it is an ordinary `ValueError`.
    """


class IncompleteError(RuntimeError):
    """Work that a fault of the machine or of a file left unfinished; what was done is kept.

    The message is one line that says what is missing, what was kept and how to go on. The command line
    prints it and exits with code 1.
    """


def words_of(error: object, most: int | None = None) -> str:
    """What an error or a text says, on one line and of so many characters at most; else what it is."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def last_line(error: BaseException) -> str:
    """The last line of what an error says, after a traceback that it quotes, say; else what it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@contextmanager
def if_missing(words: str) -> Iterator[None]:
    """What is said, and how to install it, where a package is missing that only some use.

    Raises
    ------
    UserError
        With these words, if what is imported in the ``with`` block is not there.
    """
    try:
        yield
    except ImportError:
        raise UserError(words) from None
