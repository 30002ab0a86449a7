"""``hiwl submit``: run a verb as a job on a Ray cluster."""

from __future__ import annotations

import re

import click

from hiwl_core.errors import UserError
from jobs.cli import VERBS
from jobs.options import VerbCommand
from pipeline.submit import STOPPED_EXIT_CODE, ClusterJob, submit

__all__ = ["main"]


# What follows the verb belongs to the verb, options too.
@click.command(cls=VerbCommand, context_settings={"allow_interspersed_args": False})
@click.option(
    "--address",
    metavar="URL",
    help="The cluster's dashboard.  [default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS or http://127.0.0.1:8265]",
)
@click.option(
    "--working-dir",
    metavar="DIR",
    help="Upload this folder, less what its .gitignore names, and run in it: for recipes or your own code.",
)
@click.option("--env", multiple=True, metavar="KEY=VALUE", help="Set a variable of the job. Repeatable.")
@click.option("--job-id", metavar="NAME", help="Name the job.  [default: Ray makes a name]")
@click.option("--detach", is_flag=True, help="Print the job's id and return, without following the log.")
@click.argument("verb", metavar="VERB ARGS...", nargs=-1, type=click.UNPROCESSED)
def main(
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
    s3://bucket/data, or folders that all its nodes share.

    A cluster with token authentication asks for RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too.

    \b
    Example:
      hiwl submit --address http://127.0.0.1:8265 -- classify s3://sky/bundle s3://sky/cutouts s3://sky/catalog
    """
    _check_verb(verb)
    job = submit(
        ["python", "-m", "jobs.cli", *verb],
        address=address,
        env=_variables(env),
        working_dir=working_dir,
        job_id=job_id,
    )
    if detach:
        click.echo(job.id)
        return
    click.echo(f"Job {job.id} runs on {job.url}", err=True)
    raise SystemExit(_follow(job))


def _follow(job: ClusterJob) -> int:
    try:
        try:
            code, reason = job.follow(_write)
        except KeyboardInterrupt:
            job.stop()
            click.echo(f"Asked job {job.id} to stop", err=True)
            code, reason = job.follow(_write)
    except KeyboardInterrupt:
        return STOPPED_EXIT_CODE
    except ConnectionError as error:
        click.echo(f"Error: {error}", err=True)
        return 1
    if reason:
        click.echo(f"Job {job.id} has no result: {reason}", err=True)
    return code


def _write(text: str) -> None:
    click.echo(text, nl=False)


def _check_verb(verb: tuple[str, ...]) -> None:
    choices = ", ".join(name for name in VERBS if name != "submit")
    if not verb:
        raise UserError(f"no verb to submit: give one of {choices}")
    if verb[0] == "submit":
        raise UserError(f"'submit' cannot run inside a job: give one of {choices}")
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
