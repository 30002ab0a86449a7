"""How much faster is a training step compiled than eager? Both run in turn, in one process, on this machine.

    python benchmarks/training_step.py [--backbone efficientnet_lite0] [--size 96] [--batch 48]

Machines are noisy, so the figure is the ratio of neighbors: each round times both, and the table gives the
median ratio over the rounds with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from hiwl_core.backbones import create_backbone
from hiwl_core.cutouts import Preprocessing
from hiwl_core.device import choose_compute
from hiwl_core.recipe import load_recipe
from hiwl_core.training import StageLearner
from pipeline.cores import usable_cores


def make_learner(backbone: str, size: int, batch: int, compiled: bool) -> StageLearner:
    """A learner of stage 1 that is long enough for compilation to pay."""
    settings = [f"stage1.backbone={backbone}", f"stage1.input_size={size}", f"stage1.batch_size={batch}"]
    recipe = load_recipe("cpu", [*settings, f"stage2.backbone={backbone}"]).stage1
    preprocessing = Preprocessing(recipe.center_crop, size, (0.5,) * 3, (0.5,) * 3)
    model = create_backbone(backbone, 4, input_size=size)
    return StageLearner(model, recipe, preprocessing, 4, 1000, choose_compute(), compile_model=compiled)


def seconds_a_step(learner: StageLearner, pixels: torch.Tensor, targets: torch.Tensor, steps: int) -> float:
    """Mean time of some steps."""
    started = time.perf_counter()
    for _ in range(steps):
        learner.train_step(pixels, targets, len(targets))
    return (time.perf_counter() - started) / steps


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "training_step.csv")
    options = parser.parse_args()
    torch.set_num_threads(usable_cores())
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, options.size, options.size, 3)
    pixels = torch.randint(255, shape, generator=generator, dtype=torch.uint8)
    targets = torch.randint(4, (options.batch,), generator=generator)
    learners = {
        name: make_learner(options.backbone, options.size, options.batch, compiled=name == "compiled")
        for name in ("eager", "compiled")
    }
    for learner in learners.values():  # the first steps compile and allocate
        seconds_a_step(learner, pixels, targets, 2)
    rounds = pd.DataFrame(
        [
            {
                name: options.batch / seconds_a_step(learner, pixels, targets, 3)
                for name, learner in learners.items()
            }
            for _ in range(options.rounds)
        ]
    )
    ratio = rounds["compiled"] / rounds["eager"]
    table = pd.DataFrame(
        {
            "backbone": [options.backbone],
            "size": [options.size],
            "eager images/s": [np.median(rounds["eager"])],
            "compiled images/s": [np.median(rounds["compiled"])],
            "ratio": [np.median(ratio)],
            "smallest": [ratio.min()],
            "largest": [ratio.max()],
        }
    ).round(2)
    table.to_csv(options.out, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
