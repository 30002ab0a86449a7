"""Crude galaxies that a network tells apart after a few steps: ellipses and a bar, drawn in milliseconds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("CRS", "IBS", "CSS", "EO", "SPI")
SIZE = 80
# Axis ratio, and color: what tells one drawing from another.
LOOKS = {
    "CRS": (1.0, (255, 220, 160)),
    "IBS": (0.6, (255, 200, 140)),
    "CSS": (0.25, (255, 170, 110)),
    "EO": (0.12, (150, 180, 255)),
    "SPI": (0.85, (120, 150, 255)),
}


def draw_galaxy(label: str, seed: int, size: int = SIZE) -> bytes:
    """A JPEG of a smooth blob of its class's axis ratio and color, turned at random, with noise."""
    rng = np.random.default_rng([seed, CLASSES.index(label)])
    ratio, color = LOOKS[label]
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    along, across = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    profile = np.exp(-np.hypot(along, across / ratio) / (0.12 * size))
    pixels = profile[..., None] * np.array(color) + rng.normal(8, 4, (size, size, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_labeled_shard(path: Path, per_class: dict[str, int], first_id: int = 0, size: int = SIZE) -> Path:
    """A cutout shard with so many drawings of each class, shuffled; ids count from `first_id`."""
    labels = [name for name, count in per_class.items() for _ in range(count)]
    np.random.default_rng(first_id).shuffle(labels)
    ids = range(first_id, first_id + len(labels))
    table = pa.table(
        {
            "object_id": pa.array(ids, pa.int64()),
            "ra": pa.array([10.0 + 1e-3 * i for i in ids], pa.float64()),
            "dec": pa.array([-5.0] * len(labels), pa.float64()),
            "image": pa.array(
                [draw_galaxy(label, i, size) for label, i in zip(labels, ids, strict=True)], pa.binary()
            ),
            "pixel_scale": pa.array([0.4] * len(labels), pa.float32()),
            "label": pa.array(labels, pa.string()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=256)
    return path
