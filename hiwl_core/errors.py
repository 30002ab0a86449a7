"""The one exception that stands for a user's mistake."""

__all__ = ["UserError"]


class UserError(ValueError):
    """A mistake in what the user gave: a wrong column, a missing file, a bad recipe.

    The message is one line that names the value, the place and the mend. The command line prints it
    without a traceback and exits with code 2; in a notebook it is an ordinary `ValueError`.
    """
