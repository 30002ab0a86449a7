"""``hiwl select``: the clean sample and its split from vote fractions."""

from __future__ import annotations

import click

from jobs.options import VerbCommand
from pipeline.select import rejects_path, select

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("votes", metavar="VOTES.csv")
@click.argument("out", metavar="OUT.csv")
@click.option("--id-column", default="GalaxyID", show_default=True, help="Column of VOTES.csv with the ids.")
def main(votes: str, out: str, id_column: str) -> None:
    """Choose the clean sample and its split from vote fractions.

    VOTES.csv has one galaxy a row with the cumulative vote fractions Class1.1 to Class7.3 of Galaxy Zoo 2.
    A galaxy whose fractions lie above the thresholds of one class gets that class and a place in the split
    8:1:1; OUT.csv lists GalaxyID, class and split. All other galaxies are in OUT.rejects.csv with the
    reason. Both may be URLs (s3://...).

    \b
    Example:
      hiwl select sky/votes.csv sky/classes.csv
      hiwl ingest sky/cutouts data --labels sky/classes.csv
    """
    counts = select(votes, out, id_column)
    click.echo(counts.table())
    click.echo(f"wrote {out} and {rejects_path(out)}")


if __name__ == "__main__":
    main()
