"""What each class is: a sentence, a picture, and how many galaxies of it there are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.pages.cards import Card

__all__ = ["ClassNote", "class_sentence"]

# Of Galaxy Zoo's classes, by name and the few words that bundles and catalogs have; others have their own.
SENTENCES = {
    ("CRS", "completely round smooth"): "Smooth and completely round: as wide as it is long, without arms "
    "or a bar.",
    ("IBS", "in-between smooth"): "Smooth, between round and cigar-shaped: a longish ellipse without arms "
    "or a bar.",
    ("CSS", "cigar-shaped smooth"): "Smooth and cigar-shaped: long and thin, without a disk's bulge or lane "
    "of dust. Easily taken for EO.",
    ("EO", "edge-on"): "A disk seen from its edge: a straight streak, often with a bulge in the middle, or a "
    "dark lane of dust along it.",
    ("SPI", "spiral"): "A disk with spiral arms, seen from above or at a slant.",
}


class ClassNote(NamedTuple):
    """A class for a page.

    Parameters
    ----------
    name, sentence : str
        The sentence may be empty.
    example : Card or None
        A galaxy of it.
    counts : mapping of int
        Numbers of galaxies, by what they are called.
    """

    name: str
    sentence: str
    example: Card | None
    counts: Mapping[str, int]


def class_sentence(name: str, words: str) -> str:
    """A sentence for a class.

    Parameters
    ----------
    name : str
    words : str
        What the taxonomy or the catalog says of it; may be empty.
    """
    if (name, words) in SENTENCES:
        return SENTENCES[name, words]
    sentence = words[:1].upper() + words[1:]
    return f"{sentence}." if sentence and sentence[-1] not in ".!?" else sentence
