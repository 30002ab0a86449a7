"""What the verbs share: the column options, and a user's mistake as one line and exit code 2."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from hiwl_core.errors import IncompleteError, UserError
from pipeline.retries import StoreError
from pipeline.shards import Columns

PATH_ERRORS = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)

__all__ = ["VerbCommand", "actors_option", "column_options", "gpu_option"]


class VerbCommand(click.Command):
    """A command that prints mistakes and unfinished work as one line, without a traceback.

    The exit code is 2 for a mistake of the user, a folder that cannot be written among them, and 1 for
    unfinished work, that which a store's failing ended among it.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        shared = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
        settings["context_settings"] = {**shared, **settings.get("context_settings", {})}
        super().__init__(*args, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (UserError, IncompleteError, StoreError, *PATH_ERRORS) as error:
            # What a Ray task raises comes wrapped, with the whole remote traceback in its text.
            words = str(getattr(error, "cause", error))
            click.echo(f"Error: {' '.join(words.split())}", err=True)
            ctx.exit(1 if isinstance(error, (IncompleteError, StoreError)) else 2)


def column_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--id-column`` and its kin, and pass them on as one `Columns` named ``columns``."""

    @click.option("--id-column", default="object_id", show_default=True, help="Column with the object ids.")
    @click.option("--image-column", default="image", show_default=True, help="Column with JPEG or PNG bytes.")
    @click.option("--label-column", default="label", show_default=True, help="Column with the classes.")
    @click.option(
        "--ra-column", default="ra", show_default=True, help="Column with right ascensions, degrees."
    )
    @click.option("--dec-column", default="dec", show_default=True, help="Column with declinations, degrees.")
    @functools.wraps(verb)
    def with_columns(
        *args: Any,
        id_column: str,
        image_column: str,
        label_column: str,
        ra_column: str,
        dec_column: str,
        **others: Any,
    ) -> Any:
        columns = Columns(id=id_column, image=image_column, label=label_column, ra=ra_column, dec=dec_column)
        return verb(*args, columns=columns, **others)

    return with_columns


gpu_option = click.option(
    "--gpu/--no-gpu",
    default=None,
    help="Take a GPU for each worker; default: if the cluster has any now. An autoscaled cluster that starts "
    "GPU nodes on demand needs --gpu and --workers.",
)

actors_option = click.option(
    "--workers", type=int, metavar="N", help="Actors at most; default all there is room for."
)
