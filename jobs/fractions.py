"""``hiwl fractions``: class fractions of a catalog, corrected for misclassification."""

from __future__ import annotations

from typing import Any

import click
import pandas as pd

from hiwl_core.errors import UserError
from jobs.options import VerbCommand
from pipeline.progress import log_event

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("catalog", metavar="CATALOG")
@click.option("--by", metavar="COLUMN[,BINS]", help="Groups: a column's values, or bins of equal counts.")
@click.option("--where", metavar="CONDITION", help="Condition in SQL on the catalog's columns.")
@click.option(
    "--out", metavar="FILE.csv", help="Write the table here, a path or a URL that is not taken yet."
)
@click.option("--picture", metavar="FILE.png|svg", help="Draw the fractions of the groups here.")
@click.option(
    "--model", metavar="FILE", help="Catalog of the same model, or its _model.json, if it is not here."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed, the same intervals.")
def main(catalog: str, out: str | None, picture: str | None, **options: Any) -> None:
    """Estimate what fraction of the galaxies of a CATALOG each class is, corrected for misclassification.

    Plain counts of the label are wrong for rare classes, and differently wrong where the mix of the classes
    differs. `adjusted` corrects the counts by the confusion matrix of held-out galaxies, `em` uses all
    probabilities. Intervals are of 95 % and carry the uncertainty of both the sample and the validation. Only
    classified rows count.

    \b
    Examples:
      hiwl fractions catalog
      hiwl fractions catalog --by z,10 --where "petroMag_r < 17" --out fractions.csv --picture fractions.png
      hiwl fractions s3://sky/published --by field
    """
    from pipeline import storage
    from pipeline.fractions import fractions

    for file in (out, picture):
        if file and storage.exists(file):
            raise UserError(f"{file} is there already: choose another file, or remove it")
    if out and not out.lower().endswith(".csv"):
        raise UserError(f"--out {out}: the table is written as CSV, to a file that ends with .csv")
    if picture:
        if not picture.lower().endswith((".png", ".svg")):
            raise UserError(f"--picture {picture}: give a file that ends with .png or .svg")
        import hiwl_core.figures  # says at once what is missing to draw
    result = fractions(catalog, **options)
    click.echo(_pretty(result.table))
    click.echo()
    galaxies = int(result.groups["rows"].sum())
    click.echo(f"{galaxies:,} galaxies, in percent with 95 % intervals; model {result.model_id}")
    if result.unclassified:
        click.echo(f"  not classified: {result.unclassified:,}")
    if result.ungrouped:
        click.echo(f"  without {result.by}: {result.ungrouped:,}")
    apart = result.table.query("em_low > adjusted_high or em_high < adjusted_low")
    if len(apart):
        words = ", ".join(sorted({str(name) for name in apart["class"]}))
        log_event(f"  adjusted and em disagree on {words}: see docs/fractions.md before you use either")
    if out:
        storage.write_bytes(out, result.with_bins().to_csv(index=False, float_format="%.6g").encode())
        click.echo(f"table: {out}")
    if picture:
        from hiwl_core.figures.class_fractions import draw_class_fractions

        centers = result.groups.set_index("group")["mean"] if result.binned else None
        figure = draw_class_fractions(result.table, centers, result.by or "")
        files = hiwl_core.figures.figure_files(figure, "fractions")
        storage.write_bytes(picture, files[f"fractions.{picture.lower()[-3:]}"])
        click.echo(f"picture: {picture}")


def _pretty(table: pd.DataFrame) -> str:
    """One line a group and class, in percent."""

    def interval(name: str) -> list[str]:
        rows = (100 * table[[name, f"{name}_low", f"{name}_high"]]).itertuples(index=False)
        return [
            "" if pd.isna(middle) else f"{middle:.2f} [{low:.2f}, {high:.2f}]" for middle, low, high in rows
        ]

    group = table["group"].astype(str)
    shown = {
        "group": group.where(group != group.shift(), ""),
        "class": table["class"],
        "rows": [f"{count:,}" for count in table["rows"]],
        **{name: interval(name) for name in ("naive", "adjusted", "em")},
    }
    return pd.DataFrame(shown).to_string(index=False)


if __name__ == "__main__":
    main()
