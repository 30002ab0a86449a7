"""Corrected class fractions of a catalog, whole or by groups: the data of `hiwl_core.fractions`."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import pandas as pd

from hiwl_core.errors import UserError
from hiwl_core.fractions import SaidOfGalaxies, class_fractions
from hiwl_core.taxonomy import probability_column
from pipeline.catalog.model_facts import ModelFacts, read_model_facts
from pipeline.in_notebooks import InNotebooks
from pipeline.querying.groups import ALL, Grouping, choose_groups, parse_by
from pipeline.querying.query import ask, errors_in_words, open_catalog
from pipeline.querying.validated_columns import quoted, validated_columns

__all__ = ["Fractions", "fractions"]

# Whose probabilities are held in memory: 40 bytes each with five classes. More say nothing new, as the
# uncertainty is validation's by far.
MOST_GALAXIES = 1_000_000
LABEL = "label_map"


@dataclass(frozen=True)
class Fractions(InNotebooks):
    """Class fractions of a catalog.

    Parameters
    ----------
    table : pandas.DataFrame
        See `hiwl_core.fractions.class_fractions`; `group` is the name of the group.
    groups : pandas.DataFrame
        A row a group: `group`, `rows`, and of bins `low`, `mean` and `high` of the column.
    by : str or None
        The column that the groups are of.
    model_id : str
    unclassified : int
        Rows that were asked for and have another status than ok.
    ungrouped : int
        Classified rows without a value of the column, in no group.
    """

    in_notebooks = ("by", "model_id", "unclassified", "ungrouped", "table")

    table: pd.DataFrame
    groups: pd.DataFrame
    by: str | None
    model_id: str
    unclassified: int
    ungrouped: int

    @property
    def binned(self) -> bool:
        """Whether the groups are bins of a number."""
        return "mean" in self.groups

    def with_bins(self) -> pd.DataFrame:
        """The table, with the ends and the mean of each bin: ``z_low``, ``z_mean``, ``z_high``."""
        if not self.binned:
            return self.table
        bins = self.groups[["group", "low", "mean", "high"]]
        named = bins.rename(columns={name: f"{self.by}_{name}" for name in ("low", "mean", "high")})
        wide = self.table.merge(named, on="group", how="left", validate="many_to_one")
        return wide[[*named.columns, *self.table.columns[1:]]]


def fractions(
    catalog: str,
    by: str | None = None,
    where: str | None = None,
    model: str | None = None,
    seed: int = 0,
    most_galaxies: int = MOST_GALAXIES,
) -> Fractions:
    """Class fractions of a catalog, corrected for misclassification.

    Parameters
    ----------
    catalog : str
        Published or not, local or a URL.
    by : str, optional
        A column whose values are the groups, or ``COLUMN,BINS``: so many bins of equal counts of a number.
    where : str, optional
        Condition in SQL on the catalog's columns.
    model : str, optional
        Where the facts of the model are, if not in the catalog; see `read_model_facts`.
    seed : int
    most_galaxies : int
        Galaxies whose probabilities are used at most, the same share of each group's if there are more of it.

    Raises
    ------
    UserError
        For a column that is not there or cannot be grouped, a wrong condition, a catalog without
        `label_map`, or one whose model is not known or another one.
    """
    connection = open_catalog(catalog)
    facts = read_model_facts(catalog, model)
    columns = dict(zip(*_described(connection), strict=True))
    _check_columns(catalog, facts, columns)
    asked = f"({where}\n)" if where else "true"
    models = ask(connection, f"SELECT DISTINCT model_id AS id FROM catalog WHERE {asked}").table()["id"]
    facts.check_model(catalog, [name for name in models.to_pylist() if name is not None])
    condition = f"status = 'ok' AND {asked}"
    grouping = (
        ALL if by is None else choose_groups(connection, catalog, columns, parse_by(by, columns), condition)
    )
    # The groups as numbers: what follows asks for nothing else of the column.
    validated_label = validated_columns(facts).get(LABEL, LABEL)
    with errors_in_words():
        connection.execute(
            f"CREATE VIEW _grouped AS SELECT {grouping.index} AS _group, {grouping.value} AS _value, "
            f"{validated_label} AS _label, * FROM catalog WHERE {LABEL} IS NOT NULL AND {condition}"
        )
    counts, validated = (_counts(connection, facts, name, grouping) for name in (LABEL, "_label"))
    groups = _groups(connection, grouping, counts)
    galaxies = _galaxies(connection, facts, counts, seed, most_galaxies)
    table = class_fractions(counts, facts.confusion, galaxies, facts.prior, seed, validated)
    table["group"] = [grouping.names[index] for index in table["group"]]
    asked_for = _number(connection, f"SELECT count(*) AS n FROM catalog WHERE {asked}")
    classified = _number(connection, "SELECT count(*) AS n FROM _grouped")
    return Fractions(
        table=table,
        groups=groups,
        by=grouping.column,
        model_id=facts.model_id,
        unclassified=asked_for - classified,
        ungrouped=classified - int(counts.to_numpy().sum()),
    )


def _described(connection: duckdb.DuckDBPyConnection) -> tuple[list[str], list[str]]:
    relation = connection.sql("SELECT * FROM catalog LIMIT 0")
    return relation.columns, [str(kind) for kind in relation.types]


def _check_columns(catalog: str, facts: ModelFacts, columns: dict[str, str]) -> None:
    if LABEL not in columns:
        raise UserError(f"no column {LABEL!r} in {catalog}: an older HIWL made it, classify its shards anew")
    wanted = [probability_column(name) for name in facts.classes]
    missing = [name for name in (*wanted, "status") if name not in columns]
    if missing:
        raise UserError(
            f"no column {missing[0]!r} in {catalog}, which {facts.path} tells of: is that of another model?"
        )


def _counts(
    connection: duckdb.DuckDBPyConnection, facts: ModelFacts, label: str, grouping: Grouping
) -> pd.DataFrame:
    """Galaxies by group and label, with zeros where there are none."""
    found = ask(
        connection,
        f"SELECT _group, {label} AS label, count(*) AS n FROM _grouped WHERE _group IS NOT NULL GROUP BY ALL",
    ).table()
    counts = pd.DataFrame(0, index=range(len(grouping.names)), columns=list(facts.classes))
    for row in found.to_pylist():
        if row["label"] not in counts.columns:
            raise UserError(
                f"{LABEL} has {row['label']!r}, no class of {facts.path}: {', '.join(facts.classes)}"
            )
        counts.loc[row["_group"], row["label"]] = row["n"]
    return counts


def _groups(connection: duckdb.DuckDBPyConnection, grouping: Grouping, counts: pd.DataFrame) -> pd.DataFrame:
    table = pd.DataFrame({"group": grouping.names, "rows": counts.sum(axis=1).to_numpy()})
    if grouping.binned:
        found = ask(
            connection,
            "SELECT _group, min(_value) AS low, avg(_value) AS mean, max(_value) AS high FROM _grouped "
            "WHERE _group IS NOT NULL GROUP BY _group",
        ).table()
        bins = found.to_pandas().set_index("_group").reindex(counts.index)
        table = pd.concat([table, bins.reset_index(drop=True)], axis=1)
    return table


def _galaxies(
    connection: duckdb.DuckDBPyConnection, facts: ModelFacts, counts: pd.DataFrame, seed: int, most: int
) -> dict[object, SaidOfGalaxies]:
    """Labels and probabilities by group, of all galaxies or, where they are many, of a random part."""
    room = max(1, most // max(1, len(counts)))
    totals = counts.sum(axis=1)
    parts = " ".join(
        f"WHEN {index} THEN {int(min(1.0, room / max(1, total)) * 0xFFFFFFFF)}"
        for index, total in totals.items()
    )
    # A hash of the id is the same draw however the rows are cut into parts.
    chosen = ""
    if (totals > room).any():
        digest = f"CAST('0x' || left(md5(concat(object_id, ':', {int(seed)})), 8) AS BIGINT)"
        chosen = f" AND {digest} <= CASE _group {parts} END"
    names = ", ".join(quoted(probability_column(name)) for name in facts.classes)
    rows = ask(
        connection, f"SELECT _group, _label, {names} FROM _grouped WHERE _group IS NOT NULL{chosen}"
    ).table()
    groups = rows["_group"].to_numpy()
    place = {name: index for index, name in enumerate(facts.classes)}
    labels = np.array([place[name] for name in rows["_label"].to_pylist()], dtype=np.int8)
    probabilities = np.stack([column.to_numpy().astype(np.float32) for column in rows.columns[2:]], axis=1)
    return {
        group: SaidOfGalaxies(labels[groups == group], probabilities[groups == group])
        for group in np.unique(groups).tolist()
    }


def _number(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(ask(connection, sql).table()["n"][0].as_py())
