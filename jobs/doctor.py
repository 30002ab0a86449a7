"""``hiwl doctor``: what this machine has and reaches."""

from __future__ import annotations

import click

from hiwl_core.errors import IncompleteError
from jobs.options import VerbCommand

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("places", metavar="[PLACE]...", nargs=-1)
def main(places: tuple[str, ...]) -> None:
    """Say what this machine has: versions, cores, memory, GPU, disks; what of it will not do has exit code 1.

    In each PLACE, a folder or a URL that you want to write to, a file of some bytes is written, read and
    removed. What it prints belongs into a bug report: it has no credentials in it.

    \b
    Examples:
      hiwl doctor
      hiwl doctor s3://sky/catalogs
    """
    from pipeline.doctor import examine

    wrong = []
    for found in examine(places):
        click.echo(f"{found.what:<16} {found.fact}")
        if found.mend:
            wrong.append(found.what)
            click.echo(f"{'':<16} wrong: {found.mend}")
    if wrong:
        raise IncompleteError(f"of this machine {', '.join(wrong)} will not do: see above")


if __name__ == "__main__":
    main()
