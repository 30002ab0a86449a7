"""``hiwl publish``: a catalog as HATS, for lsdb, cross-matching and anything that reads Parquet."""

from __future__ import annotations

import click

from jobs.options import VerbCommand

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("catalog", metavar="CATALOG")
@click.argument("out", metavar="OUT")
@click.option("--name", default="hiwl", show_default=True, help="Of the collection and the catalog in it.")
@click.option(
    "--max-rows", type=int, default=1_000_000, show_default=True, metavar="N", help="Rows a tile at most."
)
@click.option(
    "--margin",
    type=float,
    default=0.0,
    metavar="ARCSEC",
    help="Width of the margin cache, which cross-matching across the tiles' edges needs; default none.",
)
@click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Ray tasks at once; default all there is room for, or threads alone if the catalog is small.",
)
def main(catalog: str, out: str, name: str, max_rows: int, margin: float, workers: int | None) -> None:
    """Publish a CATALOG that classify wrote as a HATS collection in the folder OUT.

    The catalog is cut into tiles of the sky and sorted by place; its Parquet files say units, UCDs and
    descriptions of their columns as VOParquet. Rows without a position (0 <= ra <= 360, -90 <= dec <= 90) are
    in OUT/no_position. A killed run is simply started again. Both folders may be URLs (s3://...).

    \b
    Examples:
      hiwl publish catalog published
      hiwl publish catalog s3://survey/published --name dr1_morphology --margin 10
      hiwl publish catalog published --max-rows 200000 --workers 8
      python -c "import lsdb; print(lsdb.open_catalog('published'))"
    """
    from pipeline.publication.publish import publish

    summary = publish(catalog, out, name, max_rows, margin, workers)
    tiles = "1 tile" if summary.tiles == 1 else f"{summary.tiles} tiles"
    beside = f" ({out.rstrip('/')}/no_position)" if summary.without_position else ""
    click.echo(
        f"published: {summary.rows} rows in {tiles}, {summary.without_position} without a position{beside}"
    )
    if margin:
        click.echo(f"margin of {margin:g} arcsec: {summary.margin_rows} rows")
    if summary.kept:
        click.echo(f"{summary.kept} files were there already and were kept")
    if not summary.new:
        click.echo(f"all of it was in {out} already")


if __name__ == "__main__":
    main()
