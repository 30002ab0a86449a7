"""Serve the page of a catalog until it is stopped, with the labels that are given on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.exploring.catalog_view import CatalogView
from pipeline.exploring.explorer import Explorer
from pipeline.exploring.images import find_images
from pipeline.exploring.labeling_choice import read_choice
from pipeline.exploring.labels import Labels, export_labels
from pipeline.exploring.server import Server
from pipeline.lease import Lease, user_name

__all__ = ["explore", "export", "labels_folder"]


def explore(
    catalog: str,
    shards: str | None = None,
    labels: str | None = None,
    only: str | None = None,
    who: str | None = None,
    port: int = 0,
    id_column: str | None = None,
    image_column: str | None = None,
    ready: Callable[[Explorer, str], None] = lambda explorer, address: None,
) -> None:
    """Serve the page of a catalog; returns only by an exception, such as that of Ctrl-C.

    Parameters
    ----------
    catalog : str
        A catalog, published or not; local or a URL.
    shards : str, optional
        Where the shards are, if not where they were classified.
    labels : str, optional
        Folder of the labels on this machine; see `labels_folder`.
    only : str, optional
        A table of `pipeline.exploring.labeling_choice.choose_for_labeling`: nothing else is shown.
    who : str, optional
        Who labels; the user's name by default.
    port : int
        0 for any that is free.
    id_column, image_column : str, optional
        What the columns are called in the shards, if not as they were classified.
    ready : callable
        Called with the explorer and the page's address when it is there.

    Raises
    ------
    UserError
        If there is no such catalog, the port is taken, or the labels are damaged or being written.
    """
    folder = labels_folder(catalog, labels)
    wanted = None if only is None else read_choice(only)
    view = CatalogView(catalog, wanted)
    images = find_images(catalog, view.published, shards, id_column, image_column)
    with Lease(folder, "hiwl explore", keep=False) as lease:
        given = Labels(folder, list(view.classes))
        explorer = Explorer(catalog, view, images, given, who or user_name(), lease)
        asyncio.run(_serve(Server(explorer, port), ready))


def export(catalog: str, labels: str | None, out: str) -> int:
    """Write the labels of a catalog for ``hiwl ingest --labels``; how many there are.

    Raises
    ------
    UserError
        See `pipeline.exploring.labels.export_labels`.
    """
    view = CatalogView(catalog)
    return export_labels(Labels(labels_folder(catalog, labels), list(view.classes)), out)


def labels_folder(catalog: str, labels: str | None = None) -> str:
    """The folder of a catalog's labels on this machine.

    By default it is beside a local catalog and in the current folder for one at a URL, and is named after it.

    Raises
    ------
    UserError
        If another place than one of this machine is asked for.
    """
    if labels is not None:
        if "://" in labels:
            raise UserError(
                f"--labels {labels}: labels are kept on this machine; give a folder, and --export to a URL"
            )
        return os.path.abspath(labels)
    place = storage.absolute(catalog).rstrip("/").removesuffix(".parquet").rstrip("*").rstrip("/")
    if "://" in place:
        place = os.path.abspath(place.rsplit("/", 1)[-1])
    return f"{place}-labels"


async def _serve(server: Server, ready: Callable[[Explorer, str], None]) -> None:
    address = await server.start()
    try:
        ready(server.explorer, address)
        await asyncio.Event().wait()
    finally:
        await server.close()
