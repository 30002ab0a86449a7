"""Catalogs in numbers, to compare: histograms of columns, counts of labels, flags and statuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import duckdb
import numpy as np

from hiwl_core.drift import Histogram, Tally
from hiwl_core.errors import UserError
from hiwl_core.flags import FLAGS
from hiwl_core.statuses import OK
from pipeline.catalog.model_facts import ModelFacts
from pipeline.querying.query import ask
from pipeline.querying.validated_columns import quoted

__all__ = ["reference_edges", "tally_catalog", "tally_facts"]

BINS = 20
# As they are called in a catalog; `label` where it was made before `label_map`.
LABELS = ("label_map", "label")
SCORE, CONFIDENCE = "ood_score", "confidence"


def tally_facts(facts: ModelFacts) -> Tally:
    """The validation galaxies that the facts of a model tell of; all of them were classified.

    Raises
    ------
    UserError
        If they are damaged.
    """
    kept = facts.reference
    try:
        rows = int(kept["rows"])
        columns = {
            str(name): Histogram(np.asarray(one["edges"], np.float64), np.asarray(one["counts"], np.int64))
            for name, one in kept["columns"].items()
        }
        if any(len(one.edges) != len(one.counts) + 1 for one in columns.values()):
            raise ValueError("a histogram needs one edge more than counts")
        labels = {str(name): int(count) for name, count in kept["labels"].items()}
        flags = {int(bit): int(count) for bit, count in kept.get("flags", {}).items() if bit != "rows"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{facts.path} is damaged ({error}): classify anew, or name --reference") from None
    return Tally(rows, columns, labels, flags, {OK: rows})


def reference_edges(connection: duckdb.DuckDBPyConnection) -> dict[str, np.ndarray]:
    """Edges of bins for a catalog's columns: even ones, and for the score with as many galaxies each.

    Returns
    -------
    dict of numpy.ndarray of float64, shape (B + 1,)
        For each probability of a class, `confidence` and `ood_score`, as far as the catalog has them.
    """
    edges = {}
    for name in _columns(connection):
        if name == CONFIDENCE or (name.startswith("p_") and not name.startswith("p_stage")):
            edges[name] = np.linspace(0, 1, BINS + 1)
    if SCORE in _columns(connection):
        shares = ", ".join(str(number / BINS) for number in range(BINS + 1))
        sql = f"SELECT quantile_cont({SCORE}::DOUBLE, [{shares}]) AS q FROM catalog WHERE isfinite({SCORE})"
        found = ask(connection, sql).table()["q"][0].as_py()
        if found:
            unique = np.unique(found)
            edges[SCORE] = (
                unique if len(unique) > 1 else np.array([unique[0], np.nextafter(unique[0], np.inf)])
            )
    return edges


def tally_catalog(
    connection: duckdb.DuckDBPyConnection,
    edges: Mapping[str, np.ndarray],
    where: str | None,
    instead: Mapping[str, str] = MappingProxyType({}),
) -> Tally:
    """Count a catalog, in memory that does not grow with it.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        See `pipeline.querying.query.open_catalog`.
    edges : mapping of numpy.ndarray of float, shape (B + 1,)
        By column; one that the catalog lacks is left out.
    where : str or None
        Condition in SQL; all rows by default.
    instead : mapping of str
        SQL for columns of which something else is counted; see
        `pipeline.querying.validated_columns.validated_columns`.

    Raises
    ------
    UserError
        For a wrong condition.
    """
    there = _columns(connection)
    replaced = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in instead.items() if name in there)
    asked = f"({where}\n)" if where else "true"
    rows = f"(SELECT *{f' REPLACE ({replaced})' if replaced else ''} FROM (FROM catalog WHERE {asked}))"
    label = next((name for name in LABELS if name in there), None)
    bits = "flags" if "flags" in there else "0"
    groups = ask(
        connection,
        f"SELECT status, {label or 'NULL'} AS label, {bits} AS flags, count(*) AS n FROM {rows} GROUP BY ALL",
    ).table()
    statuses: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    flagged: Counter[int] = Counter()
    for row in groups.to_pylist():
        statuses[str(row["status"])] += row["n"]
        if row["status"] != OK:
            continue
        if row["label"] is not None:
            labels[row["label"]] += row["n"]
        flagged.update({bit: row["n"] for bit in FLAGS if (row["flags"] or 0) & bit})
    names = [name for name in edges if name in there]
    counts = {name: np.zeros(len(edges[name]) - 1, dtype=np.int64) for name in names}
    if names:
        columns = ", ".join(map(quoted, names))
        answer = ask(connection, f"SELECT {columns} FROM {rows} WHERE status = '{OK}'")
        for batch in answer.batches():
            for name, column in zip(names, batch.columns, strict=True):
                values = column.to_numpy(zero_copy_only=False).astype(np.float64)
                # Half-open bins, as numpy.histogram has them, but the outer ones without an end.
                places = np.searchsorted(edges[name][1:-1], values[~np.isnan(values)], side="right")
                counts[name] += np.bincount(places, minlength=len(counts[name]))
    return Tally(
        rows=statuses[OK],
        columns={name: Histogram(np.asarray(edges[name]), counts[name]) for name in names},
        labels=dict(sorted(labels.items())),
        flags={bit: flagged[bit] for bit in FLAGS} if "flags" in there else {},
        statuses=dict(statuses),
    )


def _columns(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return list(connection.sql("SELECT * FROM catalog LIMIT 0").columns)
