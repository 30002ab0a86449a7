"""``hiwl jobs``: the jobs of a Ray cluster, that ``hiwl submit`` sent there."""

from __future__ import annotations

import time

import click

from jobs.options import HELP, VerbCommand, address_option
from jobs.submit import follow
from pipeline.cluster_jobs import find_job, list_jobs
from pipeline.pages.numbers import duration
from pipeline.progress import log_event

__all__ = ["main"]

STATUS_WIDTH = 9


@click.group(context_settings=HELP)
def main() -> None:
    """List the jobs of a Ray cluster, read their logs, stop them.

    A cluster with token authentication asks for RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too.

    \b
    Examples:
      hiwl jobs list --address http://127.0.0.1:8265
      hiwl jobs logs tonight --follow
      hiwl jobs stop tonight
    """


@main.command("list", cls=VerbCommand)
@address_option
def list_command(address: str | None) -> None:
    """List the jobs since the cluster's head started, the latest last.

    \b
    Example:
      hiwl jobs list
    """
    jobs = list_jobs(address)
    if not jobs:
        log_event("no job yet: `hiwl submit -- VERB ARGS...` sends one")
        return
    width = max(len(job.id) for job in jobs)
    for job in jobs:
        begun = "" if job.started is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started))
        took = "" if job.seconds is None else duration(job.seconds)
        click.echo(f"{job.id:<{width}}  {job.status:<{STATUS_WIDTH}}  {begun:<16}  {took:>9}  {job.command}")


@main.command(cls=VerbCommand)
@click.argument("job_id", metavar="ID")
@click.option("--follow", "following", is_flag=True, help="Go on until the job ends, with its exit code.")
@address_option
def logs(job_id: str, following: bool, address: str | None) -> None:
    """Print the log of the job ID, from its beginning.

    With --follow Ctrl-C only ends the printing; the job goes on.

    \b
    Example:
      hiwl jobs logs tonight --follow
    """
    job = find_job(job_id, address)
    if following:
        raise SystemExit(follow(job, stop_on_interrupt=False))
    click.echo(job.log(), nl=False)


@main.command(cls=VerbCommand)
@click.argument("job_id", metavar="ID")
@address_option
def stop(job_id: str, address: str | None) -> None:
    """Stop the job ID, and wait until it has ended.

    What it wrote is kept: the same command, submitted again, goes on from there.

    \b
    Example:
      hiwl jobs stop tonight
    """
    job = find_job(job_id, address)
    if not job.stop():
        click.echo(f"job {job_id} had ended already")
        return
    job.follow(lambda text: None)
    click.echo(f"job {job_id} has ended; the same command, submitted again, goes on from what it wrote")


if __name__ == "__main__":
    main()
