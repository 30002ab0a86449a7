"""The verb ``simulate``: render simulated galaxies with Galaxy Zoo votes."""

from __future__ import annotations

import click

from jobs.options import VerbCommand

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("out")
@click.option("--count", type=int, required=True, help="Galaxies to render.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="0 to 999999; the same seed, the same sky."
)
@click.option(
    "--size", type=int, default=256, show_default=True, help="Side of a picture, pixels; at least 64."
)
@click.option(
    "--ambiguous",
    type=float,
    default=0.15,
    show_default=True,
    help="Share of objects that people disagree on.",
)
@click.option("--shard-rows", type=int, default=512, show_default=True, help="Galaxies a shard, at most.")
def main(out: str, count: int, seed: int, size: int, ambiguous: float, shard_rows: int) -> None:
    """Render simulated galaxies with Galaxy Zoo votes into OUT, a folder or a URL.

    The five classes come in the proportions of Galaxy Zoo's clean sample; ambiguous objects belong to none.
    A run that was cut short is completed by the same command.

    \b
    Writes:
      OUT/cutouts/sky-00000-of-00004.parquet ...   pictures, positions and the class drawn (`truth`)
      OUT/votes.csv                                GalaxyID and 37 vote fractions

    \b
    Example:
      hiwl simulate sky --count 2000 --seed 1
      hiwl select sky/votes.csv sky/classes.csv
    """
    from pipeline.simulate import simulate  # here, so that `--help` does not wait for Ray

    summary = simulate(out, count, seed=seed, size=size, ambiguous=ambiguous, shard_rows=shard_rows)
    classes = "  ".join(f"{name} {number:,}" for name, number in summary.classes.items())
    click.echo(f"objects  {summary.objects:,}")
    click.echo(f"classes  {classes}  ambiguous {summary.ambiguous:,}")
    if summary.rendered:
        rate = summary.rendered / summary.seconds
        click.echo(f"time     {summary.seconds:.1f} s for {summary.rendered:,} galaxies, {rate:.0f} images/s")
    else:
        click.echo("time     nothing to render: all shards were there")
    click.echo(f"cutouts  {summary.cutouts}")
    click.echo(f"votes    {summary.votes}")
    place = out.rstrip("/")
    click.echo(f"next     hiwl select {place}/votes.csv {place}/classes.csv")


if __name__ == "__main__":
    main()
