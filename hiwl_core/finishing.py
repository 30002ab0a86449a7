"""What a trained cascade needs before it is used: int8 graphs, margins of views, calibration, unlikeness.

Everything is fitted on the validation galaxies but the int8 graphs and the measure of unlikeness, which take
training galaxies. What is said of the result is cross-fitted: each galaxy by what was fitted on others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hiwl_core.bundle import ModelBundle
from hiwl_core.calibration import cross_fitted, fit_calibration, sampling_log_ratios
from hiwl_core.cascade import StageOutputs, combine_stages
from hiwl_core.conformal import ConformalScores
from hiwl_core.cutouts import EvalTransform, seen_pixels
from hiwl_core.decoding import Cutout
from hiwl_core.device import ComputePlan, choose_compute, cpu_has_bfloat16
from hiwl_core.engines import QuantizedGraph, answers, choose_engine, openvino_available
from hiwl_core.engines.quantization import quantization_available, quantize
from hiwl_core.fitted import ADAPTIVE, Fitted, Setting, ValidatedSetting, Views
from hiwl_core.metrics import confusion_matrix
from hiwl_core.pixel_statistics import pixel_statistics
from hiwl_core.reference import reference_histograms
from hiwl_core.reliability import negative_log_likelihood
from hiwl_core.seen_galaxies import margin_of_views, see, stage_engine, stage_graph
from hiwl_core.taxonomy import FIRST_STAGE, probability_column
from hiwl_core.unlikeness import Unlikeness
from hiwl_core.views import MOST_VIEWS

__all__ = ["Galaxies", "finish", "prior_log_ratios"]

QUANTIZATION_GALAXIES = 300
UNLIKENESS_GALAXIES = 6000
# How much worse int8 and bfloat16 may be than float32 before they are left out.
MOST_ACCURACY_LOST, MOST_LIKELIHOOD_LOST = 0.001, 0.003
SETTINGS_VIEWS: tuple[Views, ...] = (1, MOST_VIEWS, ADAPTIVE)


@dataclass(frozen=True)
class Galaxies:
    """Labeled cutouts.

    Parameters
    ----------
    images : sequence of bytes or Cutout, length N
        Encoded, all readable.
    truth : numpy.ndarray of int64, shape (N,)
        Positions in the taxonomy's classes.
    """

    images: Sequence[bytes | Cutout]
    truth: np.ndarray

    def sampled(self, count: int, seed: int = 0) -> Galaxies:
        """So many of them at random, or all."""
        rows = np.sort(np.random.default_rng(seed).permutation(len(self.truth))[:count])
        return Galaxies([self.images[row] for row in rows], self.truth[rows])


def finish(
    bundle: ModelBundle,
    train: Galaxies,
    val: Galaxies,
    say: Callable[[str], None] = print,
    compute: ComputePlan | None = None,
    threads: int = 2,
    precisions: Sequence[str] | None = None,
) -> ModelBundle:
    """Fit all that comes after training; a few minutes on two cores.

    Parameters
    ----------
    bundle : ModelBundle
        A trained cascade; what was fitted to it before is made anew.
    train : Galaxies
        Of the training part.
    val : Galaxies
        Of the validation part.
    say : callable
        Takes a line of progress.
    compute : ComputePlan, optional
        Default: the best this process has.
    threads : int
        Of a CPU.
    precisions : sequence of str, optional
        To try beside float32; default: those that this machine has.
    """
    compute = compute or choose_compute()
    say(f"fitting on {len(val.truth)} validation galaxies what comes after training")
    wanted = _precisions(compute) if precisions is None else precisions
    quantized: dict[str, QuantizedGraph] = {}
    if "int8" in wanted:
        quantized = _quantized(bundle, train.sampled(QUANTIZATION_GALAXIES), compute, threads)
    bundle = replace(bundle, fitted=Fitted(quantized=quantized))
    taxonomy, pixels = bundle.taxonomy, _pixels(bundle, val.images)

    exact = see(bundle, pixels, "float32", compute, threads)
    margins = {name: margin_of_views(exact.stages[name], len(val.truth)) for name in taxonomy.stages}
    settings: dict[str, ValidatedSetting] = {}
    held_out: dict[str, np.ndarray] = {}
    notes: dict[str, str] = {}
    for precision in ("float32", *wanted):
        seen = exact if precision == "float32" else see(bundle, pixels, precision, compute, threads)
        made = {}
        for views in SETTINGS_VIEWS:
            name = str(Setting(views, precision))
            made[name], held_out[name] = _validated(bundle, seen.outputs(views, margins, taxonomy), val.truth)
        accepted, notes[precision] = _accepted(precision, held_out, val.truth)
        say(notes[precision])
        settings |= made if accepted else {}

    unlikeness, scores, flags = _unlikeness(bundle, train, pixels[FIRST_STAGE], compute, threads)
    routed_as = combine_stages(
        exact.outputs(ADAPTIVE, margins, taxonomy), bundle.member_frequencies, taxonomy
    ).class_indices
    fitted = Fitted(
        settings=settings,
        prior=tuple((np.bincount(val.truth, minlength=len(taxonomy.classes)) / len(val.truth)).tolist()),
        margins=margins,
        reference=reference_histograms(
            held_out[str(Setting(ADAPTIVE, "float32"))],
            routed_as,
            scores,
            flags,
            tuple(map(probability_column, taxonomy.classes)),
            taxonomy.classes,
        ),
        quantized=quantized if str(Setting(ADAPTIVE, "int8")) in settings else {},
        unlikeness=unlikeness,
        notes=notes,
    )
    return replace(bundle, fitted=fitted)


def _validated(
    bundle: ModelBundle, outputs: StageOutputs, truth: np.ndarray
) -> tuple[ValidatedSetting, np.ndarray]:
    """What is kept of a setting, and the cross-fitted probabilities that it was judged by."""
    taxonomy, ratios = bundle.taxonomy, prior_log_ratios(bundle)
    held_out = cross_fitted(outputs, truth, bundle.member_frequencies, taxonomy, ratios)
    setting = ValidatedSetting(
        calibration=fit_calibration(outputs, truth, taxonomy, ratios),
        conformal=ConformalScores.from_held_out(held_out, truth, taxonomy.classes),
        confusion=confusion_matrix(truth, held_out.argmax(axis=1), len(taxonomy.classes)),
    )
    return setting, held_out


def _pixels(bundle: ModelBundle, images: Sequence[bytes | Cutout]) -> dict[str, np.ndarray]:
    """What each stage sees of encoded cutouts; stages that see the same share it."""
    transforms = {stage.preprocessing: EvalTransform(stage.preprocessing) for stage in bundle.stages.values()}
    made: dict[object, list[np.ndarray]] = {preprocessing: [] for preprocessing in transforms}
    for image in images:
        seen = seen_pixels(image, list(transforms.values()), bundle.rgb)
        for preprocessing, pixels in zip(transforms, seen, strict=True):
            made[preprocessing].append(pixels)
    stacked = {preprocessing: np.stack(all_seen) for preprocessing, all_seen in made.items()}
    return {name: stacked[stage.preprocessing] for name, stage in bundle.stages.items()}


def _precisions(compute: ComputePlan) -> tuple[str, ...]:
    """Precisions beside float32 that are worth a try on this machine."""
    if compute.device.type != "cpu":
        return ("bfloat16",) if compute.autocast_dtype is not None else ()
    return (
        *(("bfloat16",) if cpu_has_bfloat16() and openvino_available() else ()),
        *(("int8",) if openvino_available() and quantization_available() else ()),
    )


def _quantized(
    bundle: ModelBundle, train: Galaxies, compute: ComputePlan, threads: int
) -> dict[str, QuantizedGraph]:
    pixels, choice = _pixels(bundle, train.images), choose_engine("openvino", "int8", compute, threads)
    graphs = {name: stage_graph(bundle, name) for name in bundle.stages}
    return {name: quantize(graph, pixels[name], choice.batch_size(graph)) for name, graph in graphs.items()}


def prior_log_ratios(bundle: ModelBundle) -> dict[str, np.ndarray]:
    """The offsets that undo the sampling of each stage of a bundle that was trained with weights."""
    recipe, counts = bundle.provenance.get("recipe", {}), bundle.provenance.get("class_counts", {})
    return sampling_log_ratios(bundle.taxonomy, recipe, counts)


def _accepted(precision: str, held_out: dict[str, np.ndarray], truth: np.ndarray) -> tuple[bool, str]:
    """Whether a precision is as good as float32 with the same views, and what is to be said of it."""
    name = str(Setting(ADAPTIVE, precision))
    found = held_out[name]
    right, loss = float((found.argmax(1) == truth).mean()), negative_log_likelihood(found, truth)
    words = f"{precision}: accuracy {right:.4f}, NLL {loss:.4f} on validation, cross-fitted"
    if precision == "float32":
        return True, words
    exact = held_out[str(Setting(ADAPTIVE, "float32"))]
    changed = float((found.argmax(1) != exact.argmax(1)).mean())
    lost = float((exact.argmax(1) == truth).mean()) - right
    worse = loss - negative_log_likelihood(exact, truth)
    accepted = lost <= MOST_ACCURACY_LOST and worse <= MOST_LIKELIHOOD_LOST
    verdict = "accepted" if accepted else "left out"
    return accepted, f"{words}; {changed:.2%} of the labels differ from float32's: {verdict}"


def _unlikeness(
    bundle: ModelBundle, train: Galaxies, val_pixels: np.ndarray, compute: ComputePlan, threads: int
) -> tuple[Unlikeness, np.ndarray, np.ndarray]:
    """The measure, and what it says of the validation galaxies: scores and flags."""
    sample = train.sampled(UNLIKENESS_GALAXIES)
    looks = len(sample.images) + len(val_pixels)
    engine = stage_engine(bundle, FIRST_STAGE, "float32", compute, threads, looks)
    features, statistics = [], []
    for start in range(0, len(sample.images), QUANTIZATION_GALAXIES):
        seen = _pixels(bundle, sample.images[start : start + QUANTIZATION_GALAXIES])[FIRST_STAGE]
        features.append(answers(engine, seen).features)
        statistics.append(pixel_statistics(seen))
    validation = answers(engine, val_pixels)
    measure = Unlikeness.fit(
        np.concatenate(features),
        np.concatenate(statistics),
        bundle.taxonomy.stage_targets(FIRST_STAGE, sample.truth),
        validation.features,
        val_pixels,
    )
    flags = np.array([measure.pixel_flags(one) for one in val_pixels], dtype=np.int32)
    return measure, measure.score(validation.features, val_pixels), flags
