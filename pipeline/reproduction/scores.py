"""What the runs of a grid say of each scored galaxy, read from the catalogs that `hiwl evaluate` made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hiwl_core.errors import UserError
from hiwl_core.metrics import confusion_matrix
from hiwl_core.taxonomy import Taxonomy
from pipeline import storage
from pipeline.catalog.catalog_schema import TRUE_LABEL
from pipeline.catalog.manifest import read_plan
from pipeline.catalog.parts import list_parts, read_part
from pipeline.evaluation.galaxies import scored
from pipeline.shards.fingerprints import ends_of

__all__ = ["RunScores", "ScoredPart", "same_galaxies"]


@dataclass(frozen=True)
class RunScores:
    """One run on the scored galaxies.

    Parameters
    ----------
    ids : numpy.ndarray of str, shape (N,)
    truth, predicted : numpy.ndarray of int64, shape (N,)
        Positions in the taxonomy's classes.
    num_classes : int
    """

    ids: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    num_classes: int

    @property
    def right(self) -> np.ndarray:
        """Which galaxies the run got right, bool of shape (N,)."""
        return self.truth == self.predicted

    @property
    def confusion(self) -> np.ndarray:
        """See `hiwl_core.metrics.confusion_matrix`."""
        return confusion_matrix(self.truth, self.predicted, self.num_classes)


@dataclass(frozen=True)
class ScoredPart:
    """The galaxies that runs are scored on; each run keeps what it says of them.

    Parameters
    ----------
    path : str
        Of the labeled shards.
    shards : tuple of str
        The same as files.
    fingerprints : frozenset of str
        Of their content; see `pipeline.shards.fingerprints.fingerprint`.
    on_test : bool
        Whether they are others than those that the checkpoints were selected by.
    """

    path: str
    shards: tuple[str, ...]
    fingerprints: frozenset[str]
    on_test: bool

    @property
    def name(self) -> str:
        """What the part is called."""
        return "test" if self.on_test else "validation"

    def folder(self, run_folder: str) -> str:
        """Where the scores of a run are; those on a test part have a place of their own."""
        return f"{run_folder}/{'test' if self.on_test else 'evaluation'}"

    def is_scored(self, run_folder: str) -> bool:
        """Whether a run was scored on shards with these contents, wherever they were.

        Raises
        ------
        UserError
            If it was scored on others.
        """
        folder = self.folder(run_folder)
        if not storage.exists(f"{folder}/evaluation.json"):
            return False
        there = {ends_of(shard.fingerprint) for shard in read_plan(f"{folder}/catalog").shards.values()}
        if there != self.fingerprints:
            raise UserError(
                f"{folder} has the scores of other galaxies: choose another --out, or remove that folder"
            )
        return True

    def read(self, run_folder: str, taxonomy: Taxonomy) -> RunScores:
        """The scores of a run that has them, in the order of the taxonomy's classes."""
        catalog = f"{self.folder(run_folder)}/catalog"
        wanted = ["object_id", TRUE_LABEL, "label", "status"]
        parts = [read_part(f"{catalog}/{part}", wanted).to_pandas() for part in sorted(list_parts(catalog))]
        # Ids may be integers in one shard and strings in another.
        rows = scored(pd.concat(parts, ignore_index=True))
        return RunScores(
            ids=rows["object_id"].astype(str).to_numpy(),
            truth=taxonomy.encode(rows[TRUE_LABEL].to_numpy()),
            predicted=taxonomy.encode(rows["label"].to_numpy()),
            num_classes=len(taxonomy.classes),
        )


def same_galaxies(runs: list[RunScores]) -> np.ndarray:
    """Which galaxies each of some runs got right.

    Parameters
    ----------
    runs : list of RunScores, length S

    Returns
    -------
    numpy.ndarray of bool, shape (S, N)
        In the order of the first run's galaxies.

    Raises
    ------
    UserError
        If the runs were scored on different galaxies.
    """
    first = runs[0]
    for other in runs[1:]:
        if not (np.array_equal(first.ids, other.ids) and np.array_equal(first.truth, other.truth)):
            raise UserError("the runs were scored on different galaxies: score them all on the same shards")
    return np.stack([run.right for run in runs])
