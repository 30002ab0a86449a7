"""The commands and options that the pages on clusters name are there."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import click
import pytest
from ray.scripts.scripts import cli as ray_cli

from jobs.cli import VERBS
from jobs.cli import main as hiwl_cli

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/cluster.md", "docs/deploy.md", "docs/labelling.md", "docs/lsst.md")
TEXTS = ("docs/cluster.md", "docs/gpu.md")
# Words of a command line that end it.
ENDS = {"|", "&&", ";", ">", "&"}


def options(command: click.Command) -> set[str]:
    """All spellings of a command's options, and of those below it."""
    if isinstance(command, click.Group):
        return set().union(*(options(below) for below in command.commands.values()))
    own = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    return {name for name in own if name.startswith("-")} | {"--help", "--version"}


def verb(name: str) -> click.Command:
    command: click.Command = importlib.import_module(f"jobs.{name}").main
    return command


def code_lines(page: str) -> list[str]:
    """Command lines of a page's code blocks, without comments and with continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


def words_of(line: str, program: str) -> list[str]:
    """What follows a program's name in a command line; nothing if the line does not call it."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a line of something that is no shell command
        return []
    if program not in words:
        return []
    after = words[words.index(program) + 1 :]
    return after[: next((place for place, word in enumerate(after) if word in ENDS), len(after))]


def check_hiwl(words: list[str], line: str) -> None:
    assert words[0] in VERBS, line
    own, inner = split(words)
    command = verb(own[0])
    if isinstance(command, click.Group):
        command = command.commands[own[1]]
    known = options(command)
    assert {word.partition("=")[0] for word in own[1:] if word.startswith("--")} <= known, line
    if inner:
        check_hiwl(inner, line)


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """A verb's own words, and those of the verb after ``--``."""
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def check_ray(words: list[str], line: str) -> None:
    command: click.Command = ray_cli
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    assert not isinstance(command, click.Group), line
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options(command), line


@pytest.mark.parametrize("page", PAGES)
def test_each_command_line_is_one_of_the_program(page: str) -> None:
    checked = 0
    for line in code_lines(page):
        for program, check in (("hiwl", check_hiwl), ("ray", check_ray)):
            if words := words_of(line, program):
                if program == "hiwl" and words[0] in ("VERB", "--help"):
                    continue
                check(words, line)
                checked += 1
    assert checked >= 3


@pytest.mark.parametrize("page", TEXTS)
def test_each_option_in_the_text_is_some_verb_s(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    known = set().union(*(options(verb(name)) for name in VERBS), options(ray_cli.commands["start"]))
    known |= {name for parameter in hiwl_cli.params for name in parameter.opts}
    spans = [span for span in re.findall(r"`([^`\n]+)`", text) if span.startswith(("--", "hiwl ", "ray "))]
    named = {option for span in spans for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", span)}
    assert named
    assert named <= known, named - known


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md", "docs/deploy.md", "docs/gpu.md"])
def test_nothing_is_read_from_a_folder_that_no_node_mounts(page: str) -> None:
    assert "/shared" not in (ROOT / page).read_text()
