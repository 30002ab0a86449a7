"""How long does the explorer's page take of a catalog of ten million rows?

    python benchmarks/explore.py [--rows 10000000] [--rounds 5] [--json FILE]
    python benchmarks/explore.py --catalog CATALOG

The page's own requests, to its own server in this process: the first page is asked for as soon as the server
stands, then what other filters, orders and planes ask. The table has the medians of the rounds with the
smallest and the largest, and the median CPU seconds of the process; each round begins anew. Without --catalog
one is made up in a temporary folder, of parts of 4,096 rows with 32 features each and without images.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pyarrow as pa

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline.exploring.catalog_view import CatalogView
from pipeline.exploring.explorer import Explorer
from pipeline.exploring.images import find_images
from pipeline.exploring.labels import Labels
from pipeline.exploring.server import Server
from pipeline.lease import Lease

PART_ROWS = 4096
FEATURES = 32
FILTER = {"classes": ["CSS"], "high": 0.8, "where": "ra BETWEEN 150 AND 200"}
PLANES = (("ra", "dec"), ("confidence", "ood_score"))


def questions(get: Callable[..., Any]) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""

    def rows(**asked: Any) -> Any:
        return get("api/rows", asked=json.dumps(asked), start=0, count=60)

    def most_like(**asked: Any) -> Any:
        # A galaxy that was shown: that page is there already.
        shown = json.loads(get("api/rows", asked="{}", start=0, count=1))["rows"][0]
        return rows(order="similar", like={"part": shown["part"], "id": shown["id"]}, **asked)

    def first_page() -> Any:
        get("")
        for name in ("page.css", "explore.css", "explore.js", "explore_planes.js", "api/facts"):
            get(name)
        return rows()

    return {
        "first page, least confident first": first_page,
        "the same page again": first_page,
        "its counts by class": lambda: get("api/counts", asked="{}"),
        "filter: class, confidence, SQL": lambda: rows(**FILTER),
        "its counts by class, filtered": lambda: get("api/counts", asked=json.dumps(FILTER)),
        "order: most unlike first": lambda: rows(order="unlike"),
        "order: disagreement": lambda: rows(order="disagreement"),
        "order: at random": lambda: rows(order="random"),
        "order: as in the catalog": lambda: rows(order="catalog"),
        "order: most like a galaxy": most_like,
        "the same of one class": lambda: most_like(classes=["CSS"]),
        **{
            f"plane: {x}, {y}": lambda x=x, y=y: get("api/plane", asked="{}", x=x, y=y)  # type: ignore[misc]
            for x, y in PLANES
        },
    }


def timed(question: Callable[[], Any]) -> tuple[float, float]:
    """Seconds and CPU seconds of a question."""
    wall, cpu = time.perf_counter(), time.process_time()
    question()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(catalog: str, rounds: int, labels: str) -> pd.DataFrame:
    """All questions in turn, so many times."""
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        opened: list[CatalogView] = []
        opening = timed(lambda: opened.append(CatalogView(catalog)))  # noqa: B023
        times.setdefault("opening, before the first page", []).append(opening)
        with serving(catalog, opened[0], labels) as get:
            for name, question in questions(get).items():
                times.setdefault(name, []).append(timed(question))
    return pd.DataFrame(
        {
            "question": name,
            "median s": statistics.median(wall for wall, _ in found),
            "smallest": min(wall for wall, _ in found),
            "largest": max(wall for wall, _ in found),
            "CPU s": statistics.median(cpu for _, cpu in found),
        }
        for name, found in times.items()
    ).round(2)


def with_features(rows: pa.Table, part: int) -> pa.Table:
    """So many random numbers a galaxy as `hiwl classify --features` keeps."""
    values = np.random.default_rng(part).normal(size=len(rows) * FEATURES).astype(np.float32)
    return rows.append_column("features", pa.FixedSizeListArray.from_arrays(pa.array(values), FEATURES))


@contextmanager
def serving(catalog: str, view: CatalogView, labels: str) -> Iterator[Callable[..., Any]]:
    """What asks a server in a thread of this process."""
    loop = asyncio.new_event_loop()
    runner = threading.Thread(target=loop.run_forever)
    with Lease(labels, "benchmark", keep=False) as lease:
        images = find_images(catalog, view.published)
        explorer = Explorer(catalog, view, images, Labels(labels, list(view.classes)), "nobody", lease)
        server = Server(explorer)
        runner.start()
        address = asyncio.run_coroutine_threadsafe(server.start(), loop).result()

        def get(path: str, **query: Any) -> Any:
            with urllib.request.urlopen(f"{address}{path}?{urlencode(query)}") as answer:
                return answer.read()

        try:
            yield get
        finally:
            asyncio.run_coroutine_threadsafe(server.close(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            runner.join()


def main() -> None:
    """Make or take a catalog, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--catalog", help="a catalog to ask instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        catalog = options.catalog
        if catalog is None:
            from tests.catalogs import write_catalog

            catalog = f"{scratch}/catalog"
            for index in range(-(-options.rows // (100 * PART_ROWS))):
                # A hundred parts at a time, or all rows would be in memory at once.
                write_catalog(Path(catalog, str(index)), 100, PART_ROWS, seed=index, change=with_features)
                for part in Path(catalog, str(index)).iterdir():
                    part.rename(Path(catalog, f"{index:05d}-{part.name}"))
                Path(catalog, str(index)).rmdir()
        table = measure(catalog, options.rounds, f"{scratch}/labels")
    print(table.to_string(index=False))
    if options.json:
        options.json.write_text(json.dumps(table.to_dict("records"), indent=2) + "\n")


if __name__ == "__main__":
    main()
