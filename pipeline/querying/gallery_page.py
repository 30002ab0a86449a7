"""Galaxies as cards on one page, for a laptop or a phone, by day or by night."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.pages.cards import Card
from pipeline.pages.class_notes import ClassNote
from pipeline.pages.templates import maker_comment, render

__all__ = ["MARKER", "render_gallery"]

VERB = "sample"
MARKER = maker_comment(VERB)
"""In the head of each page: what may be overwritten by another one."""


def render_gallery(
    title: str, facts: Sequence[str], cards: Sequence[Card], classes: Sequence[ClassNote] = ()
) -> str:
    """The page as HTML.

    Parameters
    ----------
    title : str
    facts : sequence of str
        Lines under the title: how many rows, and which.
    cards : sequence of Card
    classes : sequence of ClassNote
        What the classes are; empty if the catalog does not say which it has.
    """
    return render("gallery.html", VERB, title, facts=facts, cards=cards, classes=classes)
