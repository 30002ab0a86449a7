"""What lies beside the rows in folders that other tools wrote, and must not be read as rows of its own.

In a HATS catalog that is ``data_thumbnail.parquet``, some rows of the tiles once more, in a HATS collection
its margin caches and indexes, which repeat rows too. Files such as ``_metadata`` and ``.part-0.parquet.crc``
are left out of every listing by their names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline import storage

__all__ = ["in_hats_catalog", "is_sky_map", "without_side_files"]

TILE_FOLDER = re.compile(r"^(?P<root>.*?)(?P<dataset>/dataset)?/Norder=\d+/")
THUMBNAIL = "/data_thumbnail.parquet"
PROPERTIES = ("hats.properties", "properties")
COLLECTION = "collection.properties"
SKY_MAP = re.compile(r"(^|/)(skymap(\.\d+)?|point_map)\.fits$")
# Others say of the rows of a catalog what it has already.
CATALOGS_OF_ROWS = frozenset(("object", "source", "nested"))


def without_side_files(names: Sequence[str]) -> list[str]:
    """The files of a listing that are not beside the rows of a HATS catalog but hold them, or are others.

    Parameters
    ----------
    names : sequence of str
        Absolute paths or URLs of all files that were found.
    """
    # There may be a million names, of which a search for the words is a tenth of the work.
    tiles = [match for name in names if "/Norder=" in name and (match := TILE_FOLDER.match(name))]
    thumbnails = {f"{match['root']}{match['dataset'] or ''}{THUMBNAIL}" for match in tiles}
    roots = {match["root"] for match in tiles}
    roots |= {name.rpartition("/")[0] for name in names if name.endswith(PROPERTIES)}
    repeated = tuple(f"{root}/" for root in roots if not _has_own_rows(root))
    return [name for name in names if name not in thumbnails and not name.startswith(repeated)]


def in_hats_catalog(folder: str) -> bool:
    """Whether a folder is a HATS catalog or collection."""
    return any(storage.exists(f"{folder.rstrip('/')}/{name}") for name in (*PROPERTIES, COLLECTION))


def is_sky_map(name: str) -> bool:
    """Whether a file is the map of a HATS catalog's rows, which is a FITS file and no cutout."""
    return SKY_MAP.search(name) is not None


def _has_own_rows(root: str) -> bool:
    """Whether a HATS catalog has rows of its own; what says nothing of itself has."""
    for name in PROPERTIES:
        if storage.exists(f"{root}/{name}"):
            text = storage.read_bytes(f"{root}/{name}").decode("utf-8", "replace")
            kind = re.search(r"^\s*dataproduct_type\s*[=:]\s*(\w+)", text, re.MULTILINE)
            return kind is None or kind[1].lower() in CATALOGS_OF_ROWS
    return True
