"""``hiwl cutouts``: a survey's tiles and a table of positions to cutout shards."""

from __future__ import annotations

from typing import Any

import click

from hiwl_core.recipe import load_recipe
from jobs.options import VerbCommand, mask_planes_option, names_of, scale_options
from pipeline.cutouts.cutouts import CutoutsSummary, cutouts
from pipeline.progress import log_event

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("tiles")
@click.argument("positions")
@click.argument("out")
@click.option("--size", default=256, show_default=True, metavar="PIXELS", help="Of a cutout, on a side.")
@scale_options
@click.option(
    "--bands", default="g,r,i", show_default=True, callback=names_of, help="Planes of the FITS cutouts."
)
@click.option("--recipe", metavar="NAME", help="Make JPEGs by this recipe's section [rgb] instead.")
@click.option(
    "--id-column", metavar="NAME", help="Ids in POSITIONS.  [default: object_id, objectId, id, ...]"
)
@click.option("--ra-column", metavar="NAME", help="Degrees.  [default: ra, coord_ra, RA, ...]")
@click.option("--dec-column", metavar="NAME", help="Degrees.  [default: dec, coord_dec, DEC, ...]")
@click.option("--carry", multiple=True, metavar="NAME", help="Keep a further column; may be repeated.")
@mask_planes_option
def main(tiles: str, positions: str, out: str, recipe: str | None, **options: Any) -> None:
    """Cut a survey's tiles at a table of positions into cutout shards.

    TILES is a folder, a file or a quoted glob of FITS images with a WCS: one band a file, or several, packed
    or not. Images of one grid of pixels are one tile, whatever the files are called; masks, weights and
    variances are told by their names. POSITIONS is a table with ids, right ascensions and declinations (CSV,
    FITS, VOTable, ...), a Parquet file, folder or HATS catalog. OUT gets the shards, for classify and train,
    and rejects.csv, with a line for each position without a cutout. The same command again goes on where the
    last one stopped. Paths may be URLs (s3://...).

    A position is cut from the tile in which it lies deepest, and stitched of several where that one ends.
    Without --scale its pixels are the tile's own.

    \b
    Examples:
      hiwl cutouts 'coadds/*.fits' objects.parquet cutouts --size 256
      hiwl cutouts s3://survey/tiles targets.csv s3://survey/cutouts --recipe paper --scale 0.4
      hiwl cutouts tiles targets.fits cutouts --scale-column petroR90_r --scale-factor 0.02
    """
    rgb = load_recipe(recipe).rgb if recipe else None
    summary = cutouts(tiles, positions, out, rgb=rgb, **options)
    _print_summary(summary, out)


def _print_summary(summary: CutoutsSummary, out: str) -> None:
    out = out.rstrip("/")
    for identifier, file, reason in summary.first:
        log_event(f"rejected: {identifier}: {reason}" + (f" ({file})" if file else ""))
    more = summary.rejects + summary.broken_files - len(summary.first)
    if more > 0:
        log_event(f"... and {more:,} more in {out}/rejects.csv")
    resumed = f", {summary.resumed:,} of them from an earlier run" if summary.resumed else ""
    shards = "1 shard" if summary.shards == 1 else f"{summary.shards:,} shards"
    click.echo(f"{summary.rows:,} cutouts of {summary.tiles:,} tiles in {shards} in {out}{resumed}")
    click.echo(f"{summary.positions:,} positions: {summary.rejects:,} rejects, {summary.stitched:,} stitched")
    if summary.broken_files:
        click.echo(f"files that cannot be read: {summary.broken_files:,}")
    click.echo(f"{summary.seconds:.1f} s")
    click.echo(f"next: hiwl classify BUNDLE {out} catalog")


if __name__ == "__main__":
    main()
