"""How long does a question to a catalog of a million rows take, as parts and published?

    python benchmarks/query.py [--rows 1000000] [--rounds 7] [--json FILE]
    python benchmarks/query.py --catalog s3://bucket/catalog --published s3://bucket/published

Each round opens the catalog anew and asks for the counts by class and for a cone of half a degree. The table
has the medians of the rounds with the smallest and the largest; `command` is the verb as a process, with its
start. Without --catalog one is made up in a temporary folder and published.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

# Run as a file, it does not find the project's own packages by itself.
sys.path.insert(0, str(Path(__file__).parents[1]))
from pipeline.querying.cone import Cone
from pipeline.querying.query import query

SQL = "SELECT label, count(*) AS n, avg(confidence) AS confidence FROM catalog GROUP BY label"
CONE = Cone(184.95, 30.5, 0.5)
PART_ROWS = 4096


def make_catalog(folder: Path, rows: int) -> tuple[str, str]:
    """A catalog of parts of 4,096 rows, and its published form."""
    from pipeline.publication.publish import publish
    from tests.catalogs import write_catalog

    write_catalog(folder / "catalog", -(-rows // PART_ROWS), PART_ROWS)
    publish(str(folder / "catalog"), str(folder / "published"), max_rows=100_000)
    return str(folder / "catalog"), str(folder / "published")


def seconds_to_ask(catalog: str, question: str) -> tuple[float, int]:
    """Time from the path to all rows of the answer, and their number."""
    started = time.perf_counter()
    answer = query(catalog, SQL) if question == "class counts" else query(catalog, cone=CONE)
    rows = answer.table().num_rows
    return time.perf_counter() - started, rows


def seconds_of_command(catalog: str, question: str) -> float:
    """Time of ``hiwl query`` in a process of its own."""
    asked = [SQL] if question == "class counts" else ["--cone", f"{CONE.ra},{CONE.dec},{CONE.radius}"]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jobs.query", catalog, *asked], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Time all questions in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--catalog", help="a catalog to ask instead, a path or URL")
    parser.add_argument("--published", help="and its published form")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if options.catalog or options.published:
            places = {"parts": options.catalog, "published": options.published}
        else:
            places = dict(zip(("parts", "published"), make_catalog(Path(scratch), options.rows), strict=True))
        cases = [
            (form, place, question)
            for form, place in places.items()
            if place
            for question in ("class counts", "cone")
        ]
        times: dict[tuple[str, str], list[float]] = {}
        commands: dict[tuple[str, str], list[float]] = {}
        counts = {}
        for _ in range(options.rounds):
            for form, place, question in cases:
                seconds, counts[form, question] = seconds_to_ask(place, question)
                times.setdefault((form, question), []).append(seconds)
                commands.setdefault((form, question), []).append(seconds_of_command(place, question))
        total = {
            form: query(place, "SELECT count(*) AS n FROM catalog").table()["n"][0].as_py()
            for form, place, _ in cases
        }
    table = pd.DataFrame(
        {
            "catalog": form,
            "rows": total[form],
            "question": question,
            "answer": counts[form, question],
            "median s": statistics.median(seconds),
            "smallest": min(seconds),
            "largest": max(seconds),
            "command s": statistics.median(commands[form, question]),
        }
        for (form, question), seconds in times.items()
    ).round(3)
    print(table.to_string(index=False))
    if options.json:
        options.json.write_text(json.dumps(table.to_dict("records"), indent=2) + "\n")


if __name__ == "__main__":
    main()
