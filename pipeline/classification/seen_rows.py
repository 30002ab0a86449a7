"""Rows whose images were read where the shard was: beside each image, what the networks see of it.

A FITS file or an image that is resampled takes milliseconds, a JPEG two tenths of one, and its pixels are
thirty times its bytes. So the former are decoded before they cross the network, plain JPEGs and PNGs after.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray

from hiwl_core.decoding import Cutout
from hiwl_core.image_formats import SIGNATURES
from pipeline.shards.cutout_shards import ROW_GROUP_ROWS
from pipeline.shards.wanted_scale import WantedScale

if TYPE_CHECKING:
    # They bring PyTorch.
    from hiwl_core.cascade_stream import Image
    from hiwl_core.cutout_reader import CutoutReader
    from hiwl_core.cutouts import ReadCutout

__all__ = ["SEEN_COLUMN", "images_of", "with_seen"]

SEEN_COLUMN = "_seen"
# Of a group; the images for which there is no room are decoded by the actor.
MOST_SEEN_BYTES = 256 * 2**20
SEEN = pa.struct(
    [
        ("status", pa.string()),
        ("zoom", pa.float64()),
        ("unobserved", pa.float64()),
        # One for each preprocessing: pixels on a side, and all of them one after the other.
        ("sides", pa.list_(pa.int32())),
        ("pixels", pa.large_binary()),
    ]
)


def with_seen(group: pa.Table, reader: Any, scale: WantedScale) -> pa.Table:
    """A group of shards as it was read, with what is seen of the images that are dear to decode.

    Parameters
    ----------
    group : pyarrow.Table
        From `pipeline.shards.shard_groups.read_group`.
    reader : ObjectRef
        Of a `hiwl_core.cutout_reader.CutoutReader`: who has nothing to decode does without it.
    scale : WantedScale
    """
    if "image" not in group.column_names:
        return group
    try:
        return group.append_column(SEEN_COLUMN, _seen(group, cache(partial(ray.get, reader)), scale))
    # It would end the work on all shards. The actor meets it again, and says what is wrong with which.
    except Exception:
        return group


def _seen(group: pa.Table, reader: Callable[[], CutoutReader], scale: WantedScale) -> pa.ChunkedArray:
    chunks, size = [], 0
    for start in range(0, group.num_rows, ROW_GROUP_ROWS):
        seen: list[dict[str, Any] | None] = []
        for image in scale.cutouts(group.slice(start, ROW_GROUP_ROWS)):
            one = _facts(reader().read(image)) if size < MOST_SEEN_BYTES and _is_dear(image) else None
            size += len(one.get("pixels", b"")) if one else 0
            seen.append(one)
        chunks.append(pa.array(seen, SEEN))
    return pa.chunked_array(chunks, SEEN)


def _is_dear(image: bytes | Cutout | None) -> bool:
    encoded = image.image if isinstance(image, Cutout) else image
    return encoded is not None and (isinstance(image, Cutout) or not encoded.startswith(SIGNATURES))


def _facts(read: ReadCutout) -> dict[str, Any]:
    facts = {"status": read.status, "zoom": read.zoom, "unobserved": read.unobserved}
    if read.pixels is None:
        return facts
    return facts | {
        "sides": [len(one) for one in read.pixels],
        "pixels": b"".join(one.tobytes() for one in read.pixels),
    }


def images_of(table: pa.Table, scale: WantedScale) -> list[Image]:
    """The images of a table: as `WantedScale.cutouts` has them, or as they were seen."""
    if SEEN_COLUMN not in table.column_names:
        return [*scale.cutouts(table)]
    seen = table[SEEN_COLUMN]
    # An encoded FITS image is megabytes to copy, for nothing where what is seen of it is there.
    others = iter(scale.cutouts(table.filter(seen.is_null())))
    return [_read(one) if one.is_valid else next(others) for one in seen]


def _read(seen: pa.StructScalar) -> Image:
    from hiwl_core.cutouts import ReadCutout

    facts = [seen[name].as_py() for name in ("zoom", "unobserved")]
    if not seen["pixels"].is_valid:
        return ReadCutout(seen["status"].as_py(), None, *facts)
    every, sides = np.frombuffer(seen["pixels"].as_buffer(), np.uint8), seen["sides"].as_py()
    ends = np.cumsum([3 * side * side for side in sides])[:-1]
    pixels = [one.reshape(side, side, 3) for one, side in zip(np.split(every, ends), sides, strict=True)]
    return ReadCutout(seen["status"].as_py(), tuple(pixels), *facts)
