"""``hiwl status``: how far a catalog is."""

from __future__ import annotations

import time

import click

from hiwl_core.statuses import OK
from jobs.options import VerbCommand
from pipeline.pages.numbers import duration

__all__ = ["main"]

FAILURES_NAMED = 10


@click.command(cls=VerbCommand)
@click.argument("catalog", metavar="CATALOG")
@click.option("--follow", is_flag=True, help="Look again every ten seconds until nobody works on it.")
def main(catalog: str, follow: bool) -> None:
    """Say how far a CATALOG is, from storage alone: while its job runs, anywhere, or after it died.

    \b
    Examples:
      hiwl status s3://sky/catalog
      hiwl status catalog --follow
    """
    from pipeline.catalog.status import catalog_status

    status = catalog_status(catalog)
    while follow and status.state == "running":
        click.echo(_line(status))
        time.sleep(10)
        status = catalog_status(catalog)
    click.echo(_line(status))
    rows = max(status.rows_done, 1)
    for label, count in status.classes.most_common():
        click.echo(f"  {label:<14} {count:>12,}  {count / rows:6.1%}")
    for name, count in status.statuses.most_common():
        if name != OK:
            click.echo(f"  not classified, {name}: {count:,}")
    for failure in list(status.failed.values())[:FAILURES_NAMED]:
        click.echo(f"not read: {failure}")
    if len(status.failed) > FAILURES_NAMED:
        click.echo(f"... and {len(status.failed) - FAILURES_NAMED:,} shards more")


def _line(status) -> str:  # type: ignore[no-untyped-def]
    of_rows = f" of {status.rows:,}" if status.rows is not None else ""
    words = [
        f"{status.state}: {status.parts_done:,} of {status.parts:,} parts, {status.rows_done:,}{of_rows} rows"
    ]
    if status.rate:
        words.append(f"{status.rate:,.0f} rows/s")
    if status.seconds_left is not None:
        words.append(f"{duration(status.seconds_left)} left")
    if status.state == "stopped":
        ago = (
            "no sign of a job" if status.last_sign is None else f"last sign {duration(status.last_sign)} ago"
        )
        words.append(f"{ago}; start the same command again to go on")
    return ", ".join(words)


if __name__ == "__main__":
    main()
