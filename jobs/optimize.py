"""``hiwl optimize``: calibrate a bundle and quantize its networks, as the end of a training does."""

from __future__ import annotations

from typing import Any

import click

from jobs.options import VerbCommand, column_options, gpu_option, views_option

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("bundle", metavar="BUNDLE")
@click.option("--data", required=True, metavar="SHARDS", help="Labeled shards that it was trained on.")
@click.option("--val", required=True, metavar="SHARDS", help="Labeled shards to fit on and to be judged by.")
@click.option("--out", required=True, metavar="DIR", help="Folder of the bundle that is made; not BUNDLE.")
@views_option("Views that it takes by itself from now on.  [default: as before]")
@click.option("--half", is_flag=True, help="Keep the weights in float16: half the size.")
@gpu_option
@column_options
def main(bundle: str, data: str, val: str, out: str, **options: Any) -> None:
    """Make of a trained model BUNDLE one with calibrated probabilities and int8 networks.

    `hiwl train` does this at its end; here it is for bundles of before, and for fitting to other validation
    galaxies. What is fitted: temperatures and class offsets, the margin below which adaptive views are
    eight, sets of classes, int8 graphs, and how unlike the training galaxies an image is. A precision that is
    worse than float32 is left out, and said so.

    \b
    Examples:
      hiwl optimize run/bundle --data 'data/train-*.parquet' --val 'data/val-*.parquet' --out better
      hiwl optimize run/bundle --data zoo/train --val zoo/val --out better --views adaptive --half
    """
    from pipeline.training.optimize import optimize

    made = optimize(bundle, data, val, out, **options)
    for line in made.fitted.notes.values():
        click.echo(line)
    click.echo(f"bundle: {out}")


if __name__ == "__main__":
    main()
