"""The command ``hiwl``: one thin verb a file, each also runnable as ``python -m jobs.<verb>``."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import version
from typing import Any

import click

from hiwl_core.near_names import meant
from jobs.typed import remember

__all__ = ["main"]

# Ray reads it when it is imported: a call that a thread makes after its end, as after Ctrl-C, is not to start
# another one.
os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")

# In the order of the data's way, which is the order of `hiwl --help`.
VERBS = {
    "simulate": "Render simulated galaxies with Galaxy Zoo votes.",
    "select": "Choose the clean sample and its split from vote fractions.",
    "ingest": "Pack images or foreign tables into cutout shards.",
    "taxonomy": "Name classes of your own, for ingest and train.",
    "cutouts": "Cut a survey's tiles at a table of positions into cutout shards.",
    "train": "Train the cascade and bundle the best pair of stages.",
    "optimize": "Calibrate a bundle and quantize its networks, as the end of a training does.",
    "models": "List the models that come with HIWL.",
    "push": "Copy a bundle to another place, such as a repository of the Hugging Face Hub.",
    "evaluate": "Score a bundle on labeled shards.",
    "report": "Show all of a training run on one page.",
    "reproduce": "Repeat the paper's tables and figures on your own data.",
    "plan": "Say what classifying some shards would take: hours, traffic, money.",
    "classify": "Classify shards into a Parquet catalog.",
    "status": "Say how far a catalog is, while it is written or afterwards.",
    "verify": "Prove that each input row is in a catalog exactly once.",
    "drift": "Say how a night's catalog differs from what its model was validated on.",
    "publish": "Publish a catalog as HATS, to open with lsdb and cross-match.",
    "query": "Ask a catalog with SQL or by a cone on the sky.",
    "fractions": "Estimate class fractions, corrected for misclassification.",
    "sample": "Show the cutouts of some rows of a catalog on a page.",
    "explore": "Look through a catalog on a page, and label its galaxies by keyboard.",
    "submit": "Run any of these as a job on a Ray cluster.",
    "doctor": "Say what this machine has and reaches, for a bug report.",
    "jobs": "List the jobs of a Ray cluster, read their logs, stop them.",
}


class LazyVerbs(click.Group):
    """Imports a verb's module only when the verb is used: ``hiwl --help`` does not wait for torch."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        remember(ctx, args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"jobs.{name}").main
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            from pipeline.progress import log_event, logs_as_json

            if not logs_as_json():
                raise
            words = error.format_message()
            log_event(f"Error: {words}", error=words, exit_code=error.exit_code)
            ctx.exit(error.exit_code)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and (name := meant(args[0], VERBS)) is not None:
            ctx.fail(f"no verb {args[0]!r}: did you mean {name!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=LazyVerbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(version("hiwl"), prog_name="hiwl")
@click.option(
    "--log-json",
    is_flag=True,
    help="Progress, and how a verb ended, on standard error as JSON: an object a line.",
)
def main(log_json: bool) -> None:
    """Classify the galaxies of a survey, more than people can look at.

    HIWL trains a two-stage cascade of image classifiers on a Ray cluster and writes a Parquet catalog with
    one row a galaxy: a label and five morphology probabilities.

    \b
    Example, from nothing to a catalog:
      hiwl simulate sky --count 2000 --seed 1
      hiwl select sky/votes.csv sky/classes.csv
      hiwl ingest sky/cutouts data --labels sky/classes.csv
      hiwl train --data 'data/train-*.parquet' --val 'data/val-*.parquet' --recipe demo --out run
      hiwl evaluate run/bundle 'data/test-*.parquet'
      hiwl classify run/bundle sky/cutouts catalog

    RAY_ADDRESS names a running Ray cluster to use; without it a verb starts Ray on this machine, if there is
    enough to do for it.
    In bash, `eval "$(_HIWL_COMPLETE=bash_source hiwl)"` completes verbs and options; zsh and fish likewise.
    """
    # Here, since `hiwl --help` need not wait for it.
    from pipeline.progress import log_as_json

    log_as_json(log_json)


if __name__ == "__main__":
    main()
