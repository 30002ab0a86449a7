"""``hiwl classify``: shards in, a Parquet catalog out."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import Any

import click

from hiwl_core.errors import IncompleteError, UserError
from hiwl_core.statuses import OK
from jobs.notifying import NotifyingCommand, notify_option
from jobs.options import column_options, computing_options, contents_options, mask_planes_option
from pipeline.progress import log_event

__all__ = ["main"]


@click.command("classify", cls=NotifyingCommand)
@click.argument("bundle", metavar="BUNDLE")
@click.argument("shards", metavar="SHARDS")
@click.argument("catalog", metavar="CATALOG")
@click.option(
    "--update",
    is_flag=True,
    help="Take in shards that were added or changed since the catalog was begun, which are refused else.",
)
@notify_option
@click.option(
    "--deadline",
    metavar="TIME",
    help="By when the catalog is wanted: 06:00 (the next), or 2027-03-01T06:00. Says whether it will be "
    "there, and how many workers that takes.",
)
@click.option("--stop-at-deadline", is_flag=True, help="End then, with whole parts and exit code 1.")
@computing_options
@contents_options
@column_options
@click.option(
    "--positions",
    metavar="TABLE",
    help="SHARDS are tiles, as of `hiwl cutouts`: what they show at a table of positions is classified.",
)
@mask_planes_option
def main(
    bundle: str,
    shards: str,
    catalog: str,
    deadline: str | None,
    stop_at_deadline: bool,
    positions: str | None,
    mask_planes: tuple[str, ...],
    **options: Any,
) -> None:
    """Classify SHARDS with a model BUNDLE into a CATALOG, one Parquet part a shard.

    SHARDS is a file, a folder or a quoted glob of Parquet shards or WebDataset tars. Each input row is in
    the catalog exactly once; a cutout that cannot be read is a row with a status. Parts that are there
    already are skipped, so a killed run is simply started again. All paths may be URLs (s3://...).

    With --positions SHARDS are a survey's tiles, and each row of the table is in the catalog: no cutout is
    stored, and a position that no tile has is a row with a status. --id-column and its kin, --scale and
    --carry are of the table then.

    Meanwhile `hiwl status CATALOG` says how far it is, and afterwards `hiwl verify CATALOG` proves it whole.

    \b
    Examples:
      hiwl classify run/bundle sky/cutouts catalog
      hiwl classify run/bundle 'zoo/*.parquet' catalog --id-column GalaxyID --carry redshift
      hiwl classify galaxyzoo sky catalog --deadline 06:00 --stop-at-deadline
      hiwl classify bundle s3://sky/lsst s3://sky/catalog --scale-column petroR90_r --scale-factor 0.02
      hiwl classify galaxyzoo s3://sky/coadds s3://sky/catalog --positions objects.parquet --scale-from radius
      hiwl classify galaxyzoo s3://sky/lsst s3://sky/catalog --notify 'echo "$HIWL_PLACE ended" | mail me'
    """
    from pipeline import storage
    from pipeline.classification.catalog_summary import failures
    from pipeline.classification.classify import classify
    from pipeline.classification.deadline import Deadline
    from pipeline.cutouts.position_shards import Positions
    from pipeline.storage.disk_faults import disk_fault, room_at

    if stop_at_deadline and deadline is None:
        raise UserError("--stop-at-deadline: give the time with --deadline")
    wanted = None if deadline is None else Deadline.parse(deadline, stop_at_deadline)
    place = shlex.quote(storage.absolute(catalog))
    cut_at = None if positions is None else Positions(positions, mask_planes)
    summary = classify(bundle, shards, catalog, deadline=wanted, positions=cut_at, **options)
    click.echo(f"catalog: {summary.rows} rows in {len(summary.parts)} parts in {summary.catalog}")
    for name, count in sorted(summary.classes.items(), key=lambda item: -item[1]):
        click.echo(f"  {name:<12} {count:>10}  {count / summary.rows:6.1%}")
    click.echo(f"  classified: {summary.statuses[OK]}")
    for status, count in failures(summary).items():
        click.echo(f"  not classified, {status}: {count}")
    for name, count in (summary.flags or Counter()).most_common():
        click.echo(f"  flag {name}: {count}")
    if summary.skipped_parts:
        click.echo(f"{summary.skipped_parts} parts were there already and were skipped")
    if summary.computed:
        rate = summary.computed / summary.seconds
        click.echo(f"{summary.computed} images in {summary.seconds:.1f} s: {rate:.0f} images/s")
    if summary.failed:
        for line in summary.failed:
            log_event(f"not read: {line}")
        missing = f"{len(summary.failed)} of {len(summary.parts)} shards are not in the catalog {place}"
        if fault := disk_fault(OSError("\n".join(summary.failed))):
            raise IncompleteError(
                f"{missing}, the first for a disk ({fault}; free are {room_at([catalog])}): the other parts "
                "are kept, make room and start the same command again"
            )
        raise IncompleteError(f"{missing}: mend them and start the same command again with --update")
    if summary.flags or failures(summary):
        odd = "status <> 'ok' OR flags > 0"
        click.echo(f'to look at the odd ones: hiwl sample {place} odd.html --where "{odd}"')
    click.echo(f"to look through all of it: hiwl explore {place}")
    # The last line of a job's log, read by who does not know what was submitted.
    click.echo(f"next: hiwl verify {place}, then hiwl query {place} or hiwl publish {place} OUT")


if __name__ == "__main__":
    main()
