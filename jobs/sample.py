"""``hiwl sample``: a page of cutouts for some rows of a catalog."""

from __future__ import annotations

import click

from jobs.options import VerbCommand, cone_option
from pipeline.progress import log_event

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("catalog", metavar="CATALOG")
@click.argument("out", metavar="OUT")
@click.option("--where", metavar="CONDITION", help="Condition in SQL on the catalog's columns.")
@cone_option
@click.option(
    "--count", type=click.IntRange(1, 2000), default=60, show_default=True, help="Galaxies at most."
)
@click.option(
    "--order",
    type=click.Choice(["random", "confidence"]),
    default="random",
    show_default=True,
    help="A draw at random, or the least confident first.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed, the same draw.")
@click.option(
    "--for-labelling",
    "--for-labeling",
    "to_label",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="Write a table of N galaxies worth a label to OUT, .csv or .parquet, for `hiwl explore --only`: "
    "a third uncertain, a third diverse, a third at random.",
)
@click.option("--shards", metavar="SHARDS", help="Where the shards are now, if they were moved.")
@click.option("--id-column", metavar="NAME", help="In the shards; default: as they were classified.")
@click.option("--image-column", metavar="NAME", help="In the shards; default: as they were classified.")
def main(
    catalog: str,
    out: str,
    where: str | None,
    cone_words: str | None,
    count: int,
    order: str,
    seed: int,
    to_label: int | None,
    shards: str | None,
    id_column: str | None,
    image_column: str | None,
) -> None:
    """Show the cutouts of some rows of a CATALOG on the page OUT, such as look.html.

    Each galaxy is a card with its picture, id, position, label, confidence and probabilities. The page is one
    file that loads nothing from anywhere. An older page is replaced; any other file is not. Only the shards
    that hold chosen galaxies are read.

    \b
    Examples:
      hiwl sample catalog look.html
      hiwl sample catalog unsure.html --where "label = 'CSS' AND confidence < 0.6" --order confidence
      hiwl sample catalog chosen.csv --for-labelling 100
      hiwl sample s3://sky/catalog cluster.html --cone 194.95,27.98,30arcmin --count 200
    """
    from pipeline.querying.cone import parse_cone
    from pipeline.querying.sample import sample

    cone = parse_cone(cone_words) if cone_words else None
    if to_label is not None:
        from pipeline.exploring.labeling_choice import choose_for_labeling

        found = choose_for_labeling(catalog, out, to_label, where, cone, seed)
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in found.items())
        click.echo(f"{sum(found.values()):,} galaxies to label in {out}: {reasons}")
        click.echo(f"next: hiwl explore {catalog} --only {out}")
        return
    summary = sample(catalog, out, where, cone, count, order, seed, shards, id_column, image_column)
    for words in summary.unread:
        log_event(f"not read: {words}")
    if summary.unread and not shards:
        log_event("shards that were moved are named with --shards")
    click.echo(
        f"page: {summary.shown} of {summary.matching} rows in {summary.out}, from {summary.shards} shards"
    )
    if summary.without_image:
        click.echo(f"  without a picture: {summary.without_image}")


if __name__ == "__main__":
    main()
