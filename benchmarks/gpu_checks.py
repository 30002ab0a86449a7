"""Sections of `benchmarks/gpu_acceptance.py` that need PyTorch alone: engines, rates, training, memory."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_ground import THREADS, Ground, Note, goal, rates, verdict
from torch.nn.functional import cross_entropy

from hiwl_core.backbones import create_backbone
from hiwl_core.bundle import load_bundle
from hiwl_core.cutouts import normalize
from hiwl_core.device import ComputePlan, check_device, choose_compute
from hiwl_core.engines import (
    EngineChoice,
    StageGraph,
    choose_engine,
    create_engine,
    openvino_available,
    probabilities,
)
from hiwl_core.inference import CascadeClassifier
from hiwl_core.recipe import load_recipe
from hiwl_core.training import StageLearner

__all__ = ["agreement", "environment", "memory", "speed", "training"]

BATCH = 64
# Of the bare network's rate, and of the bare loop's: what may be lost around them.
FED_PIXELS, FROM_JPEG, TRAINING_STEP = 0.9, 0.5, 0.95
# Difference from the CPU's probabilities that such a share of galaxies stays within, and the share of other
# labels. In bfloat16 a galaxy near a border may fall to either side; on a CPU 1 % of drawn ones do.
AGREEMENT = {"float32": (1e-4, 1.0, 0.0), "bfloat16": (5e-2, 0.99, 0.02)}
MEBIBYTE = 2**20
TRAINED = "galaxyzoo"


def environment(ground: Ground, note: Note) -> None:
    """Whether PyTorch can use the GPU, and what it is."""
    if ground.compute is not None and not ground.on_gpu:
        note("device", "INFO", f"{THREADS} cores, torch {torch.__version__}")
        return
    check_device()
    name, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
    note(
        "PyTorch can use the GPU",
        "PASS",
        f"{name}, sm_{capability[0]}{capability[1]}, torch {torch.__version__}",
    )
    note("bfloat16", "INFO", str(torch.cuda.is_bf16_supported(including_emulation=False)))


def agreement(ground: Ground, note: Note) -> None:
    """What each engine says beside PyTorch on a CPU in float32, whole, again, and of a part of a batch."""
    assert ground.compute is not None
    images, truths = ground.images[:1000], {}
    for name, choice in _engines(ground.compute).items():
        # Random weights turn a rounding of bfloat16 into another class, on a CPU too: trained ones do not.
        model = ground.bundle if choice.precision == "float32" else TRAINED
        if model not in truths:
            cpu = choose_engine("torch", "float32", choose_compute(torch.device("cpu")), THREADS)
            _, truths[model] = _classifier(model, cpu).classify(images)
        truth, classifier = truths[model], _classifier(model, choice)
        started = time.monotonic()
        for _ in range(3):  # compiles, records, replays
            _, found = classifier.classify(images)
        warm = time.monotonic() - started
        most, share, flips = AGREEMENT[choice.precision]
        differences = np.abs(found.probabilities - truth.probabilities).max(axis=1)
        off = float(np.quantile(differences, share))
        changed = float((found.class_indices != truth.class_indices).mean())
        figures = (
            f"probabilities of {share:.0%} differ by {off:.1e} at most, {changed:.2%} of labels, "
            f"warm in {warm:.0f} s"
        )
        note(f"{name} as PyTorch on a CPU", verdict(off <= most and changed <= flips), figures)
        _, again = classifier.classify(images)
        same = np.array_equal(again.probabilities, found.probabilities)
        note(f"{name} the same again", verdict(same), "bit by bit")
        _, part = classifier.classify(images[:37])
        same = np.array_equal(part.class_indices, found.class_indices[: len(part.class_indices)])
        note(f"{name} part of a batch", verdict(same), "37 images")
    if ground.on_gpu:
        from torch._dynamo.utils import counters

        skipped = counters["inductor"]["cudagraph_skips"]
        note("CUDA graphs were recorded", verdict(skipped == 0), f"{skipped} skipped")


def _classifier(model: str, choice: EngineChoice) -> CascadeClassifier:
    """Of a bundle, which says of each image what both stages say."""
    return CascadeClassifier(load_bundle(model), choice, THREADS, always_stage2=True)


def _engines(compute: ComputePlan) -> dict[str, EngineChoice]:
    """The engines that a device has, by name; a CPU's own PyTorch is what they are compared with."""
    if compute.device.type == "cpu":
        names = ("openvino",) if openvino_available() else ()
        return {name: choose_engine(name, "float32", compute, THREADS) for name in names}
    return {
        f"{precision}, {words},": choose_engine("torch", precision, replace(compute, can_compile=compiles))
        for precision in AGREEMENT
        for words, compiles in (("eager", False), ("compiled", compute.can_compile))
    }


def speed(ground: Ground, note: Note) -> None:
    """The engine fed with pixels, and the whole way from JPEGs, against the bare network on the device."""
    assert ground.compute is not None
    graph = StageGraph(
        lambda: create_backbone(ground.backbone, 4, input_size=ground.size), ground.preprocessing
    )
    choice = choose_engine("torch", "auto", ground.compute)
    engine = create_engine(graph, choice)
    pixels = np.random.default_rng(0).integers(0, 255, (engine.batch_size * 4, *graph.pixel_shape), np.uint8)
    module: Any = graph.module().to(ground.compute.device).to(memory_format=torch.channels_last)
    if ground.on_gpu:
        options = {"freezing": True, "triton.cudagraphs": True}
        module = torch.compile(module, dynamic=False, options=options)
    batches = [batch.to(ground.compute.device) for batch in torch.from_numpy(pixels).split(engine.batch_size)]

    @torch.inference_mode()
    def bare() -> None:
        with choice.compute.autocast():
            for batch in batches:
                module(batch)

    classifier = CascadeClassifier(
        load_bundle(Path(ground.bundle)), replace(choice, threads=THREADS), THREADS
    )
    subjects = {
        "bare": (bare, len(pixels)),
        "pixels": (lambda: probabilities(engine, pixels), len(pixels)),
        "JPEG": (lambda: classifier.classify(ground.images), len(ground.images)),
    }
    found = rates(ground, subjects)
    note("network alone", "INFO", f"{found['bare']:,.0f} images/s, {choice.describe()}")
    for name, wanted in (("pixels", FED_PIXELS), ("JPEG", FROM_JPEG)):
        share = found[name] / found["bare"]
        figures = f"{found[name]:,.0f} images/s, {share:.2f} of it, {THREADS} threads (goal {wanted})"
        note(f"fed with {name}", goal(ground, share, wanted), figures)


def training(ground: Ground, note: Note) -> None:
    """A training step against a bare loop of the same network; whether it learns, and waits for the GPU."""
    assert ground.compute is not None
    keys = [f"backbone={ground.backbone}", f"input_size={ground.size}", f"batch_size={BATCH}", "init=random"]
    stages = [f"{stage}.{key}" for stage in ("stage1", "stage2") for key in (*keys, "ema_memory=0")]
    recipe = load_recipe("cpu", stages).stage1
    device, preprocessing = ground.compute.device, ground.preprocessing
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, ground.size, ground.size, 3)
    pixels = torch.randint(255, shape, generator=generator, dtype=torch.uint8)
    targets = torch.randint(4, (BATCH,), generator=generator)
    if ground.on_gpu:
        pixels, targets = pixels.pin_memory(), targets.pin_memory()
    torch.manual_seed(0)
    networks = [create_backbone(ground.backbone, 4, input_size=ground.size) for _ in range(2)]
    # Long enough for compilation to pay, where the device compiles.
    learner = StageLearner(networks[0], recipe, preprocessing, 4, 1000, ground.compute, ground.on_gpu)
    bare: Any = networks[1].to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(
        bare.parameters(), lr=recipe.optimizer.lr, weight_decay=recipe.optimizer.weight_decay
    )
    forward = torch.compile(bare, dynamic=False) if ground.on_gpu else bare

    def bare_step() -> None:
        on_device, truth = pixels.to(device, non_blocking=True), targets.to(device, non_blocking=True)
        with ground.compute.autocast():  # type: ignore[union-attr]
            logits = forward(normalize(on_device, preprocessing.mean, preprocessing.std))
        cross_entropy(logits.float(), truth, label_smoothing=0.05).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    losses: list[torch.Tensor] = []
    subjects = {
        "bare": (bare_step, BATCH),
        "ours": (lambda: losses.append(learner.train_step(pixels, targets, BATCH)), BATCH),
    }
    found = rates(ground, subjects)
    share = found["ours"] / found["bare"]
    figures = f"{found['ours']:,.0f} images/s, {share:.2f} of a bare loop's {found['bare']:,.0f}"
    note("a step beside a bare loop", goal(ground, share, TRAINING_STEP), f"{figures} (goal {TRAINING_STEP})")
    first, last = (float(loss) / BATCH for loss in (losses[0], losses[-1]))
    note("it learns a batch by heart", verdict(last < first), f"loss {first:.2f} to {last:.2f}")
    if ground.on_gpu:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            learner.train_step(pixels, targets, BATCH)
        torch.cuda.set_sync_debug_mode("default")
        note("no step waits for the GPU", verdict(not waits), f"{len(waits)} waits")


def memory(ground: Ground, note: Note) -> None:
    """What classifying takes of the GPU's memory, and whether it takes more from pass to pass."""
    choice = choose_engine("torch", "auto", ground.compute, THREADS)
    classifier = CascadeClassifier(load_bundle(Path(ground.bundle)), choice, THREADS)
    held = []
    for _ in range(4):
        classifier.classify(ground.images)
        held.append(torch.cuda.max_memory_reserved())
    note("no more from pass to pass", verdict(held[-1] == held[1]), f"{held[-1] / MEBIBYTE:,.0f} MiB at most")
