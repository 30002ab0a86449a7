"""A catalog with its shards, whose images tell which galaxy they are of; without a model or Ray."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.catalog.manifest import CatalogPlan, PlannedShard, claim_catalog
from pipeline.shards.cutout_shards import Columns
from tests.catalogs import MODEL_ID, write_catalog

__all__ = ["FIRST_ID", "ROWS", "Sky", "color", "make_sky", "picture"]

FIRST_ID = 1237648720693755918
ROWS = 300


def picture(number: int) -> bytes:
    """A square of a color that says which galaxy it is of."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), color(number)).save(buffer, "PNG")
    return buffer.getvalue()


def color(number: int) -> tuple[int, int, int]:
    return (number * 37 % 256, number * 91 % 256, number * 151 % 256)


@dataclass(frozen=True)
class Sky:
    """A catalog with its shards, and its rows."""

    catalog: Path
    shards: Path
    rows: list[dict[str, Any]]


def make_sky(folder: Path, draw: Callable[[int, dict[str, Any]], bytes] | None = None, **rows_of: Any) -> Sky:
    """Two shards and their parts: ids under a name of the survey's, images as Hugging Face has them."""
    catalog, shards = folder / "catalog", folder / "shards"
    settings = {"columns": asdict(Columns(id="objid", image="picture"))}
    rows = write_catalog(catalog, 2, ROWS, settings=settings, **rows_of).to_pylist()
    shards.mkdir()
    plan: dict[str, PlannedShard] = {}
    for index, part in enumerate(sorted(catalog.glob("*.parquet"))):
        numbers = range(index * ROWS, (index + 1) * ROWS)
        drawn = [draw(n, rows[n]) if draw else picture(n) for n in numbers]
        images = [{"bytes": one, "path": None} for one in drawn]
        ids = [rows[n]["object_id"] for n in numbers]
        table = {"objid": ids, "picture": images, "pixel_scale": [0.4] * ROWS}
        pq.write_table(pa.table(table), shards / part.name, row_group_size=64)
        plan[part.name] = PlannedShard(str(shards / part.name), part.name, ROWS, 1, "mark", "fingerprint")
    # As `classify` does, which writes the plan before the parts.
    hold = folder / "hold"
    claim_catalog(str(hold), CatalogPlan(MODEL_ID, settings, plan), is_new=True)
    for note in hold.iterdir():
        note.rename(catalog / note.name)
    return Sky(catalog, shards, rows)
