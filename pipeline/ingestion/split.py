"""Which of the labeled objects are to train on, to select by and to test on, where nobody has said so.

Each class is split by itself, in an order that the seed and the ids alone decide, so that it is the same on
any machine. Objects that belong together, as images of one galaxy or fields of one night, stay together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hiwl_core.errors import UserError

__all__ = ["SKY", "Split", "sky_cells"]

PARTS = ("train", "val", "test")
SKY = "sky"
"""What objects are grouped by that lie in one cell of the sky."""
# HEALPix cells of this order are 0.92 degrees wide.
SKY_ORDER = 6


@dataclass(frozen=True)
class Split:
    """A split into parts.

    Parameters
    ----------
    shares : tuple of int, length 2 or 3
        In what proportion: of ``train``, ``val`` and, if there is a third, ``test``.
    seed : int
    group_by : str, optional
        A column of the labels table whose equal values stay together, or `SKY`.
    """

    shares: tuple[int, ...]
    seed: int = 0
    group_by: str | None = None

    @classmethod
    def parse(cls, text: str, seed: int = 0, group_by: str | None = None) -> Split:
        """A split from words such as ``8:1:1`` or ``9:1``.

        Raises
        ------
        UserError
            If it is none.
        """
        matched = re.fullmatch(r"\d{1,6}(:\d{1,6}){1,2}", text)
        shares = tuple(map(int, text.split(":"))) if matched else (0,)
        if not all(shares):
            raise UserError(
                f"--split {text}: write shares such as 8:1:1 (train, val, test) or 9:1 (train, val)"
            )
        return cls(shares, seed, group_by)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return ":".join(map(str, self.shares))

    def describe(self) -> dict[str, object]:
        """Plain data, by the words that a user knows the options by."""
        return {"--split": str(self), "--seed": self.seed, "--group-by": self.group_by}

    def query(self, table: str) -> str:
        """SQL for the part of each labeled object.

        Parameters
        ----------
        table : str
            With ``object_id``, ``label`` and ``together``, which is null for who is alone.

        Returns
        -------
        str
            A query for ``object_id`` and ``series``. Groups in the order of their digests, the classes each
            by itself, are counted out until a part has its share; one that spans classes goes with the first
            of them.
        """
        ends = np.cumsum(self.shares) / sum(self.shares)
        # A group belongs where its middle is, so that its size favors no part.
        middle = "(before + size / 2) / whole"
        cases = " ".join(
            f"WHEN {middle} < {end!r} THEN '{part}'" for part, end in zip(PARTS, ends.tolist(), strict=False)
        )
        last = PARTS[len(self.shares) - 1]
        digest = f"md5('{self.seed}:' || key)"
        return f"""
            WITH labeled AS (
                SELECT object_id, label, coalesce('in ' || together, 'is ' || object_id) AS key
                FROM {table} WHERE label IS NOT NULL
            ), groups AS (
                SELECT key, min(label) AS class, count(*) AS size FROM labeled GROUP BY key
            ), counted AS (
                SELECT key, size, sum(size) OVER (PARTITION BY class) AS whole,
                    sum(size) OVER (
                        PARTITION BY class ORDER BY {digest}, key ROWS UNBOUNDED PRECEDING
                    ) - size AS before
                FROM groups
            )
            SELECT object_id, CASE {cases} ELSE '{last}' END AS series FROM labeled JOIN counted USING (key)
        """


def sky_cells(ra: pa.Array, dec: pa.Array) -> pa.Array:
    """The cell of the sky of each position, as text; null where there is none.

    Parameters
    ----------
    ra, dec : pyarrow.Array of float
        Degrees.
    """
    # Here, since astropy comes with it, which ingests that split by nothing of the sky do without.
    import cdshealpix
    from astropy.coordinates import Latitude, Longitude

    longitude, latitude = (np.asarray(column.to_numpy(zero_copy_only=False), float) for column in (ra, dec))
    placed = np.isfinite(longitude) & np.isfinite(latitude) & (np.abs(latitude) <= 90)
    cells = np.zeros(len(longitude), np.int64)
    cells[placed] = cdshealpix.lonlat_to_healpix(
        Longitude(longitude[placed], "deg"), Latitude(latitude[placed], "deg"), SKY_ORDER
    )
    return pa.array([str(cell) for cell in cells.tolist()], pa.string(), mask=~placed)
