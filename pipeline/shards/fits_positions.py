"""Sky positions out of the headers of FITS cutouts, where a shard has none."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.compressed import PACKED_MAGICS
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
    may_be = pc.equal(pc.binary_slice(table["image"], 0, len(FITS_MAGIC)), FITS_MAGIC)
    for magic in PACKED_MAGICS:
        may_be = pc.or_(may_be, pc.equal(pc.binary_slice(table["image"], 0, len(magic)), magic))
    rows = pc.indices_nonzero(pc.fill_null(pc.and_(unknown, may_be), False)).to_pylist()
    if not rows:
        return table
    ra, dec = table["ra"].to_pylist(), table["dec"].to_pylist()
    for row in rows:
        ra[row], dec[row] = fits_position(table["image"][row].as_py()) or (None, None)
    for name, values in (("ra", ra), ("dec", dec)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pa.array(values, pa.float64()))
    return table
