"""The templates that all pages are made of.

Everything that comes into a template is escaped: ids and class names are what a survey made of them.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.pages.embedded_files import data_uri
from pipeline.pages.numbers import degrees, file_size

__all__ = ["maker_comment", "render"]

FOLDER = Path(__file__).parent / "templates"


def maker_comment(verb: str) -> str:
    """What stands in the head of a page: what may be overwritten by another one of the same verb."""
    return f"<!-- made by hiwl {verb} -->"


def render(template: str, verb: str, title: str, **contents: Any) -> str:
    """A page as HTML.

    Parameters
    ----------
    template : str
        Name of a file in ``templates``.
    verb : str
        Which verb makes the page; see `maker_comment`.
    title : str
    **contents
        What the template shows.
    """
    page = _environment().get_template(template)
    # The name of a verb, and nobody's data: all else is escaped.
    maker = Markup(maker_comment(verb))  # noqa: S704
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
