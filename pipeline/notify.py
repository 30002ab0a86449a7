"""A command of the user's, run when long work has ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from pipeline.progress import say

__all__ = ["STOPPED_EXIT_CODE", "notify"]

STOPPED_EXIT_CODE = 130
"""What a shell reports for a program that Ctrl-C ended."""
# What is to tell of the end must not put it off for ever.
SECONDS_ALLOWED = 60.0


def notify(command: str, facts: Mapping[str, str]) -> None:
    """Run a command, for a minute at most; if it fails, that is a line and nothing else.

    Parameters
    ----------
    command : str
        For the shell.
    facts : mapping of str to str
        Environment variables that it gets beside those of this process.
    """
    try:
        # The user's own command, as typed at the same prompt as the verb.
        code = subprocess.run(  # noqa: S602
            command,
            shell=True,
            env={**os.environ, **facts},
            stdin=subprocess.DEVNULL,
            timeout=SECONDS_ALLOWED,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        say(f"--notify: {command!r} was ended after {SECONDS_ALLOWED:.0f} s")
    except OSError as error:
        say(f"--notify: {command!r} could not be run: {error}")
    else:
        if code:
            say(f"--notify: {command!r} ended with exit code {code}")
