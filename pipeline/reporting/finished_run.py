"""A training run that is complete, read back from its folder."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hiwl_core.bundle import ModelBundle
from hiwl_core.errors import UserError, words_of
from hiwl_core.recipe import Recipe
from hiwl_core.taxonomy import Taxonomy
from pipeline import storage
from pipeline.classification.shard_classifier import read_bundle
from pipeline.shards.cutout_shards import Columns
from pipeline.training.held_out import HeldOut
from pipeline.training.run_folder import Candidate, RunFolder

__all__ = ["FinishedRun", "read_run"]


@dataclass(frozen=True)
class FinishedRun:
    """What a run left.

    Parameters
    ----------
    path : str
        Of its folder.
    bundle : ModelBundle
    recipe : Recipe
    fingerprints : dict of list of str
        Of the shards it was trained on and selected by, under ``"train"`` and ``"val"``.
    epochs : dict of pandas.DataFrame
        For each stage a row an epoch.
    kept : dict of list of Candidate
        For each stage the checkpoints that were candidates, best first.
    pairs : pandas.DataFrame
        Candidates of both stages together, or of the only one, best first.
    sources : dict
        Where its data were; empty if the run did not record it.
    files : dict of bytes
        Its tables as they are in the folder.
    """

    path: str
    bundle: ModelBundle
    recipe: Recipe
    fingerprints: dict[str, list[str]]
    epochs: dict[str, pd.DataFrame]
    kept: dict[str, list[Candidate]]
    pairs: pd.DataFrame
    sources: dict[str, Any]
    files: dict[str, bytes]

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def taxonomy(self) -> Taxonomy:
        """The model's."""
        return self.bundle.taxonomy

    @property
    def chosen(self) -> dict[str, int]:
        """For each stage the epoch that is in the bundle."""
        validation = self.bundle.metrics["validation"]
        return {stage: int(validation[f"{stage}_epoch"]) for stage in self.epochs}

    @property
    def held_out(self) -> HeldOut | None:
        """What was held out of the training's shards to select by, if it was."""
        held_out = self.bundle.provenance.get("held_out")
        return HeldOut.from_description(held_out) if held_out else None

    @property
    def seconds(self) -> float:
        """That the epochs took, of all starts of the run together."""
        return float(sum(table["seconds"].sum() for table in self.epochs.values()))

    @property
    def class_counts(self) -> dict[str, int]:
        """Galaxies of each class that it was trained on."""
        counts: dict[str, int] = self.bundle.provenance["class_counts"]
        return counts

    @property
    def rarest_class(self) -> str:
        """The class with the fewest of them."""
        return min(self.class_counts, key=lambda name: self.class_counts[name])

    def columns(self) -> Columns:
        """What the columns of its shards are called; the contract's names if it did not record them."""
        return Columns(**self.sources.get("columns", {}))


def read_run(path: str) -> FinishedRun:
    """Read a run that is complete.

    Parameters
    ----------
    path : str
        Folder that ``hiwl train`` made.

    Raises
    ------
    UserError
        If it is no run, or one that is not complete.
    """
    folder = RunFolder(path)
    if not storage.exists(f"{folder.path}/run.json"):
        raise UserError(f"no training run at {path!r}: run.json is missing; give the --out of a `hiwl train`")
    description = json.loads(storage.read_bytes(f"{folder.path}/run.json"))
    try:
        recipe = Recipe.model_validate(description["recipe"])
    except ValueError as error:
        words = words_of(error)
        raise UserError(
            f"{folder.path}/run.json has a recipe that this HIWL does not read: {words}"
        ) from None
    if not folder.is_bundled():
        raise UserError(f"the run {path!r} is not complete: {_missing(folder, recipe)}; {HOW_TO_GO_ON}")
    stages = tuple(recipe.stages)
    files = {
        name: storage.read_bytes(f"{folder.path}/{name}")
        for name in (*(f"{stage}_epochs.csv" for stage in stages), "pairs.csv")
    }
    sources = f"{folder.path}/sources.json"
    return FinishedRun(
        path=folder.path,
        bundle=read_bundle(folder.bundle),
        recipe=recipe,
        fingerprints={part: description[part] for part in ("train", "val")},
        epochs={stage: _table(files[f"{stage}_epochs.csv"]) for stage in stages},
        kept={stage: folder.finished_stage(stage) or [] for stage in stages},
        pairs=_table(files["pairs.csv"]),
        sources=json.loads(storage.read_bytes(sources)) if storage.exists(sources) else {},
        files=files,
    )


HOW_TO_GO_ON = "start the same `hiwl train` again, which goes on where it was, and report then"


def _missing(folder: RunFolder, recipe: Recipe) -> str:
    for stage in recipe.stages:
        if folder.finished_stage(stage) is None:
            return f"{stage} is not trained"
    return "its model is not bundled"


def _table(content: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content))
