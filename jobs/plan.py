"""``hiwl plan``: what classifying some shards would take."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from jobs.options import VerbCommand, column_options, computing_options, contents_options
from pipeline.pages.numbers import duration, file_size

if TYPE_CHECKING:
    from pipeline.classification.estimate import Estimate, Span

__all__ = ["main"]

# Load a core above which timings say little: threads of two processes wait for each other.
BUSY = 0.5


@click.command(cls=VerbCommand)
@click.argument("bundle", metavar="BUNDLE")
@click.argument("shards", metavar="SHARDS")
@click.option(
    "--machines", type=int, default=1, show_default=True, metavar="N", help="Machines like this one."
)
@click.option("--price", type=float, metavar="P", help="Price of one machine for an hour, in any currency.")
@click.option(
    "--rate",
    type=float,
    metavar="R",
    help="Images/s of one machine; then nothing is timed. For machines that are not here, with GPUs say.",
)
@click.option("--sample", type=int, default=3, show_default=True, metavar="N", help="Shards to time.")
@click.option(
    "--seconds", type=float, default=45.0, show_default=True, metavar="S", help="To spend on them, about."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON, for scripts.")
@computing_options
@contents_options
@column_options
def main(bundle: str, shards: str, as_json: bool, **options: Any) -> None:
    """Say what classifying SHARDS with a model BUNDLE would take: hours, traffic, money. Writes nothing.

    The rows are counted from the shards' footers (those of tars are estimated from their sizes). A few shards
    are read and some of their rows classified in this process, which takes about a minute; run it on a
    machine like those of the cluster, or give their --rate.

    \b
    Examples:
      hiwl plan run/bundle sky/cutouts
      hiwl plan run/bundle s3://sky/cutouts --machines 8 --price 1.20
      hiwl plan run/bundle s3://sky/cutouts --machines 4 --price 2.50 --rate 4000 --json
    """
    from pipeline.classification.estimate import estimate  # here, so that `--help` does not wait for torch

    result = estimate(bundle, shards, **options)
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2))
        return
    for name, figure, words in _lines(result):
        click.echo(f"{name:<10} {figure:>14}   {words}".rstrip())
    click.echo(_grounds(result))


def _lines(result: Estimate) -> list[tuple[str, str, str]]:
    about = "" if result.rows_counted else ", estimated from the sizes of the tars"
    low, high = f"{result.rate.low:,.0f}", f"{result.rate.high:,.0f}"
    spread = "as given" if result.rate_given else f"{low} to {high} by shard"
    lines = [
        ("rows", f"{result.rows:,}", f"in {result.shards:,} shards, {file_size(result.size)}{about}"),
        ("speed", f"{result.rate.value:,.0f} images/s", f"of one machine, {spread}"),
    ]
    if not result.rate_given:
        workers = f"{result.workers} workers" if result.workers > 1 else "1 worker"
        lines += [
            ("  reading", f"{1000 * result.read_seconds:.3g} ms", "an image, as the storage is now"),
            (
                "  computing",
                f"{1000 * result.compute_seconds:.3g} ms",
                f"an image, {result.computing}; {workers}",
            ),
        ]
    lines.append(
        ("time", duration(result.seconds_one.value), f"on one machine{_between(result.seconds_one)}")
    )
    if result.machines > 1:
        lines.append(("", duration(result.seconds.value), f"on {result.machines}{_between(result.seconds)}"))
    requests = result.requests or {}
    got = f"in {requests['GET']:,} GET and {requests['LIST']:,} LIST requests" if requests else ""
    put = f", in {requests['PUT']:,} PUT requests" if requests else ""
    lines += [
        ("read", file_size(result.bytes_read), got),
        ("written", file_size(result.bytes_written), f"the catalog{put}"),
    ]
    if result.cost is not None:
        hours = result.machines * result.seconds.value / 3600
        lines.append(("cost", f"{result.cost:,.2f}", f"{hours:,.1f} machine-hours at {result.price:,.2f}"))
    return lines


def _grounds(result: Estimate) -> str:
    """What the figures rest on."""
    if result.rate_given:
        return f"Sizes by {len(result.samples)} sampled shards; times by the rate that was given."
    rows = sum(taken.rows_computed for taken in result.samples)
    more = f", times {result.workers} workers" if result.workers > 1 else ""
    lines = [
        f"Timed on {rows:,} images of {len(result.samples)} shards in one process{more}. Not in these times:",
        "the start of the cluster, the parts' way to the storage, other users of it.",
    ]
    if result.load > BUSY:
        lines.append(
            f"This machine is busy (load {result.load:.1f} a core): alone it is faster, perhaps much faster."
        )
    return "\n".join(lines)


def _between(span: Span) -> str:
    return f" ({duration(span.low)} to {duration(span.high)})" if span.low < span.high else ""


if __name__ == "__main__":
    main()
