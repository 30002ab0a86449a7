"""``hiwl taxonomy``: classes of one's own."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.options import HELP, VerbCommand

__all__ = ["main"]


@click.group(context_settings=HELP)
def main() -> None:
    """Name classes of one's own, for ingest and train; what they make knows its classes by itself.

    \b
    Example:
      hiwl taxonomy new labels.csv --out bars.toml
    """


@main.command("new", cls=VerbCommand)
@click.argument("labels")
@click.option("--out", required=True, metavar="FILE", help="The taxonomy file; it must not be there.")
@click.option("--class-column", help="Classes in LABELS.  [default: class or label]")
@click.option(
    "--confusion",
    metavar="CSV",
    help="A confusion_matrix.csv of `hiwl evaluate`: the two classes most confused get a stage.",
)
def new_command(labels: str, out: str, class_column: str | None, confusion: str | None) -> None:
    """Propose a taxonomy file from the classes in LABELS, a table or a folder with a folder for each class.

    All classes are told apart by one network at first. Once a model of them is evaluated, --confusion puts
    the two that it confuses most into a second stage.

    \b
    Examples:
      hiwl taxonomy new labels.csv --out bars.toml
      hiwl taxonomy new images --out bars.toml
      hiwl taxonomy new labels.csv --out two.toml --confusion scores/confusion_matrix.csv
    """
    from hiwl_core.errors import UserError
    from hiwl_core.taxonomy_file import read_taxonomy, taxonomy_template
    from pipeline.ingestion.class_counts import class_counts, confused_classes

    place = Path(out)
    if place.exists():
        raise UserError(f"--out {out} is there already: choose another file")
    counts = class_counts(labels, class_column)
    combined = confused_classes(confusion, tuple(counts)) if confusion else ()
    place.write_text(taxonomy_template(place.stem, counts, combined), encoding="utf-8")
    taxonomy = read_taxonomy(out)
    click.echo(f"{len(taxonomy.classes)} classes, {len(taxonomy.stages)} stages in {out}: read it over")
    folders = " --class-folders" if Path(labels).is_dir() else f" --labels {labels}"
    source = labels if Path(labels).is_dir() else "images"
    click.echo(f"next: hiwl ingest {source} data{folders} --taxonomy {out} --split 8:1:1")


if __name__ == "__main__":
    main()
