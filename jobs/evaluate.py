"""``hiwl evaluate``: the paper's tables for any labeled shards."""

from __future__ import annotations

import posixpath

import click
import pandas as pd

from jobs.options import (
    VerbCommand,
    actors_option,
    column_options,
    engine_options,
    gpu_option,
    scale_options,
)
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.wanted_scale import WantedScale

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("bundle", metavar="BUNDLE")
@click.argument("shards", metavar="SHARDS")
@click.option("--out", metavar="DIR", help="Where the tables go; default: evaluation, beside the bundle.")
@actors_option
@gpu_option
@engine_options
@scale_options
@column_options
def main(
    bundle: str,
    shards: str,
    out: str | None,
    workers: int | None,
    gpu: bool | None,
    engine: str,
    precision: str,
    scale: WantedScale,
    columns: Columns,
) -> None:
    """Score a model BUNDLE on labeled SHARDS: confusion matrix, precision, recall, F1, accuracy.

    Each figure has its 95 % interval: Wilson's for proportions, the bootstrap's for F1 and averages. The
    tables are also written as CSV and JSON, beside the catalog that they are computed from.

    \b
    Examples:
      hiwl evaluate run/bundle 'data/test-*.parquet'
      hiwl evaluate run/bundle zoo/val.parquet --id-column GalaxyID --label-column class --out scores
    """
    from pipeline.evaluation.evaluate import evaluate

    out = out or posixpath.join(posixpath.dirname(bundle.rstrip("/")) or ".", "evaluation")
    result = evaluate(bundle, shards, out, columns, workers, gpu, scale, engine, precision)
    click.echo("Confusion matrix (rows: true class, columns: predicted)")
    click.echo(result.confusion.to_string())
    click.echo()
    for title, table in (("The model", result.metrics), *_by_stage(result.stages)):
        click.echo(f"{title}, with 95 % intervals")
        click.echo(_pretty(table))
        click.echo()
    for reason, count in result.left_out.items():
        click.echo(f"not in any figure, {reason}: {count}")
    scored = int(result.confusion.to_numpy().sum())
    best = result.metrics.iloc[-1]
    click.echo(f"accuracy {best['value']:.4f} [{best['low']:.4f}, {best['high']:.4f}] on {scored} galaxies")
    click.echo(f"tables: {result.out}, and to look at: {result.out}/evaluation.html")


def _by_stage(stages: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    titles = {"stage1": "Stage 1 alone", "stage2": "Stage 2 alone, on the galaxies that stage 1 routed right"}
    tables = [(titles[str(name)], table) for name, table in stages.groupby("stage")]
    # An only stage is the model.
    return tables if len(tables) > 1 else []


def _pretty(table: pd.DataFrame) -> str:
    """One line a class, one column a metric."""
    cells = table.assign(cell=[f"{r.value:.4f} [{r.low:.4f}, {r.high:.4f}]" for r in table.itertuples()])
    wide = cells.pivot(index="class", columns="metric", values="cell")
    order = list(dict.fromkeys(table["class"]))
    metrics = [name for name in ("precision", "recall", "f1", "accuracy") if name in wide.columns]
    wide.columns.name = wide.index.name = None
    return wide.loc[order, metrics].fillna("").to_string()


if __name__ == "__main__":
    main()
