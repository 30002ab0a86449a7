"""Sky positions out of the headers of FITS cutouts, where a shard has none."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.fits_cutouts import FITS_MAGIC, fits_position

__all__ = ["fill_positions"]


def fill_positions(table: pa.Table) -> pa.Table:
    """Fill null `ra` and `dec` from the WCS of images that are FITS.

    Parameters
    ----------
    table : pyarrow.Table
        With the columns `image`, `ra` and `dec`; without one of them it comes back as it is.
    """
    if not {"image", "ra", "dec"} <= set(table.column_names):
        return table
    unknown = pc.and_(pc.is_null(table["ra"]), pc.is_null(table["dec"]))
    if not pc.any(unknown).as_py():
        return table
    starts = pc.binary_slice(table["image"], 0, len(FITS_MAGIC))
    rows = pc.indices_nonzero(pc.fill_null(pc.and_(unknown, pc.equal(starts, FITS_MAGIC)), False)).to_pylist()
    if not rows:
        return table
    ra, dec = table["ra"].to_pylist(), table["dec"].to_pylist()
    for row in rows:
        ra[row], dec[row] = fits_position(table["image"][row].as_py()) or (None, None)
    for name, values in (("ra", ra), ("dec", dec)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values, pa.float64()))
    return table
