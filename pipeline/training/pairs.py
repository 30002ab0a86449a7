"""The nine pairs: the best checkpoints of both stages, scored together on the validation galaxies.

Each validation galaxy is decoded once and seen by every stage-1 candidate; a candidate of a later stage sees
those that any candidate before it sends there. The pairs are then combined from the stored probabilities.
Where there are more stages, combinations of their candidates take the place of the pairs; where there is one,
its candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from hiwl_core.backbones import ImageClassifier, create_backbone
from hiwl_core.calibration import cross_fitted, sampling_log_ratios
from hiwl_core.cascade import combine_stages, route, routed
from hiwl_core.cutouts import EvalTransform, Preprocessing, seen_pixels
from hiwl_core.decoding import Cutout, decode_pixels
from hiwl_core.device import granted_compute
from hiwl_core.engines import Engine, StageGraph, choose_engine, create_engine, probabilities
from hiwl_core.metrics import accuracy, confusion_matrix, recall
from hiwl_core.recipe import Recipe
from hiwl_core.recipe_sections import RgbSettings
from hiwl_core.reliability import negative_log_likelihood
from hiwl_core.taxonomy import FIRST_STAGE
from hiwl_core.views import MOST_VIEWS
from pipeline.cluster import ordered_streams
from pipeline.cores import usable_cores
from pipeline.retry_policy import SCORER_RESTARTS
from pipeline.training.cutout_blocks import CutoutBlocks
from pipeline.training.cutout_store import CutoutStore
from pipeline.training.run_folder import Candidate

__all__ = ["StageCandidates", "score_pairs"]

ROWS_A_BATCH = 256
FOLDS = 5
# Of more, as of five stages, each stage's candidates are scored in turn beside the best of the others.
MOST_COMBINATIONS = 100


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
    frequencies: Mapping[str, np.ndarray],
    use_gpu: bool,
    counts: Mapping[str, int],
) -> pd.DataFrame:
    """Score each pair of a stage-1 and a stage-2 checkpoint, or whatever the stages' checkpoints combine to.

    Parameters
    ----------
    recipe : Recipe
    stages : dict of StageCandidates
        Under the names of the recipe's stages, in order.
    val : CutoutStore
    frequencies : mapping of numpy.ndarray of float, shape (M,)
        See `hiwl_core.taxonomy.Taxonomy.member_frequencies`.
    use_gpu : bool
        Whether the scoring actor takes a GPU.
    counts : mapping of int
        Training galaxies of each class, whose sampling calibration undoes.

    Returns
    -------
    pandas.DataFrame
        A row a pair, best first by what the recipe says: `stage1_epoch` and the same of each later stage,
        `accuracy`, `mean_recall`, `recall_<class>`, `nll` of the calibrated probabilities,
        cross-fitted. Of equally good pairs the one with the better mean recall comes first.
    """
    parts = [part for shards in val.windows() for part in _seen(recipe, stages, val, shards, use_gpu)]
    order = np.argsort(np.concatenate([part["row"] for part in parts]))
    found = {stage: np.concatenate([part[stage] for part in parts])[order] for stage in stages}
    return _table(recipe, stages, val.class_indices, found, frequencies, counts)


def _seen(
    recipe: Recipe,
    stages: dict[str, StageCandidates],
    val: CutoutStore,
    shards: np.ndarray,
    use_gpu: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """What all candidates see of the galaxies of a window, under their row numbers."""
    numbers = [np.arange(val.source.starts[shard], val.source.starts[shard + 1]) for shard in shards]
    rows = np.concatenate(numbers)
    of_window = np.arange(len(rows))
    chosen = val.codes[rows] >= 0
    table = pa.table({"row": rows[chosen], "number": of_window[chosen]})
    if not len(table):
        return iter(())
    slices = [table.slice(start, ROWS_A_BATCH) for start in range(0, len(table), ROWS_A_BATCH)]
    arguments = (recipe, stages, val.window(shards), val.rgb, use_gpu)
    if val.here:
        batches = ({name: one[name].to_numpy() for name in one.column_names} for one in slices)
        return map(_CandidateScorer(*arguments), batches)
    # Here, since it takes a second, which a training in this process should not wait for.
    import ray.data

    with ray.data.DataContext.current(ordered_streams()):
        scored = ray.data.from_blocks(slices).map_batches(
            _CandidateScorer,
            fn_constructor_args=arguments,
            # That of the blocks; Ray refuses to leave it open where there are GPUs.
            batch_size=ROWS_A_BATCH,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=1,
            num_gpus=1 if use_gpu else 0,
            max_restarts=SCORER_RESTARTS,
        )
    return iter(scored.iter_batches(batch_size=None, batch_format="numpy"))


def _table(
    recipe: Recipe,
    stages: dict[str, StageCandidates],
    truth: np.ndarray,
    found: dict[str, np.ndarray],
    frequencies: Mapping[str, np.ndarray],
    counts: Mapping[str, int],
) -> pd.DataFrame:
    taxonomy = recipe.taxonomy
    ratios = sampling_log_ratios(taxonomy, recipe.to_dict(), counts)

    def scores(choice: Mapping[str, int]) -> dict[str, float]:
        """Of a candidate of each stage."""
        seen = route({name: found[name][:, index] for name, index in choice.items()}, taxonomy)
        prediction = combine_stages(seen, frequencies, taxonomy)
        matrix = confusion_matrix(truth, prediction.class_indices, len(taxonomy.classes))
        recalls = dict(zip(taxonomy.classes, recall(matrix), strict=True))
        likelihood = np.nan
        if len(truth) >= FOLDS:
            held_out = cross_fitted(seen, truth, frequencies, taxonomy, ratios, FOLDS)
            likelihood = negative_log_likelihood(held_out, truth)
        return {
            **{f"{name}_epoch": stages[name].candidates[index].epoch for name, index in choice.items()},
            "accuracy": float(accuracy(matrix)),
            "mean_recall": float(np.nanmean(list(recalls.values()))),
            **{f"recall_{name}": float(share) for name, share in recalls.items()},
            "nll": likelihood,
        }

    best_first = ["nll", "mean_recall"] if recipe.select == "likelihood" else ["accuracy", "mean_recall"]
    order = [name == "nll" for name in best_first]
    kinds = {name: range(len(stage.candidates)) for name, stage in stages.items()}
    best = dict.fromkeys(stages, 0)
    table: dict[tuple[int, ...], dict[str, float]] = {}
    few = math.prod(map(len, kinds.values())) <= MOST_COMBINATIONS
    for varied in [tuple(stages)] if few else [(name,) for name in stages]:
        for chosen in product(*(kinds[name] for name in varied)):
            choice = best | dict(zip(varied, chosen, strict=True))
            table[tuple(choice.values())] = scores(choice)
        ranked = pd.DataFrame(table.values(), index=pd.Index(table, tupleize_cols=False))
        ranked = ranked.sort_values(best_first, ascending=order)
        best = dict(zip(stages, ranked.index[0], strict=True))
    return ranked.reset_index(drop=True)


class _CandidateScorer:
    """An actor that holds all candidates of all stages."""

    def __init__(
        self,
        recipe: Recipe,
        stages: dict[str, StageCandidates],
        val: CutoutBlocks,
        rgb: RgbSettings,
        use_gpu: bool,
    ) -> None:
        self._val, self._rgb, self._taxonomy = val, rgb, recipe.taxonomy
        compute = granted_compute(use_gpu)
        if compute.device.type == "cpu":
            torch.set_num_threads(usable_cores())
        self._transforms = {name: EvalTransform(stage.preprocessing) for name, stage in stages.items()}
        self._views = recipe.most_views
        # Exporting a candidate to a faster engine takes as long as a few thousand looks, compiling it for a
        # GPU as long as hundreds of thousands.
        compute = replace(compute, can_compile=False)
        engine = choose_engine(
            "torch" if self._views < MOST_VIEWS else "auto", compute=compute, threads=usable_cores()
        )
        self._networks: dict[str, list[Engine]] = {}
        for name, stage in stages.items():
            self._networks[name] = []
            for candidate in stage.candidates:
                network = partial(_network, stage, candidate, len(recipe.taxonomy.stage_classes(name)))
                graph = StageGraph(network, stage.preprocessing)
                self._networks[name].append(create_engine(graph, engine))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = self._val.images(batch["number"])
        # Those of both stages, unless a cutout is resampled, which is done in one step with the transform.
        decoded = [
            None if isinstance(one, Cutout) else decode_pixels(one, self._rgb).pixels for one in images
        ]
        found = {"row": batch["row"]}
        for name, networks in self._networks.items():
            classes = len(self._taxonomy.stage_classes(name))
            wanted = self._sent(found, name, len(images))
            found[name] = seen = np.full((len(images), len(networks), classes), np.nan, dtype=np.float32)
            if wanted.any():
                transform = self._transforms[name]
                pixels = np.stack(
                    [
                        seen_pixels(images[row], [transform], self._rgb)[0]
                        if (whole := decoded[row]) is None
                        else transform(whole)
                        for row in np.flatnonzero(wanted)
                    ]
                )
                seen[wanted] = np.stack([probabilities(net, pixels, self._views) for net in networks], 1)
        return found

    def _sent(self, found: dict[str, np.ndarray], stage: str, rows: int) -> np.ndarray:
        """Which rows any candidate sends to a stage, bool of shape (rows,)."""
        if stage == FIRST_STAGE:
            return np.ones(rows, dtype=bool)
        sender, _ = self._taxonomy.sent_by(stage)
        by_candidate = np.moveaxis(found[sender], 1, 0)
        return np.any([routed(one, self._taxonomy, stage) for one in by_candidate], axis=0)


def _network(stage: StageCandidates, candidate: Candidate, num_classes: int) -> ImageClassifier:
    network = create_backbone(stage.backbone, num_classes, input_size=stage.preprocessing.input_size)
    network.load_state_dict(candidate.weights())
    return network
