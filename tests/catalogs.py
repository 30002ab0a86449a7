"""Catalogs of made-up galaxies, part by part as ``hiwl classify`` writes them, without a model or Ray."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hiwl_core.conformal import set_names
from hiwl_core.flags import BORDER, UNLIKE
from hiwl_core.taxonomy import GALAXY_ZOO, probability_column
from pipeline.catalog.catalog_schema import catalog_schema
from pipeline.catalog.parts import PartRecord, encode_part

__all__ = ["MODEL_ID", "catalog_rows", "write_catalog"]

MODEL_ID = "0123456789abcdef"
FREQUENCIES = (0.29, 0.28, 0.02, 0.14, 0.27)


def catalog_rows(
    count: int,
    seed: int = 0,
    first_id: int = 1237648720693755918,
    without_position: int = 0,
    string_ids: bool = False,
) -> pa.Table:
    """Rows of a catalog: random galaxies on the footprint of the SDSS, a few of them undecodable.

    Parameters
    ----------
    count : int
        Rows, about one in a hundred with the status ``undecodable``.
    seed : int
    first_id : int
        The ids count up from it.
    without_position : int
        So many of the rows, evenly spread, have a null, NaN or impossible position.
    string_ids : bool
        Ids as text.
    """
    random = np.random.default_rng(seed)
    ra = random.uniform(110, 260, count)
    dec = np.degrees(np.arcsin(random.uniform(0, np.sin(np.radians(65)), count)))
    ra_mask = np.zeros(count, dtype=bool)
    for turn, row in enumerate(np.linspace(0, count - 1, without_position).astype(int)):
        if turn % 4 == 0:
            ra_mask[row] = True
        else:
            ra[row], dec[row] = [(np.nan, 10.0), (20.0, 91.0), (np.inf, 0.0)][turn % 4 - 1]

    # Confident predictions: most of the probability on one class.
    classes = random.choice(5, count, p=FREQUENCIES)
    probabilities = random.dirichlet(np.full(5, 0.3), count) * 0.4
    probabilities[np.arange(count), classes] += 0.6
    labels = probabilities.argmax(axis=1)
    combined = probabilities[:, 2] + probabilities[:, 3]
    broken = random.random(count) < 0.01
    first_stage = broken | ~np.isin(labels, (2, 3))
    names = np.array(GALAXY_ZOO.classes, dtype=object)[labels]
    sets = set_names(probabilities > 0.1, GALAXY_ZOO.classes)
    views = np.where(random.random(count) < 0.2, 8, 1)
    scores = random.gamma(2, 1, count)
    flags = np.where(scores > 6, UNLIKE, 0) | np.where(random.random(count) < 0.02, BORDER, 0)

    ids = pa.array(np.arange(first_id, first_id + count, dtype=np.int64))
    schema = catalog_schema(GALAXY_ZOO, pa.string() if string_ids else pa.int64())
    columns = {
        "object_id": ids.cast(schema.field("object_id").type),
        "ra": pa.array(ra, mask=ra_mask),
        "dec": pa.array(dec),
        "label": pa.array(names, pa.string(), mask=broken),
        "confidence": pa.array(probabilities.max(axis=1).astype(np.float32), mask=broken),
        **{
            probability_column(name): pa.array(probabilities[:, index].astype(np.float32), mask=broken)
            for index, name in enumerate(GALAXY_ZOO.classes)
        },
        "label_map": pa.array(names, pa.string(), mask=broken),
        "class_set": pa.array(np.array(sets, dtype=object), pa.string(), mask=broken),
        "p_stage1_combined": pa.array(combined.astype(np.float32), mask=broken),
        "p_stage2_css": pa.array(
            (probabilities[:, 2] / np.maximum(combined, 1e-9)).astype(np.float32), mask=first_stage
        ),
        "views_used": pa.array(views, pa.int8(), mask=broken),
        "ood_score": pa.array(scores.astype(np.float32), mask=broken),
        "flags": pa.array(flags, pa.int32(), mask=broken),
        "status": pa.array(np.where(broken, "undecodable", "ok"), pa.string()),
        "model_id": pa.array([MODEL_ID] * count, pa.string()),
    }
    return pa.table(columns).cast(schema)


def write_catalog(
    folder: Path,
    parts: int,
    rows_per_part: int,
    seed: int = 0,
    change: Callable[[pa.Table, int], pa.Table] | None = None,
    without_position: int = 0,
    string_ids: bool = False,
    settings: dict[str, Any] | None = None,
) -> pa.Table:
    """Write the parts ``sky-00000-of-<parts>.parquet`` of a catalog.

    Parameters
    ----------
    folder : Path
    parts, rows_per_part : int
    seed : int
    change : callable, optional
        Takes a part's rows and its number and gives the rows to write: other columns, other positions.
    without_position : int
        Rows a part without a usable position.
    string_ids : bool
    settings : dict, optional
        Of the catalog, as its parts say them.

    Returns
    -------
    pyarrow.Table
        All rows, in the order of the parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables = []
    for index in range(parts):
        rows = catalog_rows(
            rows_per_part,
            seed=seed * 1000 + index,
            first_id=1237648720693755918 + index * rows_per_part,
            without_position=without_position,
            string_ids=string_ids,
        )
        if change is not None:
            rows = change(rows, index)
        name = f"sky-{index:05d}-of-{parts:05d}.parquet"
        record = PartRecord(name, f"mark-{seed}-{index}", MODEL_ID, settings or {"stage2": "routed"})
        (folder / name).write_bytes(encode_part(rows, record))
        tables.append(rows)
    return pa.concat_tables(tables, promote_options="default").replace_schema_metadata(None)
