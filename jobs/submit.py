"""``hiwl submit``: run a verb as a job on a Ray cluster."""

from __future__ import annotations

import re

import click

from hiwl_core.errors import UserError
from jobs.cli import VERBS
from jobs.notifying import NotifyingCommand, notify_option, place_of
from jobs.options import address_option
from pipeline.cluster_jobs import PROGRAM, ClusterJob
from pipeline.notify import STOPPED_EXIT_CODE
from pipeline.progress import log_event
from pipeline.submit import submit

__all__ = ["follow", "main"]

# These speak to a cluster from outside.
SENDERS = ("submit", "jobs")


# What follows the verb belongs to the verb, options too.
@click.command("submit", cls=NotifyingCommand, context_settings={"allow_interspersed_args": False})
@address_option
@click.option(
    "--working-dir",
    metavar="DIR",
    help="Upload this folder, less what its .gitignore names, and run in it: for recipes or your own code.",
)
@click.option("--env", multiple=True, metavar="KEY=VALUE", help="Set a variable of the job. Repeatable.")
@click.option("--job-id", metavar="NAME", help="Name the job.  [default: Ray makes a name]")
@click.option("--detach", is_flag=True, help="Print the job's id and return, without following the log.")
@notify_option
@click.argument("verb", metavar="VERB ARGS...", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def main(
    context: click.Context,
    verb: tuple[str, ...],
    address: str | None,
    working_dir: str | None,
    env: tuple[str, ...],
    job_id: str | None,
    detach: bool,
) -> None:
    """Run a verb as a job on a Ray cluster, and follow its log.

    The exit code is the verb's own: 130 if the job was stopped, 1 if it never started. Ctrl-C asks the job to
    stop; a second Ctrl-C does not wait for that. Paths are read on the cluster: give URLs such as
    s3://bucket/data, or folders that all its nodes share. A model is one in the box, by its name, or a
    bundle in a bucket. Nothing of it need be on this machine.

    A cluster with token authentication asks for RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too. The command
    of --notify runs on this machine and finds the job's id in HIWL_JOB.

    \b
    Examples:
      hiwl submit --address http://127.0.0.1:8265 -- classify s3://sky/bundle s3://sky/cutouts s3://sky/catalog
      hiwl submit --detach --job-id tonight -- classify galaxyzoo s3://sky/cutouts s3://sky/catalog
    """
    _check_verb(verb)
    facts: dict[str, str] = context.obj or {}
    if facts:
        if detach:
            raise UserError(
                "--notify waits for the job's end, which --detach does not: leave one out, or give --notify "
                "after the verb if it has it, to run on the cluster"
            )
        facts["HIWL_PLACE"] = place_of(verb[0], verb[1:])
    job = submit(
        [*PROGRAM, *verb],
        address=address,
        env=_variables(env),
        working_dir=working_dir,
        job_id=job_id,
    )
    facts["HIWL_JOB"] = job.id
    if detach:
        click.echo(job.id)
        return
    log_event(f"Job {job.id} runs on {job.url}")
    raise SystemExit(follow(job, stop_on_interrupt=True))


def follow(job: ClusterJob, stop_on_interrupt: bool) -> int:
    """Print a job's log until it ends, and say what the exit code does not; the exit code.

    Parameters
    ----------
    job : ClusterJob
    stop_on_interrupt : bool
        Whether the first Ctrl-C asks the job to stop, or ends the printing as a second one does.
    """
    try:
        try:
            code, reason = job.follow(_write)
        except KeyboardInterrupt:
            if not stop_on_interrupt:
                raise
            job.stop()
            log_event(f"Asked job {job.id} to stop")
            code, reason = job.follow(_write)
    except KeyboardInterrupt:
        return STOPPED_EXIT_CODE
    except ConnectionError as error:
        log_event(f"Error: {error}")
        return 1
    if reason:
        log_event(f"Job {job.id} has no result: {reason}")
    return code


def _write(text: str) -> None:
    click.echo(text, nl=False)


def _check_verb(verb: tuple[str, ...]) -> None:
    choices = ", ".join(name for name in VERBS if name not in SENDERS)
    if not verb:
        raise UserError(f"no verb to submit: give one of {choices}")
    if verb[0] in SENDERS:
        raise UserError(f"{verb[0]!r} cannot run inside a job: give one of {choices}")
    if verb[0] not in VERBS:
        raise UserError(f"no verb {verb[0]!r}: give one of {choices}")


def _variables(env: tuple[str, ...]) -> dict[str, str]:
    variables = {}
    for item in env:
        key, equals, value = item.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise UserError(f"--env takes KEY=VALUE, such as AWS_REGION=us-west-2; its name was {key!r}")
        variables[key] = value
    return variables


if __name__ == "__main__":
    main()
