"""Galaxies as cards on one page, for a laptop or a phone, by day or by night."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.pages.cards import Card
from pipeline.pages.templates import maker_comment, render

__all__ = ["MARKER", "Card", "render_gallery"]

VERB = "sample"
MARKER = maker_comment(VERB)
"""In the head of each page: what may be overwritten by another one."""


def render_gallery(title: str, facts: Sequence[str], cards: Sequence[Card]) -> str:
    """The page as HTML.

    Parameters
    ----------
    title : str
    facts : sequence of str
        Lines under the title: how many rows, and which.
    cards : sequence of Card
    """
    return render("gallery.html", VERB, title, facts=facts, cards=cards)
