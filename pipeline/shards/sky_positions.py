"""Sky positions of one convention, whichever the survey has: 0 <= ra < 360 and -90 <= dec <= 90 degrees."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["on_the_sky", "unit_vectors", "wrapped"]


def wrapped(ra: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Right ascensions of -180 to 0 degrees, and of 360, as those of 0 to 360; others as they are.

    Parameters
    ----------
    ra : pyarrow array of float64
    """
    west = pc.and_(pc.greater_equal(ra, -180.0), pc.less(ra, 0.0))
    ra = pc.if_else(west, pc.add(ra, 360.0), ra)
    # 360 itself, which is also what becomes of -1e-20.
    return pc.if_else(pc.equal(ra, 360.0), 0.0, ra)


def on_the_sky(table: pa.Table) -> pa.Table:
    """A table with positions of one convention; those that are no place on the sky are null.

    Parameters
    ----------
    table : pyarrow.Table
        With the columns `ra` and `dec`, float64; without one of them it comes back as it is.
    """
    if not {"ra", "dec"} <= set(table.column_names):
        return table
    ra, dec = wrapped(table["ra"]), table["dec"]
    # NaN is in no range; null is not known, and stays.
    inside = [pc.and_(pc.greater_equal(ra, 0.0), pc.less(ra, 360.0)), pc.less_equal(pc.abs(dec), 90.0)]
    kept = pc.and_(*(pc.fill_null(one, True) for one in inside))
    for name, values in (("ra", ra), ("dec", dec)):
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(index), pc.if_else(kept, values, None))
    return table


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Places on the sky, in degrees, as vectors of length 1; shape (N, 3), NaN where one is not known."""
    along, up = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(up) * np.cos(along), np.cos(up) * np.sin(along), np.sin(up)], axis=1)
