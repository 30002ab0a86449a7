"""What Ray's servers tell each driver, in a line: Ray itself prints it whole, on standard output.

Of a node that is lost that is the end of its log, twenty lines of the state of a server.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from ray._private import worker

from pipeline.progress import say

__all__ = ["in_lines", "line_of"]

# Beside it comes who is lost, from the head.
LAST_WORDS = "Raylet is terminated."
LOST = re.compile(
    r"The node with node id: .* address: (?P<address>.*?) and node name: .*marked dead", re.DOTALL
)
LONGEST = 300


def line_of(message: str, alone: bool = False) -> str:
    """A message in a line; empty if it says nothing that another does not say.

    Parameters
    ----------
    message : str
    alone : bool
        Whether there is but one node, whose end is the work's: see `pipeline.ray_watch`.
    """
    message = message.strip()
    if not message or message.startswith(LAST_WORDS):
        return ""
    if lost := LOST.search(message):
        return "" if alone else f"Ray lost the node {lost['address']}: what it was at is done again elsewhere"
    return f"Ray: {message.splitlines()[0][:LONGEST]}"


def in_lines(alone: bool = False) -> None:
    """Have this process print the messages of Ray's servers as `line_of` has them, on standard error."""
    # Ray has no switch for them: those of `log_to_driver` and of its logger are for others.
    worker.print_to_stdstream = partial(_print, alone)


_print_as_ray_does = worker.print_to_stdstream


def _print(alone: bool, data: dict[str, Any], ignore_prefix: bool) -> None:
    if data.get("pid") != "raylet":
        # What the user's own workers print, where they want it.
        _print_as_ray_does(data, ignore_prefix)
        return
    for message in data["lines"]:
        if line := line_of(message, alone):
            say(line)
