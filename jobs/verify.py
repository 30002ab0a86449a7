"""``hiwl verify``: proof that a catalog is whole."""

from __future__ import annotations

import click

from hiwl_core.errors import IncompleteError
from jobs.options import VerbCommand

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("catalog", metavar="CATALOG")
@click.option("--no-shards", is_flag=True, help="Do not read the shards: they are gone, or far away.")
def main(catalog: str, no_shards: bool) -> None:
    """Prove that each row of the shards is in a CATALOG exactly once, as it was written.

    Compares the catalog with its plan, its parts with their checksums and their ids with those of the shards.
    Exit code 0: the catalog is whole. 1: it is not, and what is wrong is listed.

    \b
    Examples:
      hiwl verify catalog
      hiwl verify s3://sky/catalog --no-shards
    """
    from pipeline.catalog.verify import CHECKS, verify

    result = verify(catalog, with_shards=not no_shards)
    click.echo(f"{result.rows:,} rows in {result.parts:,} parts in {result.catalog}, model {result.model_id}")
    for status, count in result.statuses.most_common():
        click.echo(f"  {status:<14} {count:>14,}")
    for check, meaning in CHECKS.items():
        found = result.counts[check]
        verdict = "not checked" if check in result.skipped else f"{found:,} wrong" if found else "ok"
        click.echo(f"{check:<10} {verdict:<12} {meaning}")
        for finding in result.findings.get(check, []):
            click.echo(f"  {finding}", err=True)
    if not result.passed:
        raise IncompleteError(
            f"{catalog} is not whole: start the `hiwl classify` that made it again, and mend what it names"
        )
    click.echo("the catalog is whole" + (", as far as checked" if no_shards else ""))


if __name__ == "__main__":
    main()
