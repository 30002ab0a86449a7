"""The pixels of one tile, from all its files, a window at a time."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import numpy as np

from hiwl_core.errors import words_of
from hiwl_core.statuses import UNDECODABLE, UnreadableCutout
from pipeline import storage
from pipeline.cutouts.tiles import PixelSource, Tile, opened

__all__ = ["TilePixels"]


class TilePixels:
    """A tile's pixels for the length of a ``with`` block; each of its files is read once at most.

    Of a local file that is not compressed only the pages are read in which there are wanted pixels.

    Parameters
    ----------
    tile : Tile
    bands : tuple of str

    Raises
    ------
    UnreadableCutout
        On use, if a file is damaged.
    """

    def __init__(self, tile: Tile, bands: tuple[str, ...]) -> None:
        self.tile, self._bands = tile, bands
        self._files: dict[str, Any] = {}
        self._pixels: dict[PixelSource, np.ndarray] = {}
        self._stack = ExitStack()

    def __enter__(self) -> TilePixels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pixels.clear()
        self._files.clear()
        self._stack.close()

    def window(self, left: int, bottom: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
        """A part of the tile, which may go beyond it.

        Returns
        -------
        planes : numpy.ndarray of float32, shape (band, height, width)
            NaN where the tile has no pixel, or one that was not observed.
        bad : numpy.ndarray of bool, shape (height, width)
            What its masks call bad.
        """
        planes = np.full((len(self._bands), height, width), np.nan, np.float32)
        bad = np.zeros((height, width), bool)
        rows, columns = self.tile.place.shape
        low, high = max(bottom, 0), min(bottom + height, rows)
        start, end = max(left, 0), min(left + width, columns)
        if low >= high or start >= end:
            return planes, bad
        there = (slice(low - bottom, high - bottom), slice(start - left, end - left))
        here = (slice(low, high), slice(start, end))
        for number, band in enumerate(self._bands):
            if band in self.tile.images:
                # What is beyond single precision is no flux.
                with np.errstate(over="ignore", invalid="ignore"):
                    planes[number][there] = self._of(self.tile.images[band])[here]
        for of_band, source in self.tile.weights:
            with np.errstate(invalid="ignore"):
                nothing = ~(self._of(source)[here] > 0)
            for number, band in enumerate(self._bands):
                if of_band in (None, band):
                    planes[number][there][nothing] = np.nan
        for bits, source in self.tile.masks:
            flags = self._of(source)[here]
            bad[there] |= (flags != 0) if bits == -1 else (flags.astype(np.int64) & bits) != 0
        planes[~np.isfinite(planes)] = np.nan
        return planes, bad

    def _of(self, source: PixelSource) -> np.ndarray:
        if source not in self._pixels:
            if source.path not in self._files:
                self._files[source.path] = self._stack.enter_context(opened(source.path))
            try:
                with np.errstate(all="ignore"):
                    pixels = np.asanyarray(self._files[source.path][source.extension].data)
                pixels = pixels.reshape(-1, *self.tile.place.shape)[source.plane or 0]
            except storage.StoreError:
                raise
            # astropy raises many kinds for broken files.
            except Exception as error:
                words = f"{source.path}: {words_of(error)}"
                raise UnreadableCutout(UNDECODABLE, words) from None
            self._pixels[source] = pixels
        return self._pixels[source]
