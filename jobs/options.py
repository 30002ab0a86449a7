"""What the verbs share: the column options, and a user's mistake as one line and exit code 2."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, TypeVar

import click

from hiwl_core.conformal import DEFAULT_COVERAGE
from hiwl_core.errors import UserError
from jobs.endings import end, ending_of, stoppable
from jobs.typed import typed
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.computing import ALL_NODES, AUTO, GPU_NODES, Computing
from pipeline.cutouts.tile_headers import MASK_PLANES
from pipeline.shards.cutout_shards import CONTRACT_NAMES, Columns
from pipeline.shards.wanted_scale import WantedScale

__all__ = [
    "HELP",
    "VerbCommand",
    "address_option",
    "column_options",
    "computing_options",
    "cone_option",
    "contents_options",
    "gpu_option",
    "mask_planes_option",
    "names_of",
    "scale_options",
    "set_option",
    "views_option",
]


Gathered = TypeVar("Gathered", Columns, CatalogContents, Computing)

HELP: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""How verbs show their help."""


class VerbCommand(click.Command):
    """A command that prints mistakes and unfinished work as one line, without a traceback.

    The exit code is 2 for a mistake of the user, a folder that cannot be written among them, 1 for unfinished
    work, that which a store's failing or a full disk ended among it, and 128 more than a signal's number.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["context_settings"] = {**HELP, **settings.get("context_settings", {})}
        super().__init__(*args, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with stoppable():
                return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            ending = ending_of(error, ctx.params, typed(ctx))
            if ending is None:
                raise
            end(ctx, ending)


def _gathered(kind: type[Gathered], options: dict[str, Any], ending: str = "") -> Gathered:
    """A dataclass of the options that are called as its fields, with an ending; they are taken out."""
    names = [one.name for one in fields(kind) if f"{one.name}{ending}" in options]
    return kind(**{name: options.pop(f"{name}{ending}") for name in names})


COLUMNS = {
    "id": "the object ids",
    "image": "JPEG, PNG or FITS bytes",
    "label": "the classes",
    "ra": "right ascensions, degrees",
    "dec": "declinations, degrees",
    "pixel_scale": "pixel scales, arcsec/pixel",
}
"""What is in each column of a `Columns`."""


def column_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--id-column`` and its kin, and pass them on as one `Columns` named ``columns``."""

    @functools.wraps(verb)
    def with_columns(*args: Any, **options: Any) -> Any:
        columns = _gathered(Columns, options, "_column")
        return verb(*args, columns=columns, **options)

    for name, usual in reversed(asdict(CONTRACT_NAMES).items()):
        option = f"--{name.replace('_', '-')}-column"
        words = f"Column with {COLUMNS[name]}."
        with_columns = click.option(option, default=usual, show_default=True, help=words)(with_columns)
    return with_columns


def scale_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--scale`` and its kin, and pass them on as one `WantedScale` named ``scale``."""

    @click.option(
        "--scale", type=float, metavar="ARCSEC", help="Resample each image to so many arcsec a pixel."
    )
    @click.option(
        "--scale-column", metavar="NAME", help="The same from a column of the shards, times a factor."
    )
    @click.option(
        "--scale-factor",
        type=float,
        metavar="F",
        help="Factor of --scale-column: 0.02 with petroR90_r gives Galaxy Zoo's scale.  [default: 1]",
    )
    @click.option(
        "--scale-from",
        metavar="NAME",
        help="A column of radii of 90 % of the light, arcsec: Galaxy Zoo's scale, 0.02 of it a pixel.",
    )
    @functools.wraps(verb)
    def with_scale(
        *args: Any,
        scale: float | None,
        scale_column: str | None,
        scale_factor: float | None,
        scale_from: str | None,
        **others: Any,
    ) -> Any:
        if scale_from is not None and (scale_column, scale_factor) != (None, None):
            raise UserError(f"--scale-from {scale_from} is --scale-column and --scale-factor: give it alone")
        if scale_from is not None:
            scale_column, scale_factor = scale_from, GALAXY_ZOO_RADII
        if scale_factor is not None and scale_column is None:
            raise UserError(f"--scale-factor {scale_factor}: name its column with --scale-column")
        wanted = WantedScale(scale, scale_column, 1.0 if scale_factor is None else scale_factor)
        return verb(*args, scale=wanted, **others)

    return with_scale


GALAXY_ZOO_RADII = 0.02
"""Petrosian radii, of 90 % of the light, in a pixel of Galaxy Zoo's images."""


def _number(context: click.Context, option: click.Parameter, views: str | None) -> int | str | None:
    """So many views, or which in words."""
    return int(views) if views is not None and views.isdigit() else views


def views_option(words: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--views``, with words on what they are for."""
    choice = click.Choice(["adaptive", "1", "2", "4", "8"])
    return click.option("--views", type=choice, callback=_number, help=words)


def contents_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a catalog may hold, and pass it on as one `CatalogContents` named ``contents``."""

    @click.option(
        "--carry", multiple=True, metavar="NAME", help="Take a column of the shards over; repeatable."
    )
    @click.option(
        "--stage2",
        type=click.Choice(["routed", "always"]),
        default="routed",
        show_default=True,
        help="On which galaxies later stages run; always gives exact probabilities at the price of more "
        "work.",
    )
    @views_option(
        "Flips and quarter turns averaged; adaptive: eight where one leaves a doubt.  [default: the model's]"
    )
    @click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "int8"]),
        default="auto",
        show_default=True,
        help="What the networks compute in; auto: of those that the model was validated in the one that is "
        "fastest in a trial. One for the whole catalog.",
    )
    @click.option(
        "--prior",
        metavar="SHARES",
        help="Class shares of the survey to which the probabilities are moved: CRS=.3,IBS=.3,... or "
        "estimate.  [default: those of the model's validation galaxies]",
    )
    @click.option(
        "--coverage",
        type=float,
        default=DEFAULT_COVERAGE,
        show_default=True,
        metavar="C",
        help="Share of each class whose `class_set` is to hold it.",
    )
    @click.option(
        "--features",
        is_flag=True,
        help="Keep what stage 1 saw in each galaxy, 32 numbers, by which `hiwl explore` finds others like "
        "it.",
    )
    @scale_options
    @functools.wraps(verb)
    def with_contents(*args: Any, **options: Any) -> Any:
        contents = _gathered(CatalogContents, options)
        return verb(*args, contents=contents, **options)

    return with_contents


gpu_option = click.option(
    "--gpu/--no-gpu",
    default=None,
    help="Take a GPU for each worker; default: if the cluster has any now. An autoscaled cluster that starts "
    "GPU nodes on demand needs --gpu and --workers.",
)


def computing_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Add by what rows are computed, and pass it on as one `Computing` named ``computing``."""

    @click.option(
        "--workers",
        type=int,
        metavar="N",
        help="Actors at most; default all there is room for, and none for up to 32 MB of shards where no "
        "cluster is named: this process classifies those itself.",
    )
    @gpu_option
    @click.option(
        "--decode-on",
        type=click.Choice([AUTO, GPU_NODES, ALL_NODES]),
        default=AUTO,
        show_default=True,
        help="Where cutouts are read and decoded for workers with GPUs: by these, or on all nodes; auto: on "
        "all nodes if those without GPUs have the CPUs for it. Without GPUs all nodes do.",
    )
    @click.option(
        "--engine",
        type=click.Choice(["auto", "torch", "openvino"]),
        default="auto",
        show_default=True,
        help="What runs the networks; auto: PyTorch on GPUs, OpenVINO on CPUs.",
    )
    @functools.wraps(verb)
    def with_computing(*args: Any, **options: Any) -> Any:
        computing = _gathered(Computing, options)
        return verb(*args, computing=computing, **options)

    return with_computing


def names_of(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...]:
    """The names in an option, between commas; none where it is not given."""
    return () if text is None else tuple(name.strip() for name in text.split(","))


cone_option = click.option(
    "--cone",
    "cone_words",
    metavar="RA,DEC,RADIUS",
    help="Only galaxies within a great-circle distance: degrees; the radius also as 6arcmin or 30arcsec.",
)

set_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe; repeatable."
)

mask_planes_option = click.option(
    "--mask-planes",
    default=",".join(MASK_PLANES),
    show_default=True,
    callback=names_of,
    help="Planes of masks that make a pixel of a tile bad, where the header names them.",
)

address_option = click.option(
    "--address",
    metavar="URL",
    help="The cluster's dashboard.  [default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS or http://127.0.0.1:8265]",
)
