"""The nine pairs: the best checkpoints of both stages, scored together on the validation galaxies.

Each validation galaxy is decoded once and seen by every stage-1 candidate; a stage-2 candidate sees those
that any stage-1 candidate calls combined. The pairs are then combined from the stored probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import ray.data
import torch

from hiwl_core.backbones import ImageClassifier, create_backbone
from hiwl_core.cascade import combine_stages, routed
from hiwl_core.cutouts import EvalTransform, Preprocessing
from hiwl_core.decoding import decode_pixels
from hiwl_core.device import choose_compute
from hiwl_core.engines import Engine, StageGraph, choose_engine, create_engine, probabilities
from hiwl_core.metrics import accuracy, confusion_matrix, recall
from hiwl_core.recipe import Recipe
from pipeline.cluster import usable_cores, use_ordered_streams
from pipeline.training.cutout_store import CutoutStore
from pipeline.training.run_folder import Candidate

__all__ = ["StageCandidates", "score_pairs"]

ROWS_A_BATCH = 256


@dataclass(frozen=True)
class StageCandidates:
    """The best checkpoints of a stage and what they see of a cutout."""

    backbone: str
    preprocessing: Preprocessing
    candidates: Sequence[Candidate]


def score_pairs(
    recipe: Recipe,
    stages: dict[str, StageCandidates],
    val: CutoutStore,
    frequencies: np.ndarray,
    use_gpu: bool,
) -> pd.DataFrame:
    """Score each pair of a stage-1 and a stage-2 checkpoint.

    Parameters
    ----------
    recipe : Recipe
    stages : dict of StageCandidates
        Under ``"stage1"`` and ``"stage2"``.
    val : CutoutStore
    frequencies : numpy.ndarray of float, shape (M,)
        Shares of the members in the combined class.
    use_gpu : bool
        Whether the scoring actor takes a GPU.

    Returns
    -------
    pandas.DataFrame
        A row a pair, best first: `stage1_epoch`, `stage2_epoch`, `accuracy`, `mean_recall`, `recall_<class>`.
        Of equally accurate pairs the one with the better mean recall comes first.
    """
    rows = [
        pa.table({"row": np.arange(start, min(start + ROWS_A_BATCH, len(val.class_indices)))})
        for start in range(0, len(val.class_indices), ROWS_A_BATCH)
    ]
    use_ordered_streams()
    scored = ray.data.from_blocks(rows).map_batches(
        _CandidateScorer,
        fn_constructor_args=(recipe, stages, val, use_gpu),
        batch_size=None,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
        num_gpus=1 if use_gpu else 0,
        # Its arguments refer to the object store: what is lost there ends the run, which goes on from here.
        max_restarts=0,
    )
    parts = list(scored.iter_batches(batch_size=None, batch_format="numpy"))
    order = np.argsort(np.concatenate([part["row"] for part in parts]))
    stage1, stage2 = (
        np.concatenate([part[stage] for part in parts])[order] for stage in ("stage1", "stage2")
    )
    return _table(recipe, stages, val.class_indices, stage1, stage2, frequencies)


def _table(
    recipe: Recipe,
    stages: dict[str, StageCandidates],
    truth: np.ndarray,
    stage1: np.ndarray,
    stage2: np.ndarray,
    frequencies: np.ndarray,
) -> pd.DataFrame:
    taxonomy = recipe.taxonomy
    table = []
    for i, first in enumerate(stages["stage1"].candidates):
        sent_on = routed(stage1[:, i], taxonomy)
        for j, second in enumerate(stages["stage2"].candidates):
            second_stage = np.where(sent_on[:, None], stage2[:, j], np.nan)
            prediction = combine_stages(stage1[:, i], second_stage, frequencies, taxonomy)
            matrix = confusion_matrix(truth, prediction.class_indices, len(taxonomy.classes))
            recalls = dict(zip(taxonomy.classes, recall(matrix), strict=True))
            table.append(
                {
                    "stage1_epoch": first.epoch,
                    "stage2_epoch": second.epoch,
                    "accuracy": float(accuracy(matrix)),
                    "mean_recall": float(np.nanmean(list(recalls.values()))),
                    **{f"recall_{name}": float(share) for name, share in recalls.items()},
                }
            )
    return pd.DataFrame(table).sort_values(["accuracy", "mean_recall"], ascending=False, ignore_index=True)


class _CandidateScorer:
    """An actor that holds all candidates of both stages."""

    def __init__(
        self, recipe: Recipe, stages: dict[str, StageCandidates], val: CutoutStore, use_gpu: bool
    ) -> None:
        self._val, self._taxonomy = val, recipe.taxonomy
        compute = choose_compute(None if use_gpu else torch.device("cpu"))
        if compute.device.type == "cpu":
            torch.set_num_threads(usable_cores())
        self._transforms = {name: EvalTransform(stage.preprocessing) for name, stage in stages.items()}
        # A candidate sees each galaxy once: exporting it to a faster engine would not pay.
        engine = choose_engine("torch", compute=compute)
        self._networks: dict[str, list[Engine]] = {}
        for name, stage in stages.items():
            self._networks[name] = []
            for candidate in stage.candidates:
                network = partial(_network, stage, candidate, len(recipe.taxonomy.stage_classes(name)))
                graph = StageGraph(network, stage.preprocessing, recipe.views)
                self._networks[name].append(create_engine(graph, engine))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = [decode_pixels(image, self._val.rgb).pixels for image in self._val.images(batch["row"])]
        pixels = self._pixels("stage1", images)
        stage1 = np.stack([probabilities(net, pixels) for net in self._networks["stage1"]], 1)
        wanted = np.any([routed(stage1[:, i], self._taxonomy) for i in range(stage1.shape[1])], axis=0)
        members = len(self._taxonomy.stage2_classes)
        stage2 = np.full((len(images), len(self._networks["stage2"]), members), np.nan, dtype=np.float32)
        if wanted.any():
            pixels = self._pixels(
                "stage2", [image for image, take in zip(images, wanted, strict=True) if take]
            )
            stage2[wanted] = np.stack([probabilities(net, pixels) for net in self._networks["stage2"]], 1)
        return {"row": batch["row"], "stage1": stage1, "stage2": stage2}

    def _pixels(self, stage: str, images: list[np.ndarray]) -> np.ndarray:
        return np.stack([self._transforms[stage](image) for image in images])


def _network(stage: StageCandidates, candidate: Candidate, num_classes: int) -> ImageClassifier:
    network = create_backbone(stage.backbone, num_classes, input_size=stage.preprocessing.input_size)
    network.load_state_dict(candidate.weights())
    return network
