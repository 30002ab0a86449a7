"""The templates that all pages are made of.

Everything that comes into a template is escaped: ids and class names are what a survey made of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.pages.embedded_files import data_uri
from pipeline.pages.numbers import degrees, file_size

__all__ = ["check_own_page", "render"]

FOLDER = Path(__file__).parent / "templates"
HEAD_BYTES = 2048


def _maker_comment(verb: str) -> str:
    """What stands in the head of a page: it may be overwritten by another one of the same verb."""
    return f"<!-- made by hiwl {verb} -->"


def render(template: str, verb: str, title: str, **contents: Any) -> str:
    """A page as HTML.

    Parameters
    ----------
    template : str
        Name of a file in ``templates``.
    verb : str
        Which verb makes the page; another page of it may overwrite this one, see `check_own_page`.
    title : str
    **contents
        What the template shows.
    """
    page = _environment().get_template(template)
    # The name of a verb, and nobody's data: all else is escaped.
    maker = Markup(_maker_comment(verb))  # noqa: S704
    return page.render(maker=maker, title=title, **contents)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, degrees=degrees, file_size=file_size)
    return environment


def check_own_page(out: str, verb: str) -> None:
    """Refuse to write a page over a file that is not an earlier one of the same verb.

    Parameters
    ----------
    out : str
        The page's path or URL.
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
    if _maker_comment(verb).encode() not in head:
        raise UserError(f"{out} is there already and is not a page of hiwl {verb}: choose another file")
