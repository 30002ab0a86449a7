"""``hiwl verify``: proof that a catalog, or a folder of shards, is whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from hiwl_core.errors import IncompleteError
from jobs.options import VerbCommand
from pipeline.progress import log_event

if TYPE_CHECKING:
    from pipeline.catalog.verify import Verification

__all__ = ["main"]


@click.command(cls=VerbCommand)
@click.argument("catalog", metavar="CATALOG")
@click.option("--no-shards", is_flag=True, help="Do not read the shards: they are gone, or far away.")
def main(catalog: str, no_shards: bool) -> None:
    """Prove that each row of the shards is in a CATALOG exactly once, as it was written.

    Compares the catalog with its plan, its parts with their checksums and their ids with those of the shards.
    Exit code 0: the catalog is whole. 1: it is not, and what is wrong is listed.

    Of a folder that `hiwl ingest` or `hiwl cutouts` wrote it proves in the same way that each object that was
    planned is a row of a shard, or a reject, exactly once.

    \b
    Examples:
      hiwl verify catalog
      hiwl verify s3://sky/catalog --no-shards
      hiwl verify s3://sky/cutouts
    """
    from pipeline.catalog.verify import CHECKS, verify
    from pipeline.ingestion.verify import SHARD_CHECKS, is_shard_folder, verify_shards

    if is_shard_folder(catalog):
        found = verify_shards(catalog)
        click.echo(f"{found.rows:,} rows in {found.parts:,} shards in {catalog}")
        click.echo(f"  {'rejects':<14} {found.statuses['rejects']:>14,}")
        _print_checks(found, SHARD_CHECKS)
        if not found.passed:
            raise IncompleteError(f"{catalog} is not whole: start the command that made it again")
        click.echo("the shards are whole")
        return
    result = verify(catalog, with_shards=not no_shards)
    click.echo(f"{result.rows:,} rows in {result.parts:,} parts in {result.catalog}, model {result.model_id}")
    for status, count in result.statuses.most_common():
        click.echo(f"  {status:<14} {count:>14,}")
    _print_checks(result, CHECKS)
    if not result.passed:
        raise IncompleteError(
            f"{catalog} is not whole: start the `hiwl classify` that made it again, and mend what it names"
        )
    click.echo("the catalog is whole" + (", as far as checked" if no_shards else ""))


def _print_checks(result: Verification, checks: Mapping[str, str]) -> None:
    for check, meaning in checks.items():
        found = result.counts[check]
        verdict = "not checked" if check in result.skipped else f"{found:,} wrong" if found else "ok"
        click.echo(f"{check:<10} {verdict:<12} {meaning}")
        for finding in result.findings.get(check, []):
            log_event(f"  {finding}")


if __name__ == "__main__":
    main()
