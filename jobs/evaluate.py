"""``hiwl evaluate``: the paper's tables for any labeled shards."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Any

import click
import pandas as pd

from hiwl_core.metrics import CLASS_METRICS
from jobs.options import VerbCommand, column_options, computing_options, contents_options
from pipeline.hub import in_hub

if TYPE_CHECKING:  # torch comes with it
    from pipeline.evaluation.probabilities import ProbabilityEvaluation

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("bundle", metavar="BUNDLE")
@click.argument("shards", metavar="SHARDS")
@click.option("--out", metavar="DIR", help="Where the tables go; default: evaluation, beside the bundle.")
@computing_options
@contents_options
@column_options
def main(bundle: str, shards: str, out: str | None, **options: Any) -> None:
    """Score a model BUNDLE on labeled SHARDS: confusion matrix, precision, recall, F1, accuracy, and how far
    its probabilities can be trusted before and after calibration.

    Each figure has its 95 % interval: Wilson's for proportions, the bootstrap's for F1, averages and the
    metrics of probabilities. The tables are also written as CSV and JSON, beside the catalog that they are
    computed from. On the shards that a model was calibrated on, each galaxy is judged by a calibration of the
    others.

    \b
    Examples:
      hiwl evaluate run/bundle 'data/test-*.parquet'
      hiwl evaluate run/bundle zoo/val.parquet --id-column GalaxyID --label-column class --out scores
    """
    from pipeline.evaluation.evaluate import evaluate

    # The Hub takes bundles alone.
    beside = "." if in_hub(bundle) else posixpath.dirname(bundle.rstrip("/")) or "."
    out = out or posixpath.join(beside, "evaluation")
    result = evaluate(bundle, shards, out, **options)
    click.echo("Confusion matrix (rows: true class, columns: predicted)")
    click.echo(result.confusion.to_string())
    click.echo()
    for title, table in (("The model", result.metrics), *_by_stage(result.stages)):
        click.echo(f"{title}, with 95 % intervals")
        click.echo(_pretty(table))
        click.echo()
    _show_probabilities(result.probabilities)
    for reason, count in result.left_out.items():
        click.echo(f"not in any figure, {reason}: {count}")
    scored = int(result.confusion.to_numpy().sum())
    best = result.metrics.iloc[-1]
    click.echo(f"accuracy {_cell(best['value'], best['low'], best['high'])} on {scored} galaxies")
    most_probable = result.metrics_label_map.iloc[-1]
    words = _cell(most_probable["value"], most_probable["low"], most_probable["high"])
    click.echo(f"accuracy {words} by label_map, the most probable class")
    click.echo(f"tables: {result.out}, and to look at: {result.out}/evaluation.html")


def _by_stage(stages: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    from pipeline.evaluation.stage_tables import stage_title

    tables = [(stage_title(str(name)), table) for name, table in stages.groupby("stage")]
    # An only stage is the model.
    return tables if len(tables) > 1 else []


def _show_probabilities(probabilities: ProbabilityEvaluation) -> None:
    """The metrics of the probabilities, a line each, and the coverage of the sets, a line a class."""
    click.echo(f"Probabilities. {probabilities.words}")
    tables = probabilities.tables()
    if "probabilities" in tables:
        metrics = tables["probabilities"].set_index("metric")
        sides = {}
        for side in ("before", "after"):
            rows = metrics[[side, f"{side}_low", f"{side}_high"]].dropna().to_numpy()
            if len(rows):
                sides[f"{side} calibration"] = [_cell(*row) for row in rows]
        click.echo(pd.DataFrame(sides, index=metrics.index).rename_axis(None).to_string())
    click.echo()
    if "coverage" in tables:
        sets = tables["coverage"].set_index("class")
        cells = {
            "coverage": [_cell(*row) for row in sets[["coverage", "low", "high"]].to_numpy()],
            "mean size": [f"{size:.2f}" for size in sets["mean_size"]],
            "galaxies": sets["count"],
        }
        click.echo(f"Coverage of class_set, of which {probabilities.coverage:g} is promised for each class")
        click.echo(pd.DataFrame(cells, index=sets.index).rename_axis(None).to_string())
        click.echo()


def _cell(value: float, low: float, high: float) -> str:
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"


def _pretty(table: pd.DataFrame) -> str:
    """One line a class, one column a metric."""
    cells = table.assign(cell=[_cell(*row) for row in table[["value", "low", "high"]].to_numpy()])
    wide = cells.pivot(index="class", columns="metric", values="cell")
    order = list(dict.fromkeys(table["class"]))
    metrics = [name for name in (*CLASS_METRICS, "accuracy") if name in wide.columns]
    wide.columns.name = wide.index.name = None
    return wide.loc[order, metrics].fillna("").to_string()


if __name__ == "__main__":
    main()
