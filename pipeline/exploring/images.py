"""The cutouts that the page shows: small JPEGs, read a page at a time, and the newest of them kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from hiwl_core.errors import UserError, words_of
from pipeline import storage
from pipeline.exploring.catalog_view import CatalogRow
from pipeline.pages.cards import Thumbnail, thumbnail
from pipeline.querying.origin import Origin, find_origin

__all__ = ["Images", "find_images"]

PIXELS = 320
READERS = 4
MOST_KEPT = 4000


class Images:
    """Pictures of galaxies, by their place in the catalog.

    Parameters
    ----------
    origin : Origin or None
        None if there are no pictures.
    why_not : str
        Why, in words for the page.
    """

    def __init__(self, origin: Origin | None, why_not: str = "") -> None:
        self._origin, self.why_not = origin, why_not
        self._readers = ThreadPoolExecutor(READERS)
        self._shown: OrderedDict[CatalogRow, Future[Thumbnail | str]] = OrderedDict()

    def ask(self, rows: Mapping[CatalogRow, str]) -> None:
        """Begin to read the pictures of some rows that are not there yet.

        Parameters
        ----------
        rows : mapping of Place to str
            Their status.
        """
        origin = self._origin
        if origin is None:
            return
        wanted: dict[str, list[CatalogRow]] = {}
        for place in rows:
            if place in self._shown:
                self._shown.move_to_end(place)
            else:
                self._shown[place] = Future()
                # Who goes away while it is read takes it from nobody else.
                self._shown[place].set_running_or_notify_cancel()
                wanted.setdefault(place.part, []).append(place)
        for part, places in wanted.items():
            futures = [self._shown[place] for place in places]
            self._readers.submit(self._read, origin, part, [(one, rows[one]) for one in places], futures)
        while len(self._shown) > max(MOST_KEPT, len(rows)):
            self._shown.popitem(last=False)

    def picture(self, place: CatalogRow) -> Future[Thumbnail | str]:
        """A JPEG and its size on the sky, or why there is none, in words.

        Raises
        ------
        KeyError
            If it was not asked for.
        """
        return self._shown[place]

    def close(self) -> None:
        """Read no further."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _read(
        self,
        origin: Origin,
        part: str,
        rows: Sequence[tuple[CatalogRow, str]],
        futures: Sequence[Future[Thumbnail | str]],
    ) -> None:
        shard = origin.shards.get(part)
        try:
            if shard is None:
                raise UserError(f"no shard is known of {part}")
            cutouts = origin.cutouts(shard, [(place.object_id, status) for place, status in rows])
        except Exception as error:
            # Whatever it is: the page waits for an answer.
            words = f"{(shard or part).rsplit('/', 1)[-1]} was not read: {words_of(error)}"
            for future in futures:
                future.set_result(words)
            return
        otherwise = f"no picture of it in {shard.rsplit('/', 1)[-1]}"
        for future, cutout, (_, status) in zip(futures, cutouts, rows, strict=True):
            shown, words = thumbnail(cutout, PIXELS, otherwise, status=status)
            future.set_result(shown or words)


def find_images(
    catalog: str,
    published: bool,
    shards: str | None = None,
    id_column: str | None = None,
    image_column: str | None = None,
) -> Images:
    """The pictures of a catalog, or none and why.

    Parameters
    ----------
    catalog : str
    published : bool
    shards, id_column, image_column : str, optional
        See `pipeline.querying.origin.find_origin`.

    Raises
    ------
    UserError
        If `shards` names nothing.
    """
    if published:
        return Images(
            None,
            "this catalog is published, in another order than its shards: explore that which it came from",
        )
    try:
        origin = find_origin(catalog, shards, id_column, image_column)
    except UserError as error:
        if shards is not None:
            raise
        return Images(None, str(error))
    first = next(iter(origin.shards.values()), None)
    if shards is None and (first is None or not storage.exists(first)):
        return Images(None, f"{first} is not there any more: say where the shards are with --shards")
    return Images(origin)
