"""``hiwl reproduce``: the paper's tables and figures from one's own trainings."""

from __future__ import annotations

from typing import Any

import click

from jobs.options import VerbCommand, column_options, gpu_option, scale_options, set_option
from pipeline.reproduction.reproduce_options import ReproduceOptions

__all__ = ["main"]


def _numbers(_context: click.Context, _option: click.Parameter, value: str) -> list[int]:
    """``0,1,2`` or ``0-2``."""
    try:
        seeds: list[int] = []
        for part in value.split(","):
            first, _, last = part.partition("-")
            seeds += range(int(first), int(last or first) + 1)
        return seeds
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 0,1,2") from None


@click.command(cls=VerbCommand)
@click.argument("names", metavar="TABLE...", nargs=-1, required=True)
@click.option("--data", required=True, metavar="SHARDS", help="Labeled shards to train on.")
@click.option("--val", required=True, metavar="SHARDS", help="Labeled shards to select checkpoints by.")
@click.option("--test", metavar="SHARDS", help="Labeled shards to score on; default: those of --val.")
@click.option(
    "--recipe",
    "recipe_name",
    required=True,
    metavar="NAME",
    help="What sets the scale: paper, small, trial, ...",
)
@click.option("--out", required=True, metavar="DIR", help="Folder of the runs, tables and figures.")
@click.option(
    "--seeds", default="0", show_default=True, callback=_numbers, metavar="LIST", help="Such as 0,1,2 or 0-4."
)
@click.option(
    "--backbone",
    "backbones",
    multiple=True,
    metavar="NAME",
    help="Instead of the recipe's or Table 7's; repeatable.",
)
@set_option
@click.option(
    "--at-once", type=int, metavar="N", help="Trainings at once; default: one a GPU, or one a node."
)
@click.option("--workers", type=int, metavar="N", help="Data-parallel workers of each training; default one.")
@gpu_option
@scale_options
@column_options
def main(names: tuple[str, ...], data: str, val: str, recipe_name: str, out: str, **options: Any) -> None:
    """Reproduce TABLE of the paper: train what it needs, score it, and set it beside the paper's figures.

    TABLE is one or more of table3 to table11, figure4 to figure7, ablations (HIWL without each of its three
    parts), methods (all methods beside each other), earlier_networks, or all. Each training is a run of
    `hiwl train` in DIR/runs; what they share is trained once. Stopped and started again with the same
    arguments, it goes on where it was.

    \b
    Examples:
      hiwl reproduce all --recipe paper --data train --val val --test test --out paper --seeds 0-4
      hiwl reproduce methods --recipe small --data train --val val --out compared --seeds 0,1,2
      hiwl reproduce table7 --recipe trial --data train --val val --out tried --backbone vgg16
      hiwl reproduce figure5 figure6 figure7 --recipe small --data train --val val --out compared
    """
    from pipeline.reproduction.reproduce import reproduce

    reproduction = reproduce(names, data, val, recipe_name, out, ReproduceOptions(**options))
    for name, one in reproduction.made.items():
        click.echo(f"\n{name}: {one.title}\n")
        if one.table is not None:
            click.echo(one.table.to_string(index=False))
            click.echo()
        for sentence in one.sentences:
            click.echo(sentence)
        click.echo(f"files: {', '.join(one.files)}")
    reproduction.check()


if __name__ == "__main__":
    main()
