"""``hiwl ingest``: images or foreign tables to cutout shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from hiwl_core.errors import UserError
from hiwl_core.recipe import load_recipe
from hiwl_core.taxonomy import Taxonomy
from hiwl_core.taxonomy_file import read_taxonomy
from jobs.options import VerbCommand, column_options, names_of
from pipeline.ingestion.ingest import IngestSummary, ingest
from pipeline.ingestion.ingest_options import IngestOptions
from pipeline.ingestion.split import Split
from pipeline.progress import log_event

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("source")
@click.argument("out")
@click.option(
    "--labels", metavar="TABLE", help="CSV, FITS, VOTable or Parquet with an id and a class, maybe a split."
)
@click.option("--labels-id-column", help="Ids in TABLE.  [default: GalaxyID, object_id or id]")
@click.option("--labels-class-column", help="Classes in TABLE.  [default: class or label]")
@click.option("--carry", multiple=True, metavar="NAME", help="Keep a further column; may be repeated.")
@click.option("--name", default="cutouts", show_default=True, help="Name of the shards without a split.")
@click.option(
    "--bands", metavar="g,r,i", callback=names_of, help="Make one image of ID-g.fits, ID-r.fits, ..."
)
@click.option("--recipe", metavar="NAME", help="Make FITS images RGB by this recipe's section [rgb].")
@click.option("--split", metavar="8:1:1", help="Make train, val and test of the labeled objects.")
@click.option("--seed", default=0, show_default=True, help="Of the split.")
@click.option(
    "--group-by", metavar="NAME", help="Column of TABLE whose equal values stay in one part; or sky."
)
@click.option(
    "--class-folders", is_flag=True, help="Each class has a folder in SOURCE, which is named like it."
)
@click.option("--taxonomy", metavar="FILE", help="Classes of your own; see `hiwl taxonomy new`.")
@click.option("--map", "renamed", multiple=True, metavar="OLD=NEW", help="Rename a class; may be repeated.")
@click.option("--drop-unlabeled", is_flag=True, help="Leave out objects without a class.")
@column_options
def main(
    source: str,
    out: str,
    recipe: str | None,
    split: str | None,
    seed: int,
    group_by: str | None,
    taxonomy: str | None,
    renamed: tuple[str, ...],
    **others: Any,
) -> None:
    """Pack images or foreign tables into cutout shards.

    SOURCE is a folder (to any depth) or a zip of JPEG, PNG or FITS files, whose names are the object ids, or
    a Parquet file, folder or quoted glob. OUT gets the shards: with a column `split` in TABLE train-*, val-*
    and test-*, which --split makes too, otherwise cutouts-*; objects without a class go to unlabeled-*.
    Images that cannot be read are listed in OUT/rejects.csv. The same command again goes on where the last
    one stopped. Paths may be URLs (s3://...).

    FITS files stay as they are, for the model to make colors of, unless --recipe says how to make them RGB
    images here. Where TABLE has no position and pixel scale, their headers give them. With --bands each file
    holds one band of the object ID and is named ID-g.fits, ID_g.fits or ID.g.fits.

    \b
    Examples:
      hiwl ingest images data --labels classes.csv
      hiwl ingest images data --labels classes.csv --split 8:1:1 --group-by plate
      hiwl ingest images data --class-folders --taxonomy bars.toml --split 8:1:1
      hiwl ingest s3://survey/images.zip s3://survey/shards
      hiwl ingest fits data --bands g,r,i --recipe paper
      hiwl ingest 'tables/*.parquet' data --id-column objid --image-column jpeg --carry redshift
    """
    classes = read_taxonomy(taxonomy)
    options = IngestOptions(
        rgb=load_recipe(recipe).rgb if recipe else None,
        split=_split(split, seed, group_by),
        renamed=_renamed(renamed),
        taxonomy=classes,
        **others,
    )
    summary = ingest(source, out, options)
    _print_rejects(summary, out)
    _print_summary(summary, out, classes)
    click.echo(f"next: {_next_command(summary, out, taxonomy)}")


def _renamed(given: Sequence[str]) -> dict[str, str]:
    renamed = {}
    for pair in given:
        there, equals, wanted = pair.partition("=")
        if not (there and equals and wanted):
            raise UserError(
                f"--map {pair}: write the class in the labels and its name here, such as cigar=CSS"
            )
        renamed[there] = wanted
    return renamed


def _split(shares: str | None, seed: int, group_by: str | None) -> Split | None:
    if shares is not None:
        return Split.parse(shares, seed, group_by)
    if group_by is not None:
        raise UserError(f"--group-by {group_by} says what --split keeps together: give --split 8:1:1 too")
    return None


def _print_rejects(summary: IngestSummary, out: str) -> None:
    for identifier, file, reason in summary.rejects:
        log_event(f"rejected: {identifier}: {reason}" + (f" ({file})" if file else ""))
    more = summary.unreadable + summary.without_image - len(summary.rejects)
    if more:
        log_event(f"... and {more:,} more in {out.rstrip('/')}/rejects.csv")


def _print_summary(summary: IngestSummary, out: str, taxonomy: Taxonomy) -> None:
    resumed = f", {summary.resumed:,} of them from an earlier run" if summary.resumed else ""
    shards = "1 shard" if summary.shards == 1 else f"{summary.shards:,} shards"
    click.echo(f"{summary.rows:,} rows in {shards} in {out}{resumed}")
    used = {name for counts in summary.classes.values() for name in counts}
    names = [name for name in (*taxonomy.classes, "") if name in used]
    if used - {""}:
        width = max(10, 2 + max(map(len, names)))
        click.echo(f"{'':<10}" + "".join(f"{name or 'no class':>{width}}" for name in (*names, "all")))
        for series, counts in summary.classes.items():
            cells = [*(counts.get(name, 0) for name in names), sum(counts.values())]
            click.echo(f"{series:<10}" + "".join(f"{count:>{width},}" for count in cells))
    click.echo(f"rejects: {summary.unreadable:,} images, {summary.without_image:,} labels without an image")
    if summary.unlabeled or summary.dropped:
        click.echo(f"without a label: {summary.unlabeled:,} kept, {summary.dropped:,} left out")
    if summary.other_files:
        click.echo(f"other files in the source: {summary.other_files:,}")
    click.echo(f"{summary.seconds:.1f} s")


def _next_command(summary: IngestSummary, out: str, taxonomy: str | None) -> str:
    out = out.rstrip("/")
    if {"train", "val"} <= summary.classes.keys():
        data = f"--data '{out}/train-*.parquet' --val '{out}/val-*.parquet'"
        own = f" --taxonomy {taxonomy}" if taxonomy else ""
        return f"hiwl train {data} --recipe demo{own} --out run"
    labeled = [series for series, counts in summary.classes.items() if set(counts) - {""}]
    if labeled:
        return f"hiwl evaluate BUNDLE '{out}/{labeled[0]}-*.parquet'"
    return f"hiwl classify BUNDLE {out} catalog"


if __name__ == "__main__":
    main()
