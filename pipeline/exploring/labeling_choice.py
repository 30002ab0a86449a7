"""Which galaxies are worth a label: a third uncertain ones, a third diverse ones, a third at random.

The uncertain teach the model what it does not know, but they are alike, and the model's worst; the diverse
cover all that it says of galaxies; those at random are the control, of which alone an accuracy can be told.
They come in an order that does not tell which is which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.catalog.class_names import classes_in
from pipeline.exploring.labels import ENDINGS, export_bytes
from pipeline.ingestion.text_tables import read_text_table
from pipeline.querying.cone import Cone
from pipeline.querying.files import PART_COLUMN, find_catalog, scan
from pipeline.querying.query import ROWS, ask, open_catalog
from pipeline.querying.validated_columns import quoted
from pipeline.shards.parquet_rows import whole_parquet

__all__ = ["REASONS", "choose_for_labeling", "read_choice", "spread"]

REASONS = ("random", "uncertain", "diverse")
# Of which the diverse are taken.
POOL = 20_000
# Standard deviations of the score of unlikeness that count for as much as a change of all probability.
SCORES_IN_ONE = 4.0


def choose_for_labeling(
    catalog: str, out: str, count: int, where: str | None = None, cone: Cone | None = None, seed: int = 0
) -> dict[str, int]:
    """Write a table of galaxies to label, for ``hiwl explore --only``.

    Parameters
    ----------
    catalog : str
    out : str
        ``object_id``, ``part`` and ``why``, as CSV or Parquet, by the ending; not taken yet.
    count : int
        Galaxies.
    where : str, optional
        Condition in SQL on the catalog's columns.
    cone : Cone, optional
    seed : int

    Returns
    -------
    dict of int
        Galaxies by reason.

    Raises
    ------
    UserError
        For a wrong condition, a file in the way, or a catalog without probabilities.
    """
    if not out.lower().endswith(ENDINGS):
        raise UserError(f"{out}: a list of galaxies to label ends with {' or '.join(ENDINGS)}")
    if storage.exists(out):
        raise UserError(f"{out} is there already: choose another file, or remove it")
    columns: dict[str, pa.Field] = {}
    for dataset in scan(find_catalog(catalog)):
        columns = {**{field.name: field for field in dataset.schema}, **columns}
    classes = classes_in(pa.schema(list(columns.values())))
    if not classes:
        raise UserError(f"{catalog} has no probabilities of classes: give a catalog of `hiwl classify`")
    connection = open_catalog(catalog, cone)
    conditions = [
        "status = 'ok'",
        "object_id IS NOT NULL",
        where and f"({where}\n)",
        cone and cone.condition(),
    ]
    rows = f"FROM {ROWS} WHERE {' AND '.join(one for one in conditions if one)}"
    # A hash of the id is the same draw however the rows are cut into parts.
    drawn = f"md5(concat(object_id, ':', {int(seed)}))"
    score = "ood_score" if "ood_score" in columns else "NULL"
    wanted = f"object_id, {PART_COLUMN}, {', '.join(map(quoted, classes.values()))}, {score} AS score"
    pool = ask(connection, f"SELECT {wanted} {rows} ORDER BY {drawn}, object_id LIMIT {POOL + count}").table()
    if not pool.num_rows:
        raise UserError(f"no classified galaxy of {catalog} is asked for: widen --where or --cone")
    least = ask(
        connection,
        f"SELECT object_id, {PART_COLUMN} {rows} ORDER BY confidence NULLS LAST, object_id LIMIT {2 * count}",
    ).table()
    connection.close()
    reasons = _chosen(pool, least, count, list(classes.values()), seed)
    # Another hash than the draw's, or those at random would come first.
    ordered = sorted(reasons, key=lambda key: hashlib.sha256(f"{key[0]}:{seed}".encode()).digest())
    table = pa.table(
        {
            "object_id": [str(one) for one, _ in ordered],
            "part": [part for _, part in ordered],
            "why": [reasons[key] for key in ordered],
        }
    )
    storage.write_bytes(out, export_bytes(table, out))
    found = table["why"].to_pylist()
    return {reason: found.count(reason) for reason in REASONS}


def spread(points: np.ndarray, count: int, random: np.random.Generator) -> list[int]:
    """Points far from each other: each is drawn by its squared distance to the nearest of those before it.

    Arthur & Vassilvitskii (2007), k-means++: where the farthest point would be an outlier each time, a draw
    covers the dense parts too.

    Parameters
    ----------
    points : numpy.ndarray of float, shape (N, D)
    count : int
    random : numpy.random.Generator

    Returns
    -------
    list of int
        `count` at most, and no two of one place.
    """
    if not len(points) or count < 1:
        return []
    chosen = [int(random.integers(len(points)))]
    distances = ((points - points[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < count and distances.sum() > 0:
        chosen.append(int(random.choice(len(points), p=distances / distances.sum())))
        distances = np.minimum(distances, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return chosen


def read_choice(path: str) -> pa.Table:
    """The table of `choose_for_labeling`, or any with a column ``object_id``.

    Returns
    -------
    pyarrow.Table
        ``object_id`` as text; ``part`` and ``why`` if it has them.

    Raises
    ------
    UserError
        If there is no such table, or it has no ids.
    """
    if path.lower().endswith(".parquet"):
        with whole_parquet(path) as parquet:
            table = parquet.read()
    else:
        table = read_text_table(path)
    if "object_id" not in table.column_names:
        raise UserError(f"no column 'object_id' in {path}: it has {', '.join(table.column_names)}")
    kept = [name for name in ("object_id", "part", "why") if name in table.column_names]
    return pa.table({name: pc.cast(table[name], pa.string()) for name in kept})


def _chosen(
    pool: pa.Table, least: pa.Table, count: int, columns: Sequence[str], seed: int
) -> dict[tuple[object, str], str]:
    """Why each is chosen; a third for each reason, and what one lacks from the next."""
    drawn = list(zip(pool["object_id"].to_pylist(), pool[PART_COLUMN].to_pylist(), strict=True))
    doubtful = zip(least["object_id"].to_pylist(), least[PART_COLUMN].to_pylist(), strict=True)
    third = -(-count // 3)
    reasons = dict.fromkeys(drawn[:third], "random")
    for key in doubtful:
        if len(reasons) < min(count, 2 * third):
            reasons.setdefault(key, "uncertain")
    rest = [index for index, key in enumerate(drawn) if key not in reasons]
    points = _points(pool, columns)[rest]
    for index in spread(points, count - len(reasons), np.random.default_rng(seed)):
        reasons.setdefault(drawn[rest[index]], "diverse")
    for index in rest:
        if len(reasons) < count:
            reasons.setdefault(drawn[index], "random")
    return reasons


def _points(pool: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """What the model says of each galaxy as a place: roots of probabilities, and how unlike it is."""
    values: Mapping[str, np.ndarray] = {
        name: pool[name].cast(pa.float64()).to_numpy() for name in (*columns, "score")
    }
    score = np.nan_to_num(values["score"])
    score = np.clip((score - score.mean()) / (score.std() or 1), -3, 3) / SCORES_IN_ONE
    roots = [np.sqrt(np.clip(np.nan_to_num(values[name]), 0, 1)) for name in columns]
    points: np.ndarray = np.stack([*roots, score], axis=1)
    return points
