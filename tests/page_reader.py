"""What a reader finds on a page of ours: tables, cards, pictures, and files to save."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

__all__ = ["Reader"]

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Reader(HTMLParser):
    """A page that was read to its end.

    Attributes
    ----------
    text : list of str
        All words, piece by piece.
    tables : list of list of list of str
        Cells of the rows of the tables.
    cards : dict of list of list of str
        Of each section the cards, as their pieces of text.
    files : dict of bytes
        Those that can be saved, by name.
    links : list of str
        Addresses elsewhere.
    images : list of (str, bytes)
        What is said of them, and their content.
    headings : list of int
        Their levels.
    tags : list of str
        All elements.
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.cards: dict[str, list[list[str]]] = {}
        self.files: dict[str, bytes] = {}
        self.links: list[str] = []
        self.images: list[tuple[str, bytes]] = []
        self.headings: list[int] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self._section = ""
        self._hidden = False
        self.feed(page)
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "section":
            self._section = attributes["aria-labelledby"]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "article":
            self.cards.setdefault(self._section, []).append([])
        if tag in ("h1", "h2", "h3"):
            self.headings.append(int(tag[1]))
        if tag == "img":
            assert attributes["alt"]
            self.images.append((attributes["alt"], _content(attributes["src"])))
        # For the eyes alone, such as the words of a scale bar, which the picture's say too.
        self._hidden = attributes.get("aria-hidden") == "true"
        if attributes.get("href", "").startswith("https:"):
            self.links.append(attributes["href"])
        elif "href" in attributes and not attributes["href"].startswith("#"):
            self.files[attributes["download"]] = _content(attributes["href"])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._hidden = False

    def handle_data(self, data: str) -> None:
        words = " ".join(data.split())
        if not words or "style" in self._open or self._hidden:
            return
        self.text.append(words)
        if "article" in self._open:
            self.cards[self._section][-1].append(words)
        if "td" in self._open or "th" in self._open:
            cell = self.tables[-1][-1][-1]
            self.tables[-1][-1][-1] = f"{cell} {words}".strip()

    def table(self, *header: str) -> list[list[str]]:
        """The rows of the first table whose header begins so."""
        return next(rows[1:] for rows in self.tables if tuple(rows[0][: len(header)]) == header)


def _content(uri: str) -> bytes:
    head, data = uri.split(",", 1)
    assert head.startswith("data:")
    assert head.endswith(";base64")
    return base64.b64decode(data)
