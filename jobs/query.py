"""``hiwl query``: SQL or a cone on a catalog."""

from __future__ import annotations

import shutil
import sys

import click

from hiwl_core.errors import UserError
from jobs.options import VerbCommand, cone_option

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("catalog", metavar="CATALOG")
@click.argument("sql", metavar="[SQL]", required=False)
@cone_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "parquet", "fits", "votable"]),
    help="Default: by the ending of --out, or else table.",
)
@click.option("--out", metavar="FILE", help="Write all rows here, a path or a URL that is not taken yet.")
@click.option(
    "--rows", type=click.IntRange(0), default=40, show_default=True, help="Rows to show of a table."
)
def main(
    catalog: str, sql: str | None, cone_words: str | None, form: str | None, out: str | None, rows: int
) -> None:
    """Ask a CATALOG, published or not, with SQL or by a cone on the sky.

    The SQL is one SELECT of the table `catalog`, in DuckDB's dialect; without it all rows are meant. With a
    cone the table holds only the rows in it. Nothing is changed by a query, and files other than the
    catalog cannot be read.

    \b
    Examples:
      hiwl query catalog "SELECT label, count(*) FROM catalog GROUP BY label"
      hiwl query catalog --cone 184.95,-0.88,6arcmin
      hiwl query s3://sky/catalog "SELECT * FROM catalog WHERE p_css > 0.9" --out css.fits
    """
    from pipeline import storage
    from pipeline.querying.cone import parse_cone
    from pipeline.querying.output import encode, format_of, text_table
    from pipeline.querying.query import query

    form = form or (format_of(out) if out else "table")
    if out and storage.exists(out):
        raise UserError(f"{out} is there already: choose another file, or remove it")
    if not out and form not in ("table", "csv") and sys.stdout.isatty():
        raise UserError(f"{form} is not for a terminal: name a file with --out")
    answer = query(catalog, sql, parse_cone(cone_words) if cone_words else None)
    if out:
        storage.write_bytes(out, encode(answer, form))
    elif form == "table":
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(text_table(answer, rows, width), nl=False)
    else:
        click.echo(encode(answer, form), nl=False)


if __name__ == "__main__":
    main()
