"""Galaxies as cards on one page: the cutout, the label, and the probabilities as bars.

The page is a single HTML file with its pictures inside, for a laptop or a phone, by day or by night; it
loads nothing from anywhere.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["MARKER", "Card", "render_gallery"]

MARKER = "<!-- made by hiwl sample -->"
"""In the head of each page: what may be overwritten by another one."""

STYLE = """
:root { color-scheme: light dark; --text: #1c2430; --soft: #5b6675; --card: #f3f5f8; --track: #dde2e9;
  --bar: #8a97a8; --chosen: #1d6fd1; --page: #fff }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ee; --soft: #98a3b3; --card: #1a1f27;
  --track: #2c333e; --bar: #6d7a8b; --chosen: #5aa2f5; --page: #11151b } }
* { box-sizing: border-box }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--page);
  max-width: 84rem; margin: 1.5rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem; margin: 0 0 .3rem; overflow-wrap: anywhere }
p.note { color: var(--soft); margin: 0 0 .2rem; overflow-wrap: anywhere }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .8rem;
  margin-top: 1.2rem }
article { background: var(--card); border-radius: 8px; overflow: hidden; padding-bottom: .55rem }
article > img, .placeholder { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: #000 }
.placeholder { display: grid; place-content: center; text-align: center; padding: .8rem;
  background: var(--track); color: var(--soft); font-size: .8rem; overflow-wrap: anywhere }
h2 { font-size: 1rem; display: flex; justify-content: space-between; margin: .45rem .65rem .1rem }
h2 span { font-weight: 400; font-variant-numeric: tabular-nums }
article p { font-size: .74rem; color: var(--soft); margin: 0 .65rem; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums }
dl { display: grid; grid-template-columns: auto 1fr auto; align-items: center; gap: .08rem .45rem;
  margin: .4rem .65rem 0; font-size: .72rem; font-variant-numeric: tabular-nums }
dt, dd { margin: 0 } dd.share { text-align: right }
dd.track { background: var(--track); border-radius: 3px; height: .42rem; overflow: hidden }
dd.track i { display: block; height: 100%; background: var(--bar) }
.chosen { font-weight: 600 } dd.track.chosen i { background: var(--chosen) }
@media (max-width: 30rem) { body { padding: 0 .6rem; margin-top: .8rem }
  main { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem } }
@media print { article { break-inside: avoid } }
"""


@dataclass(frozen=True)
class Card:
    """A galaxy to show.

    Parameters
    ----------
    object_id : str
    label : str or None
    confidence : float or None
    probabilities : mapping of str to float or None
        By class, in the order to show.
    ra, dec : float or None
        Degrees.
    status : str
    image : bytes or None
        A JPEG; None for a placeholder.
    words : str
        What the placeholder says.
    """

    object_id: str
    label: str | None
    confidence: float | None
    probabilities: Mapping[str, float | None]
    ra: float | None
    dec: float | None
    status: str
    image: bytes | None
    words: str = ""


def render_gallery(title: str, facts: Sequence[str], cards: Sequence[Card]) -> str:
    """The page as HTML.

    Parameters
    ----------
    title : str
    facts : sequence of str
        Lines under the title: how many rows, and which.
    cards : sequence of Card
    """
    notes = "".join(f'<p class="note">{escape(fact)}</p>' for fact in facts)
    return (
        f'<!doctype html><html lang="en"><head>{MARKER}<meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{notes}<main>\n"
        + "\n".join(map(_article, cards))
        + "\n</main></body></html>\n"
    )


def _article(card: Card) -> str:
    name = f"{card.label or card.status} {card.object_id}"
    if card.image is not None:
        data = base64.b64encode(card.image).decode()
        picture = f'<img alt="{escape(name)}" src="data:image/jpeg;base64,{data}">'
    else:
        picture = f'<div class="placeholder">{escape(card.words)}</div>'
    sure = f"{card.confidence:.3f}" if card.confidence is not None else ""
    place = [_degrees(card.ra, 5), _degrees(card.dec, 5, sign=True)]
    position = f"<p>{place[0]} {place[1]}</p>" if all(place) else "<p>no position</p>"
    return (
        f"<article>{picture}<h2>{escape(card.label or card.status)} <span>{sure}</span></h2>"
        f"<p>{escape(card.object_id)}</p>{position}{_bars(card)}</article>"
    )


def _bars(card: Card) -> str:
    rows = []
    for name, value in card.probabilities.items():
        if value is None:
            continue
        chosen = " chosen" if card.label is not None and name == card.label.upper() else ""
        rows.append(
            f'<dt class="{chosen.strip()}">{escape(name)}</dt>'
            f'<dd class="track{chosen}"><i style="width:{100 * min(max(value, 0), 1):.1f}%"></i></dd>'
            f'<dd class="share{chosen}">{value:.3f}</dd>'
        )
    return f"<dl>{''.join(rows)}</dl>" if rows else ""


def _degrees(value: float | None, digits: int, sign: bool = False) -> str:
    """Degrees as text, with a true minus; empty if unknown."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:{'+' if sign else ''}.{digits}f}°".replace("-", "−")
