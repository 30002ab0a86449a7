"""The scores as one page to look at: confusion matrix, figures with intervals, the most confident mistakes.

The page is a single HTML file with its pictures inside: it can be mailed, or put beside a paper.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["Mistake", "render_page"]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430 }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem } p.note { color: #5b6675 }
table { border-collapse: collapse } td, th { padding: .35rem .7rem; text-align: right }
th { font-weight: 600 } table.matrix td { min-width: 3.4rem; text-align: center; border: 1px solid #fff }
td small { color: #5b6675; font-size: .75rem; display: block }
tr.total td, tr.total th { border-top: 1px solid #9aa5b1 }
.mistakes { display: flex; flex-wrap: wrap; gap: .8rem } figure { margin: 0; width: 8.5rem }
figure img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 4px; background: #000 }
figcaption { font-size: .78rem; line-height: 1.3 }
@media (max-width: 34rem) {
  body { font-size: 13px; padding: 0 .6rem } td, th { padding: .25rem .28rem }
  table.matrix td { min-width: 0 } td small { font-size: .68rem } figure { width: 46% }
}
"""


@dataclass(frozen=True)
class Mistake:
    """A galaxy that the cascade is sure of, and wrong.

    Parameters
    ----------
    object_id, truth, label : str
    confidence : float
    image : bytes
        The encoded cutout.
    """

    object_id: str
    truth: str
    label: str
    confidence: float
    image: bytes


def render_page(
    title: str,
    facts: Sequence[str],
    confusion: pd.DataFrame,
    metrics: pd.DataFrame,
    mistakes: Sequence[Mistake],
) -> str:
    """The page as HTML.

    Parameters
    ----------
    title : str
    facts : sequence of str
        Lines under the title: which model, which data, what was left out.
    confusion : pandas.DataFrame
        True classes by row, predicted by column.
    metrics : pandas.DataFrame
        See `hiwl_core.metrics.class_table`.
    mistakes : sequence of Mistake
    """
    pictures = "".join(map(_figure, mistakes)) or "<p>None.</p>"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>"
        f"<style>{STYLE}</style><h1>{escape(title)}</h1>"
        + "".join(f'<p class="note">{escape(fact)}</p>' for fact in facts)
        + "<h2>Confusion matrix</h2><p class='note'>True classes by row, predicted by column; the color is "
        + f"the share of the row.</p>{_matrix(confusion)}"
        + f"<h2>Figures, with 95 % intervals</h2>{_metrics(metrics)}"
        + f"<h2>The most confident mistakes</h2><div class='mistakes'>{pictures}</div></html>\n"
    )


def _matrix(confusion: pd.DataFrame) -> str:
    counts = confusion.to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        "<tr><th></th>" + "".join(f"<th>{escape(str(name))}</th>" for name in confusion.columns) + "</tr>"
    ]
    for name, row, share in zip(confusion.index, counts, shares, strict=True):
        cells = "".join(
            # Right ones in blue, wrong ones in red; dark cells have light letters.
            f"<td style='background: hsl({212 if i == list(confusion.columns).index(name) else 8} 75% "
            f"{97 - 55 * s:.0f}%); color: {'#fff' if s > 0.6 else 'inherit'}'>{count:,}</td>"
            for i, (count, s) in enumerate(zip(row, share, strict=True))
        )
        rows.append(f"<tr><th>{escape(str(name))}</th>{cells}</tr>")
    return f"<table class='matrix'>{''.join(rows)}</table>"


def _metrics(metrics: pd.DataFrame) -> str:
    names = [name for name in ("precision", "recall", "f1", "accuracy") if name in set(metrics["metric"])]
    rows = ["<tr><th></th>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"]
    for class_name, figures in metrics.groupby("class", sort=False):
        by_metric: dict[Any, Any] = figures.set_index("metric")[["value", "low", "high"]].to_dict("index")
        cells = ""
        for name in names:
            figure = by_metric.get(name)
            if figure is None or np.isnan(figure["value"]):
                cells += "<td></td>"
            else:
                interval = f"{figure['low']:.4f} to {figure['high']:.4f}"
                cells += f"<td>{figure['value']:.4f}<small>{interval}</small></td>"
        total = " class='total'" if class_name in ("average", "all") else ""
        rows.append(f"<tr{total}><th>{escape(str(class_name))}</th>{cells}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _figure(mistake: Mistake) -> str:
    kind = "png" if mistake.image.startswith(b"\x89PNG") else "jpeg"
    picture = base64.b64encode(mistake.image).decode()
    said = f"<b>{escape(mistake.label)}</b> at {mistake.confidence:.2f}"
    return (
        f"<figure><img alt='' src='data:image/{kind};base64,{picture}'>"
        f"<figcaption>{escape(mistake.object_id)}<br>{said}, people say <b>{escape(mistake.truth)}</b>"
        "</figcaption></figure>"
    )
