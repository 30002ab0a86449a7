"""The folder of a training run: what it was started with, what is done, and its tables.

out/run.json                recipe and data of the run, to refuse another one in the same folder
out/sources.json            where the data are and what their columns are called
out/held_out.csv            the galaxies that were held out, where no shards to select by were given
out/stage1/epoch_0007/      checkpoints, kept by Ray Train; of a small training those of a whole stage
out/stage1_epochs.csv       metrics of each epoch
out/stage1.json             marker: the stage is trained; its best checkpoints
out/pairs.csv               the nine pairs on validation; without hierarchy, stage 1's three candidates
out/bundle/                 the model bundle
out/tensorboard/            event files, if asked for; see `pipeline.training.tracking`
out/mlflow.json             which run of MLflow it is, if it is one
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
from safetensors.torch import load

from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe
from hiwl_core.taxonomy import STAGE_NAME
from pipeline import storage
from pipeline.storage.own_folders import check_own

__all__ = ["Candidate", "RunFolder"]

WEIGHTS = "weights.safetensors"
# Checkpoints of a stage.
BEST_KEPT = 3
# What a run writes beside its `run.json`, which it writes first.
OWN_NAMES = ("bundle", "held_out.csv", "pairs.csv", "sources.json")
# Of each stage, after its name.
OWN_ENDINGS = ("", ".json", "_epochs.csv")


@dataclass(frozen=True)
class Candidate:
    """One of a stage's best checkpoints.

    Parameters
    ----------
    epoch : int
        Counted from 1.
    accuracy : float
        The stage's own, on validation.
    path : str
        Folder of the checkpoint.
    """

    epoch: int
    accuracy: float
    path: str

    def weights(self) -> dict[str, Any]:
        """The network's weights."""
        return load(storage.read_bytes(f"{self.path}/{WEIGHTS}"))


class RunFolder:
    """Reads and writes the files of a run; safe to use from any worker."""

    def __init__(self, path: str) -> None:
        self.path = storage.absolute(path).rstrip("/")

    def check(self, description: dict[str, Any]) -> bool:
        """Whether the folder holds this run already, begun or complete.

        Raises
        ------
        UserError
            If it holds a run with another recipe or other data, or files of other making under the names of
            a run's.
        """
        is_begun = storage.exists(f"{self.path}/run.json")
        stages = [key for key in description["recipe"] if STAGE_NAME.fullmatch(key)]
        of_stages = (f"{stage}{ending}" for stage in stages for ending in OWN_ENDINGS)
        check_own(self.path, is_begun, (*OWN_NAMES, *of_stages), "train")
        if not is_begun:
            return False
        begun = json.loads(storage.read_bytes(f"{self.path}/run.json"))
        with contextlib.suppress(ValueError):
            # A key that recipes did not have yet when the run began has its default.
            begun["recipe"] = Recipe.model_validate(begun["recipe"]).to_dict()
        wanted = json.loads(json.dumps(description))
        differences = _differences(begun, wanted, "")
        if differences:
            raise UserError(
                f"{self.path} holds a run with another {differences[0]}: choose another --out, or remove it"
            )
        return True

    def claim(
        self, description: dict[str, Any], sources: dict[str, Any], held_out: pd.DataFrame | None = None
    ) -> None:
        """Take the folder for a run.

        Parameters
        ----------
        description : dict
            What decides its result.
        sources : dict
            Where its data are: the same data may be elsewhere when it goes on.
        held_out : pandas.DataFrame, optional
            The galaxies that it holds out by itself.
        """
        storage.write_bytes(f"{self.path}/run.json", _json_bytes(description))
        storage.write_bytes(f"{self.path}/sources.json", _json_bytes(sources))
        if held_out is not None:
            self.write_table("held_out.csv", held_out)

    @property
    def bundle(self) -> str:
        """Folder of the model bundle."""
        return f"{self.path}/bundle"

    def is_bundled(self) -> bool:
        """Whether the run is complete."""
        return storage.exists(f"{self.bundle}/bundle.json")

    def finish_stage(self, stage: str, candidates: list[Candidate]) -> None:
        """Mark a stage as trained."""
        best = [
            {"epoch": c.epoch, "accuracy": c.accuracy, "checkpoint": c.path.rsplit("/", 1)[-1]}
            for c in candidates
        ]
        storage.write_bytes(f"{self.path}/{stage}.json", _json_bytes({"best": best}))

    def finished_stage(self, stage: str) -> list[Candidate] | None:
        """The best checkpoints of a trained stage, best first; None if it is not trained."""
        if not storage.exists(f"{self.path}/{stage}.json"):
            return None
        marker = json.loads(storage.read_bytes(f"{self.path}/{stage}.json"))
        return [
            Candidate(best["epoch"], best["accuracy"], f"{self.path}/{stage}/{best['checkpoint']}")
            for best in marker["best"]
        ]

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write one of the run's tables, such as ``pairs.csv``."""
        storage.write_bytes(f"{self.path}/{name}", table.to_csv(index=False, float_format="%.6g").encode())


def _json_bytes(data: Any) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _differences(old: Any, new: Any, place: str) -> list[str]:
    """Where two descriptions differ, as dotted paths with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            found
            for key in keys
            for found in _differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
        ]
    return [] if old == new else [f"{place} ({old!r}, now {new!r})"]
