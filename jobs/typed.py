"""The command as it was typed, which a verb that was stopped repeats."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import click

__all__ = ["remember", "typed"]

KEY = "hiwl.typed"


def remember(ctx: click.Context, args: Sequence[str]) -> None:
    """Keep what was typed after ``hiwl``, for the verb that it calls.

    Not the command of ``--notify``, which may hold a token.
    """
    if not any(word.startswith("--notify") for word in args):
        ctx.meta[KEY] = shlex.join(["hiwl", *args])


def typed(ctx: click.Context) -> str:
    """What was typed; empty where a verb was called in another way."""
    return str(ctx.meta.get(KEY, ""))
