"""A user's mistake that a worker found, out of what Ray raises instead of it."""

from __future__ import annotations

from hiwl_core.errors import UserError

__all__ = ["user_error_in"]

# As tracebacks begin the line of an exception.
_NAME = f"{UserError.__module__}.{UserError.__qualname__}: "


def user_error_in(error: BaseException) -> UserError | None:
    """The user's mistake that an error reports, or was raised because of; None if there is none.

    What a task raises Ray raises again as an error that is also of its type. Of an actor that fails while it
    starts, of Ray Data's actors and of Ray Train only the text of the traceback comes back, in an error of
    another type, which our code may have turned into one of its own.

    Parameters
    ----------
    error : BaseException
        Such as `ray.exceptions.ActorDiedError`, `ray.train.ControllerError`, or an `IncompleteError` raised
        from one.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            # Ray's own type has the whole remote traceback for its text.
            return UserError(str(getattr(cause, "cause", cause)))
        for line in str(cause).splitlines():
            if line.startswith(_NAME):
                return UserError(line.removeprefix(_NAME))
        cause = cause.__cause__
    return None
