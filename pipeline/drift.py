"""A catalog against its model's validation galaxies or another catalog: the data of `hiwl_core.drift`."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pandas as pd

from hiwl_core.drift import DRIFTS, LIMIT, Tally, drift_table
from hiwl_core.errors import UserError
from hiwl_core.flags import FLAGS
from pipeline import storage
from pipeline.catalog.model_facts import read_model_facts
from pipeline.drift_page import render_drift
from pipeline.drift_tally import reference_edges, tally_catalog, tally_facts
from pipeline.in_notebooks import InNotebooks
from pipeline.pages.templates import check_own_page
from pipeline.querying.query import ask, open_catalog
from pipeline.querying.validated_columns import validated_columns

__all__ = ["Drift", "drift"]


@dataclass(frozen=True)
class Drift(InNotebooks):
    """How a catalog differs from what it was compared with.

    Parameters
    ----------
    table : pandas.DataFrame
        See `hiwl_core.drift.drift_table`.
    night, reference : Tally
    catalog, compared_with : str
        In words.
    models : list of str
        Ids in the catalog.
    left_out : list of str
        What only one of the two has.
    limit : float
    """

    in_notebooks = ("found", "catalog", "compared_with", "limit", "table", "left_out")

    table: pd.DataFrame
    night: Tally
    reference: Tally
    catalog: str
    compared_with: str
    models: list[str]
    left_out: list[str]
    limit: float

    @property
    def found(self) -> str:
        """The strongest drift: ``no``, ``moderate`` or ``strong``."""
        return max((str(word) for word in self.table["drift"] if word), key=DRIFTS.index, default=DRIFTS[0])

    def facts(self) -> list[str]:
        """What was compared with what, and the verdict, a line each."""
        drifting = self.table[~self.table["drift"].isin(["", DRIFTS[0]])]
        named = [f"{row.kind} {row.name_}" for row in drifting.rename(columns={"name": "name_"}).itertuples()]
        rows = sum(self.night.statuses.values())
        models = ", ".join(self.models) or "unknown"
        lines = [
            f"{self.catalog}: {rows:,} rows, {self.night.rows:,} of them classified, model {models}",
            f"compared with {self.compared_with}: {self.reference.rows:,} galaxies",
            f"{self.found} drift" + (f": {', '.join(named)}" if named else f" above {self.limit:g}"),
        ]
        return lines + ([f"not compared: {', '.join(self.left_out)}"] if self.left_out else [])


def drift(
    catalog: str,
    reference: str | None = None,
    out: str | None = None,
    limit: float = LIMIT,
    where: str | None = None,
    model: str | None = None,
    seed: int = 0,
) -> Drift:
    """Compare a catalog with its model's validation galaxies, or with another catalog.

    Parameters
    ----------
    catalog : str
        Published or not, local or a URL.
    reference : str, optional
        Another catalog; by default the validation galaxies that the facts of the model tell of.
    out : str, optional
        HTML page to write; an older page of this kind is replaced, any other file is not.
    limit : float
        Of a moderate drift.
    where : str, optional
        Condition in SQL on the catalog's columns; the reference is always whole.
    model : str, optional
        Where the facts of the model are, if not in the catalog; see `read_model_facts`.
    seed : int

    Raises
    ------
    UserError
        If a catalog or the facts are missing, or the catalog has no rows, or nothing in common with the
        reference.
    """
    if out:
        check_own_page(out, "drift")
    night = open_catalog(catalog)
    models = _models(night, where)
    instead: dict[str, str] = {}
    if reference is None:
        facts = read_model_facts(catalog, model)
        facts.check_model(catalog, models)
        compared, words = tally_facts(facts), f"the validation galaxies of the model {facts.model_id}"
        instead = validated_columns(facts)
    else:
        other = open_catalog(reference)
        compared, words = tally_catalog(other, reference_edges(other), None), reference
        _check_rows(reference, None, compared)
    edges = {name: histogram.edges for name, histogram in compared.columns.items()}
    tally = tally_catalog(night, edges, where, instead)
    _check_rows(catalog, where, tally)
    table = drift_table(tally, compared, limit, seed)
    if table.empty:
        raise UserError(f"{catalog} and {words} have no columns in common: there is nothing to compare")
    asked = f"{catalog} where {where}" if where else catalog
    result = Drift(table, tally, compared, asked, words, models, _left_out(tally, compared), limit)
    if out:
        page = render_drift(f"Drift of {catalog}", result.facts(), table, tally, compared, limit)
        storage.write_bytes(out, page.encode())
    return result


def _models(connection: duckdb.DuckDBPyConnection, where: str | None) -> list[str]:
    asked = f"({where}\n)" if where else "true"
    sql = f"SELECT DISTINCT model_id AS id FROM catalog WHERE model_id IS NOT NULL AND {asked} ORDER BY 1"
    return [str(name) for name in ask(connection, sql).table()["id"].to_pylist()]


def _left_out(night: Tally, reference: Tally) -> list[str]:
    """What only one of the two has, in words."""
    if not night.rows:
        return ["all but the statuses: no galaxy is classified"]
    left = [name for name in reference.columns if name not in night.columns]
    left += [] if night.labels and reference.labels else ["labels"]
    return left + [
        f"flag {name}" for bit, name in FLAGS.items() if (bit in night.flags) != (bit in reference.flags)
    ]


def _check_rows(catalog: str, where: str | None, tally: Tally) -> None:
    if not tally.statuses:
        raise UserError(
            f"no rows in {catalog}{f' where {where}' if where else ''}: there is nothing to compare"
        )
