"""``hiwl explore``: a page on this machine to look through a catalog and to label its galaxies."""

from __future__ import annotations

from typing import Any

import click

from jobs.options import VerbCommand
from pipeline.progress import log_event

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("catalog", metavar="CATALOG")
@click.option("--shards", metavar="SHARDS", help="Where the shards are now, if they were moved.")
@click.option(
    "--labels", metavar="FOLDER", help="Where the labels are kept.  [default: CATALOG-labels, beside it]"
)
@click.option(
    "--only", metavar="TABLE", help="Show only these objects: a table of `hiwl sample --for-labelling`."
)
@click.option("--who", metavar="NAME", help="Who labels.  [default: your user name]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8642,
    show_default=True,
    help="Port of the page on 127.0.0.1; 0 for any that is free.",
)
@click.option(
    "--export", "out", metavar="FILE.csv|parquet", help="Serve nothing, write the labels for `hiwl ingest`."
)
@click.option("--id-column", metavar="NAME", help="In the shards; default: as they were classified.")
@click.option("--image-column", metavar="NAME", help="In the shards; default: as they were classified.")
def main(catalog: str, labels: str | None, out: str | None, **options: Any) -> None:
    """Look through a CATALOG and label its galaxies, on a page that this machine serves to itself.

    The page filters and sorts, draws the sky and any two columns, and shows cutouts; keys give labels. Each
    is on the disk in FOLDER at once, with who gave it and what was shown, and is there the next time. Ctrl-C
    ends it. The address has a token; from another machine, forward the port by ssh.

    \b
    Examples:
      hiwl explore catalog
      hiwl explore s3://sky/catalog --shards 's3://moved/*.parquet' --labels mine
      hiwl explore catalog --only chosen.csv --who ada
      hiwl explore catalog --export labels.csv
    """
    from pipeline.exploring.explore import explore, export
    from pipeline.exploring.explorer import Explorer

    if out is not None:
        click.echo(f"{export(catalog, labels, out):,} labels in {out}")
        click.echo(f"next: hiwl ingest SHARDS data --labels {out} --split 8:1:1 --drop-unlabeled")
        return

    def ready(explorer: Explorer, address: str) -> None:
        click.echo(f"labels: {len(explorer.labels):,} in {explorer.labels.path}")
        if explorer.images.why_not:
            log_event(f"no pictures: {explorer.images.why_not}")
        click.echo(f"open {address}")

    explore(catalog, labels=labels, ready=ready, **options)


if __name__ == "__main__":
    main()
