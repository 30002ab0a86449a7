"""``hiwl report``: all of a training run on one page."""

from __future__ import annotations

import posixpath
from dataclasses import asdict

import click
from click.core import ParameterSource

from jobs.options import VerbCommand, column_options, computing_options, contents_options
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.computing import Computing
from pipeline.shards.cutout_shards import Columns

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("run", metavar="RUN")
@click.option("--out", metavar="FOLDER", help="Where the report goes; default: report, in the run folder.")
@click.option(
    "--val", metavar="SHARDS", help="Labeled shards to score on; default: those that the run was selected by."
)
@computing_options
@contents_options
@column_options
def main(
    run: str,
    out: str | None,
    val: str | None,
    computing: Computing,
    contents: CatalogContents,
    columns: Columns,
) -> None:
    """Show all of a training RUN on one page, FOLDER/report.html.

    RUN is a folder that `hiwl train` made. On the page are what was trained on what, learning curves, the
    pairs of checkpoints, scores with their 95 % intervals, how far the probabilities can be trusted, heat
    maps of where the networks look, a map of what they tell apart, the most confident mistakes and the least
    certain galaxies. It is one file that loads nothing from anywhere, with every table and figure inside to
    save; beside it they are files.

    Columns are called as the run recorded, or as the options say.

    \b
    Examples:
      hiwl report run
      hiwl report run --out shown --val 'data/test-*.parquet'
      hiwl report s3://zoo/run --out s3://zoo/shown --val zoo/val.parquet --id-column GalaxyID
    """
    from pipeline.reporting.report import report

    context = click.get_current_context()
    named = {
        field: name
        for field, name in asdict(columns).items()
        if context.get_parameter_source(f"{field}_column") is not ParameterSource.DEFAULT
    }
    out = out or posixpath.join(run.rstrip("/"), "report")
    made = report(run, out, val, named, contents, computing)
    best = made.evaluation.metrics.iloc[-1]
    click.echo(
        f"accuracy {best['value']:.4f} [{best['low']:.4f}, {best['high']:.4f}] on {best['count']} galaxies"
    )
    click.echo(f"page: {made.page}, {made.size / 1e6:.1f} MB")
    click.echo(f"  and {len(made.files)} tables and figures beside it, in {posixpath.dirname(made.page)}")


if __name__ == "__main__":
    main()
