"""``hiwl push``: copy a model bundle elsewhere, such as into a repository of the Hugging Face Hub."""

from __future__ import annotations

import click

from jobs.options import VerbCommand

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("bundle", metavar="BUNDLE")
@click.argument("place", metavar="PLACE")
@click.option(
    "--private", is_flag=True, help="If a repository has to be made in the Hub, make it a private one."
)
def main(bundle: str, place: str, private: bool) -> None:
    """Copy a model BUNDLE to PLACE: a folder, object storage, or a repository of the Hugging Face Hub.

    Its files are checked against their hashes and copied as they are, so that it stays the same model. In the
    Hub (hf://OWNER/NAME, or a folder in it) it is one commit; the token is that of HF_TOKEN or of `hf auth
    login`. Every verb that takes a BUNDLE takes such a place, with @REVISION if it is to be a certain one.

    \b
    Examples:
      hiwl push run/bundle hf://ada/barred-galaxies
      hiwl classify hf://ada/barred-galaxies 'survey/*.parquet' catalog
      hiwl push run/bundle s3://sky/models/barred
    """
    from pipeline.push import push

    there = push(bundle, place, private)
    click.echo(f"bundle: {there}")
    click.echo(f"next: hiwl classify {there} SHARDS CATALOG")


if __name__ == "__main__":
    main()
