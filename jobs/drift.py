"""``hiwl drift``: whether a night's catalog looks like what its model was validated on."""

from __future__ import annotations

from typing import Any

import click
import pandas as pd

from jobs.options import VerbCommand

__all__ = ["main"]

DRIFTED = 3


@click.command(cls=VerbCommand)
@click.argument("catalog", metavar="CATALOG")
@click.option(
    "--reference", metavar="CATALOG", help="Another catalog to compare with; default: the model's validation."
)
@click.option("--where", metavar="CONDITION", help="Condition in SQL on the catalog's columns.")
@click.option(
    "--limit",
    type=float,
    default=0.1,
    show_default=True,
    help="Index above which a drift is moderate; above 2.5 times it is strong.",
)
@click.option("--out", metavar="OUT.html", help="Page with small histograms to write.")
@click.option(
    "--model", metavar="FILE", help="Catalog of the same model, or its _model.json, if it is not here."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed, the same intervals.")
@click.pass_context
def main(context: click.Context, catalog: str, out: str | None, **options: Any) -> None:
    """Compare a CATALOG with the galaxies that its model was validated on, or with another catalog.

    Each probability, the confidence, the unlikeness score, the labels, each flag and each status other than
    ok is compared by its population stability index, less what chance alone gives. It drifts only if the
    whole of its interval is above --limit. Exit code 0: nothing drifts. 3: something does. 2: a mistake of
    yours.

    \b
    Examples:
      hiwl drift tonight
      hiwl drift s3://sky/tonight --out drift.html || notify "look at drift.html"
      hiwl drift catalog --where "night = 20261104" --reference s3://sky/october
    """
    from pipeline.drift import drift

    result = drift(catalog, out=out, **options)
    click.echo(_pretty(result.table))
    click.echo()
    for line in result.facts():
        click.echo(line)
    if out:
        click.echo(f"page: {out}")
    if result.found != "no":
        context.exit(DRIFTED)


def _pretty(table: pd.DataFrame) -> str:
    """The table with intervals in brackets, shares in percent."""

    def interval(columns: tuple[str, str, str], form: str, factor: float = 1) -> list[str]:
        rows = (factor * table[list(columns)]).itertuples(index=False)
        return [
            "" if pd.isna(middle) else f"{middle:{form}} [{low:{form}}, {high:{form}}]"
            for middle, low, high in rows
        ]

    def percent(column: str) -> list[str]:
        return ["" if pd.isna(share) else f"{100 * share:.2f}" for share in table[column]]

    shown = {
        "": table["kind"] + " " + table["name"],
        "PSI": interval(("psi", "low", "high"), ".3f"),
        "noise": ["" if pd.isna(noise) else f"{noise:.3f}" for noise in table["noise"]],
        "here %": percent("share"),
        "reference %": percent("reference"),
        "difference": interval(("difference", "difference_low", "difference_high"), "+.2f", 100),
        "drift": table["drift"],
    }
    return pd.DataFrame(shown).to_string(index=False)


if __name__ == "__main__":
    main()
