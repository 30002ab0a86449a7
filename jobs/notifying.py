"""``--notify CMD`` of the verbs that take long: a command that runs when they have ended, however it was."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import click

from jobs.endings import places_of
from jobs.options import VerbCommand
from pipeline.notify import STOPPED_EXIT_CODE, notify

__all__ = ["NotifyingCommand", "notify_option", "place_of"]

notify_option = click.option(
    "--notify",
    metavar="CMD",
    help="Run a shell command when this has ended; it finds HIWL_EXIT_CODE, HIWL_VERB and HIWL_PLACE (the "
    "catalog, the run folder) in its environment.",
)


class NotifyingCommand(VerbCommand):
    """A verb with `notify_option`, whose command runs after all else; what becomes of it changes nothing."""

    def invoke(self, ctx: click.Context) -> Any:
        command: str | None = ctx.params.pop("notify")
        if command is None:
            return super().invoke(ctx)
        facts = {"HIWL_VERB": str(self.name or ""), "HIWL_PLACE": _place(ctx.params)}
        # For what the verb itself knows, such as a job's id.
        ctx.obj = facts
        code = 1
        try:
            result = super().invoke(ctx)
            code = 0
            return result
        except BaseException as error:
            code = _exit_code(error)
            raise
        finally:
            notify(command, {**facts, "HIWL_EXIT_CODE": str(code)})


def place_of(verb: str, arguments: Sequence[str]) -> str:
    """What a verb would write to with these arguments; empty if that cannot be told."""
    command: click.Command = importlib.import_module(f"jobs.{verb}").main
    try:
        return _place(command.make_context(verb, list(arguments), resilient_parsing=True).params)
    except (click.ClickException, click.exceptions.Exit):
        return ""


def _place(parameters: dict[str, Any]) -> str:
    return next(iter(places_of(parameters)), "")


def _exit_code(error: BaseException) -> int:
    """What the process will end with."""
    if isinstance(error, click.ClickException | click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, SystemExit) and isinstance(error.code, int | None):
        return error.code or 0
    return STOPPED_EXIT_CODE if isinstance(error, KeyboardInterrupt) else 1
