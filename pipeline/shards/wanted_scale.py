"""The pixel scale at which the model is to see each galaxy, as a user asks for it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from hiwl_core.decoding import Cutout
from hiwl_core.errors import UserError

__all__ = ["AS_IT_IS", "OWN", "WANTED", "WantedScale", "kept_scale"]


@dataclass(frozen=True)
class WantedScale:
    """One scale for all galaxies, or a column of the shards that fixes each galaxy's own.

    Parameters
    ----------
    value : float, optional
        arcsec/pixel.
    column : str, optional
        A column of numbers, such as a radius in arcsec.
    factor : float
        From the column to arcsec/pixel: Galaxy Zoo's images have 0.02 x petroR90_r.

    Raises
    ------
    UserError
        If both are given, or a number is not positive.
    """

    value: float | None = None
    column: str | None = None
    factor: float = 1.0

    def __post_init__(self) -> None:
        if self.value is not None and self.column is not None:
            raise UserError(
                f"--scale {self.value} and --scale-column {self.column}: one scale for all, or one for each"
            )
        if self.factor != 1.0 and self.column is None:
            raise UserError(f"--scale-factor {self.factor}: name its column with --scale-column")
        for option, number in (("--scale", self.value), ("--scale-factor", self.factor)):
            if number is not None and not (math.isfinite(number) and number > 0):
                raise UserError(f"{option} {number}: a positive number is wanted")

    @property
    def asked(self) -> bool:
        """Whether anything is to be resampled."""
        return self.value is not None or self.column is not None

    @property
    def wanted(self) -> list[str]:
        """Contract columns that `cutouts` needs beside the image."""
        return ["pixel_scale"] if self.asked else []

    @property
    def carry(self) -> list[str]:
        """Further columns that `cutouts` needs."""
        return [] if self.column is None else [self.column]

    def cutouts(self, table: pa.Table) -> list[bytes | Cutout | None]:
        """The images of a table, each with its own scale and the wanted one.

        Parameters
        ----------
        table : pyarrow.Table
            From `pipeline.shards.cutout_shards.iter_rows`, with `image` and the columns `wanted` and `carry`.

        Returns
        -------
        list of bytes, Cutout or None
            The plain images if no scale is asked for. A wanted scale that is null or no number is NaN, of
            which the status ``no_scale`` comes.
        """
        images: list[bytes | None] = table["image"].to_pylist()
        if not self.asked:
            return [*images]
        own = table["pixel_scale"].to_pylist()
        if self.column is None:
            wanted = [self.value] * len(images)
        else:
            wanted = [self.factor * _number(size) for size in table[self.column].to_pylist()]
        return [
            # An own scale of NaN is an unknown one, for which a FITS header may stand in.
            Cutout(image, None if scale is None or math.isnan(scale) else scale, target)
            for image, scale, target in zip(images, own, wanted, strict=True)
        ]

    def to_dict(self) -> dict[str, Any] | None:
        """What a model bundle keeps of it; None if nothing was asked for."""
        return asdict(self) if self.asked else None

    def of_rows(self, table: pa.Table) -> dict[str, pa.Array]:
        """The columns that `cutouts` needs beside the image, by names of their own, for blocks of cutouts."""
        if not self.asked:
            return {}
        cutouts = [one for one in self.cutouts(table) if isinstance(one, Cutout)]
        return {
            OWN: pa.array([one.pixel_scale for one in cutouts], pa.float64()),
            WANTED: pa.array([one.wanted_scale for one in cutouts], pa.float64()),
        }


AS_IT_IS = WantedScale()
OWN, WANTED = "_own_scale", "_wanted_scale"


def kept_scale(trained: dict[str, Any] | None, asked: WantedScale) -> WantedScale:
    """The scale at which a model is to see galaxies: what is asked for, or else what it was trained at.

    Parameters
    ----------
    trained : dict or None
        `hiwl_core.bundle.ModelBundle.scale`.
    asked : WantedScale
    """
    return asked if asked.asked or trained is None else WantedScale(**trained)


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
