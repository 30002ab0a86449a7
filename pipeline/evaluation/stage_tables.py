"""The scores of each stage alone, from the labels of the whole."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hiwl_core.metrics import class_table, confusion_matrix
from hiwl_core.taxonomy import FIRST_STAGE, Taxonomy

__all__ = ["stage_tables", "stage_title"]


def stage_tables(truth: np.ndarray, predicted: np.ndarray, taxonomy: Taxonomy) -> pd.DataFrame:
    """Tables of the stages, one below the other: a later one on its own classes that were routed right.

    Parameters
    ----------
    truth, predicted : numpy.ndarray of int64, shape (N,)
        Positions in the taxonomy's classes.
    taxonomy : Taxonomy

    Returns
    -------
    pandas.DataFrame
        See `hiwl_core.metrics.class_table`, with a first column `stage`.
    """
    tables = []
    for stage in taxonomy.stages:
        classes = taxonomy.stage_classes(stage)
        true, found = taxonomy.stage_targets(stage, truth), taxonomy.stage_targets(stage, predicted)
        right_way = (true >= 0) & (found >= 0)
        if right_way.any():
            matrix = confusion_matrix(true[right_way], found[right_way], len(classes))
            tables.append(class_table(matrix, classes).assign(stage=stage))
    table = pd.concat(tables, ignore_index=True)
    return table[["stage", *[name for name in table.columns if name != "stage"]]]


def stage_title(stage: str) -> str:
    """What a stage's table is of."""
    alone = f"{stage.replace('stage', 'Stage ')} alone"
    return alone if stage == FIRST_STAGE else f"{alone}, on the galaxies that were routed right"
