"""``hiwl train``: fit the stages of the cascade and bundle the best."""

from __future__ import annotations

from typing import Any

import click

from jobs.notifying import NotifyingCommand, notify_option
from jobs.options import column_options, gpu_option, scale_options, set_option
from pipeline.pages.numbers import duration

__all__ = ["main"]


@click.command("train", cls=NotifyingCommand)
@click.option("--data", required=True, metavar="SHARDS", help="Labeled shards to train on.")
@click.option(
    "--val",
    required=True,
    metavar="SHARDS|SHARE",
    help="Labeled shards to select checkpoints by, or the share of --data to hold out for that, such as 0.1.",
)
@click.option(
    "--group-by",
    metavar="COLUMN",
    help="Of the shards: galaxies with one value of it are not held out apart; sky: cells of 0.9 degrees.",
)
@click.option(
    "--recipe",
    "recipe_name",
    required=True,
    metavar="NAME",
    help="paper, cpu, galaxyzoo, demo, small, trial or a .toml file.",
)
@click.option("--taxonomy", metavar="FILE", help="Classes of your own; see `hiwl taxonomy new`.")
@click.option(
    "--method",
    metavar="NAME",
    help="hiwl (default), slwslm, unweighted, hmws, plain, similarity or online: changes before --set's.",
)
@click.option("--out", required=True, metavar="DIR", help="Run folder; shared storage on a cluster.")
@set_option
@click.option("--workers", type=int, metavar="N", help="Data-parallel workers; default one a GPU, or one.")
@click.option(
    "--track",
    multiple=True,
    metavar="TRACKER[:PLACE]",
    help="Tell tensorboard or mlflow of each epoch; a place is a folder, or a tracking URI.  Repeatable.",
)
@notify_option
@gpu_option
@scale_options
@column_options
def main(
    data: str,
    val: str,
    recipe_name: str,
    taxonomy: str | None,
    method: str | None,
    out: str,
    overrides: tuple[str, ...],
    **options: Any,
) -> None:
    """Train stage 1 and stage 2, score the nine pairs of their best checkpoints, bundle the best.

    SHARDS is a file, a folder or a quoted glob. A killed run, started again with the same arguments, goes on
    from its last checkpoint; one of a minute or less, which needs no Ray, from its last whole stage. The run
    folder ends up with the bundle, a table of epochs for each stage and the table of pairs. Methods without
    the hierarchy train one network for all classes, and choose among its three best checkpoints. The bundle
    keeps the scale that it was trained at, and classify keeps to it.

    With a share for --val, so much of each class is held out, by the recipe's seed; the run folder's
    held_out.csv names these galaxies, and `hiwl evaluate` of the same shards scores them alone.

    \b
    Examples:
      hiwl train --data 'data/train-*.parquet' --val 'data/val-*.parquet' --recipe cpu --out run
      hiwl train --data 'data/*.parquet' --val 0.1 --recipe cpu --out run
      hiwl train --data train.parquet --val val.parquet --recipe paper --out run --set stage1.epochs=3
      hiwl train --data data/train --val data/val --recipe cpu --out run --track tensorboard --track mlflow
      hiwl train --data train.parquet --val val.parquet --recipe cpu --method slwslm --out run
      hiwl train --data data/train --val data/val --recipe cpu --taxonomy bars.toml --out run
      hiwl train --data zoo/train --val zoo/val --recipe my.toml --out run --label-column class
    """
    # torch and Ray are slow to import: a wrong option should not wait for them.
    from hiwl_core.training_recipe import training_recipe
    from pipeline.training.train import train

    recipe = training_recipe(recipe_name, taxonomy, method, overrides)
    result = train(data, val, recipe, out, **options)
    if result.pairs is None:
        click.echo(f"this run is complete: its bundle is in {result.bundle}")
        return
    click.echo(result.pairs.to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    best = result.pairs.iloc[0]
    click.echo(f"best: validation accuracy {best['accuracy']:.4f}, after {duration(result.seconds)}")
    click.echo(f"bundle: {result.bundle}")
    click.echo(f"next: hiwl evaluate {result.bundle} '{result.selected_by}'")


if __name__ == "__main__":
    main()
