"""``hiwl models``: what is in the box."""

from __future__ import annotations

import click

from jobs.options import VerbCommand

__all__ = ["main"]


@click.command(cls=VerbCommand)
def main() -> None:
    """List the models that come with HIWL, to classify with right after the installation.

    \b
    Examples:
      hiwl models
      hiwl classify galaxyzoo 'shards/*.parquet' catalog
    """
    from hiwl_core.box import box_models, box_place
    from hiwl_core.bundle import load_bundle

    for name in box_models():
        bundle = load_bundle(name)
        place = box_place(name)
        megabytes = sum(file.stat().st_size for file in place.iterdir()) / 1e6
        networks = ", ".join(
            f"{stage} {model.backbone} at {model.preprocessing.input_size} px"
            for stage, model in bundle.stages.items()
        )
        click.echo(f"{name}  {bundle.model_id}  {megabytes:.1f} MB")
        click.echo(f"  classes     {', '.join(bundle.taxonomy.classes)}")
        click.echo(f"  networks    {networks}")
        click.echo(
            f"  cutouts     {bundle.smallest_cutout} px or more on a side, of which it sees the center"
        )
        click.echo(f"  views       {bundle.views}; precisions {', '.join(bundle.fitted.precisions)}")
        for line in bundle.fitted.notes.values():
            click.echo(f"  validation  {line}")
        click.echo(f"  card        {place / 'MODEL_CARD.md'}")


if __name__ == "__main__":
    main()
