"""The figure of docs/performance.md, from the measurements beside it.

    python benchmarks/plot_performance.py docs/performance

Reads ``classify-*.json`` and ``peers-*.json`` of the folder, written by `benchmarks/classify.py` and
`benchmarks/peers.py`, and writes ``performance.png`` and ``performance.svg`` into it.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OURS, ALONE, THEIRS = "#2a6f97", "#a9c8dc", "#b8b8b8"
WORK = {"network": "#2a6f97", "decoding": "#e09f3e", "all else": "#9e2a2b"}
PEERS = {
    "dataloader": "DataLoader loop",
    "ray-data": "naive Ray Data",
    "ray-data-tuned": "Ray Data, tuned",
    "zoobot": "Zoobot",
}


def main() -> None:
    """Read the measurements, draw the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    classify = [json.loads(path.read_text()) for path in sorted(folder.glob("classify-*.json"))]
    peers = {
        (found["backbone"], found["input_size"]): found
        for found in (json.loads(path.read_text()) for path in sorted(folder.glob("peers-*.json")))
    }
    figure, axes = plt.subplots(
        2, len(classify), figsize=(5.6 * len(classify), 5.6), height_ratios=[3, 1], squeeze=False
    )
    for column, figures in enumerate(classify):
        rates(axes[0][column], figures, peers.get((figures["backbone"], figures["size"])))
        work(axes[1][column], figures)
    handles = [plt.Rectangle((0, 0), 1, 1, color=color) for color in WORK.values()]
    figure.legend(handles, WORK, loc="lower center", ncols=len(WORK), frameon=False)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    for kind in ("png", "svg"):
        figure.savefig(folder / f"performance.{kind}", dpi=150)


def rates(axes: Axes, figures: dict[str, Any], peers: dict[str, Any] | None) -> None:
    """Images/s of the engine, of the command, and of the peers."""
    bars = [
        ("engine alone", figures["engine"], ALONE),
        ("hiwl classify", figures["classify"], OURS),
        ("with stage 2 on 16 %", figures["classify_cascade"], OURS),
    ]
    for subject, name in PEERS.items() if peers else ():
        found = [run["rate"] for run in peers["runs"] if run["subject"] == subject] if peers else []
        if found:
            middle = {"median": statistics.median(found), "low": min(found), "high": max(found)}
            bars.append((name, middle, THEIRS))
    for row, (_, spread, color) in enumerate(bars):
        value = spread["median"]
        axes.barh(row, value, color=color)
        axes.plot([spread["low"], spread["high"]], [row, row], color="#333333", linewidth=1.2)
        axes.annotate(
            f"{value:.0f}", (max(value, spread["high"]), row), (5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.set_xlim(right=1.12 * max(spread["high"] for _, spread, _ in bars))
    axes.set_xlabel("images/s on two cores (median, range)")
    axes.set_title(f"{figures['backbone']} at {figures['size']} px", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)


def work(axes: Axes, figures: dict[str, Any]) -> None:
    """Core-milliseconds that an image takes, by what they are spent on."""
    threads = figures["rounds"][0]["ceilings"][0]["threads"]
    network, decoding, all_of_it = (
        1000 * threads / figures[name]["median"] for name in ("engine", "decoder", "classify")
    )
    left = 0.0
    for value, color in zip(
        (network, decoding, max(0.0, all_of_it - network - decoding)), WORK.values(), strict=True
    ):
        axes.barh(0, value, left=left, color=color)
        left += value
    axes.set_yticks([])
    axes.set_xlabel("core-milliseconds an image, stage 1")
    axes.spines[["top", "right", "left"]].set_visible(False)


if __name__ == "__main__":
    main()
