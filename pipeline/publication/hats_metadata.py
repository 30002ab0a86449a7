"""The files of a HATS catalog beside its leaves, as hats 0.11 reads them.

<collection>/collection.properties            what is in it, and which margin lsdb takes
<collection>/<catalog>/hats.properties        and the same as ``properties``
<collection>/<catalog>/partition_info.csv     the tiles
<collection>/<catalog>/skymap.fits            rows by cell of order 8
<collection>/<catalog>/dataset/_metadata      footers of all leaves; ``_common_metadata`` has the schema alone
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from cdshealpix.skymap import SkymapImplicit

from pipeline import storage
from pipeline.publication.hats_tiles import INDEX_COLUMN, INDEX_ORDER, HatsCell

__all__ = ["SKYMAP_ORDER", "sky_fraction", "write_collection", "write_margin", "write_table"]

SKYMAP_ORDER = 8
HATS_VERSION = "v1.0"
HATS_RELEASE = "2025-08-22"


def sky_fraction(tiles: Sequence[HatsCell]) -> float:
    """The part of the sky that some tiles cover."""
    return sum(4.0**-tile.order for tile in tiles) / 12


def write_table(
    folder: str,
    name: str,
    leaves: Sequence[tuple[HatsCell, pq.FileMetaData, int]],
    schema: pa.Schema,
    max_rows: int,
    sky: np.ndarray,
) -> None:
    """Write the metadata of an object catalog whose leaves are there.

    Parameters
    ----------
    folder : str
        Of the catalog.
    name : str
    leaves : sequence of (Tile, pyarrow.parquet.FileMetaData, int)
        Tiles with the footer and the bytes of their leaves.
    schema : pyarrow.Schema
        Of the leaves.
    max_rows : int
        Rows a tile was to have at most.
    sky : numpy.ndarray of int64, shape (12 * 4**SKYMAP_ORDER,)
        Rows by cell.
    """
    storage.write_bytes(f"{folder}/skymap.fits", _fits(sky))
    properties = {
        "dataproduct_type": "object",
        "hats_max_rows": max_rows,
        "hats_skymap_order": SKYMAP_ORDER,
    }
    _write_catalog(folder, name, leaves, schema, properties)


def write_margin(
    folder: str,
    name: str,
    primary: str,
    arcsec: float,
    leaves: Sequence[tuple[HatsCell, pq.FileMetaData, int]],
    schema: pa.Schema,
) -> None:
    """Write the metadata of a margin cache whose leaves are there.

    Parameters
    ----------
    folder, name : str
        Of the margin cache.
    primary : str
        Folder of the catalog that it is the margin of, as seen from the margin's.
    arcsec : float
    leaves, schema
        As of `write_table`.
    """
    properties = {
        "dataproduct_type": "margin",
        "hats_primary_table_url": primary,
        "hats_margin_threshold": arcsec,
    }
    _write_catalog(folder, name, leaves, schema, properties)


def write_collection(folder: str, name: str, primary: str, margin: str | None) -> None:
    """Write the file that makes a folder a collection; readers find nothing before it is there."""
    properties: dict[str, object] = {"obs_collection": name, "hats_primary_table_url": primary}
    if margin is not None:
        properties |= {"all_margins": margin, "default_margin": margin}
    _write_properties(f"{folder}/collection.properties", "HATS Collection", properties | _provenance())


def _write_catalog(
    folder: str,
    name: str,
    leaves: Sequence[tuple[HatsCell, pq.FileMetaData, int]],
    schema: pa.Schema,
    properties: Mapping[str, object],
) -> None:
    leaves = sorted(leaves, key=lambda leaf: (leaf[0].order, leaf[0].pixel))
    tiles = [tile for tile, _, _ in leaves]
    rows = sum(footer.num_rows for _, footer, _ in leaves)

    common = _schema_file(schema)
    merged = pq.read_metadata(pa.BufferReader(common))
    for tile, footer, _ in leaves:
        footer.set_file_path(tile.path)
        merged.append_row_groups(footer)
    sink = pa.BufferOutputStream()
    merged.write_metadata_file(sink)
    storage.write_bytes(f"{folder}/dataset/_metadata", sink.getvalue().to_pybytes())
    storage.write_bytes(f"{folder}/dataset/_common_metadata", common.to_pybytes())

    lines = ["Norder,Npix", *(f"{tile.order},{tile.pixel}" for tile in tiles)]
    storage.write_bytes(f"{folder}/partition_info.csv", ("\n".join(lines) + "\n").encode())

    content = {
        "obs_collection": name,
        **properties,
        "hats_nrows": rows,
        "hats_col_ra": "ra",
        "hats_col_dec": "dec",
        "hats_col_healpix": INDEX_COLUMN,
        "hats_col_healpix_order": INDEX_ORDER,
        "hats_npix_suffix": ".parquet",
        "hats_order": max((tile.order for tile in tiles), default=0),
        "moc_sky_fraction": f"{sky_fraction(tiles):.5f}",
        "hats_estsize": sum(size for _, _, size in leaves) // 1024,
        **_provenance(),
    }
    # The one that readers look for first is the last one written.
    for file in ("properties", "hats.properties"):
        _write_properties(f"{folder}/{file}", "HATS catalog", content)


def _schema_file(schema: pa.Schema) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_metadata(schema, sink)
    return sink.getvalue()


def _provenance() -> dict[str, object]:
    return {
        "hats_builder": f"hiwl v{version('hiwl')}",
        "hats_creation_date": datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%MUTC"),
        "hats_release_date": HATS_RELEASE,
        "hats_version": HATS_VERSION,
    }


def _write_properties(path: str, title: str, properties: Mapping[str, object]) -> None:
    lines = [f"#{title}", *(f"{key}={value}" for key, value in properties.items())]
    storage.write_bytes(path, ("\n".join(lines) + "\n").encode())


def _fits(sky: np.ndarray) -> bytes:
    """A sky map as FITS; by cell if most of the sky is empty."""
    skymap = SkymapImplicit(sky, null_value=0)
    if np.count_nonzero(sky) < len(sky) / 2:
        skymap = skymap.to_explicit()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "skymap.fits"
        skymap.to_fits(str(path))
        return path.read_bytes()
