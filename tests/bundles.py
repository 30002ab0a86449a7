"""A bundle whose heads are random, made in seconds: for tests of catalogs, not of how good a model is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hiwl_core.backbones import ImageClassifier, create_backbone
from hiwl_core.bundle import ModelBundle, StageModel, bundle_files
from hiwl_core.cutouts import EvalTransform, Preprocessing, decode_cutout, normalize
from hiwl_core.taxonomy import GALAXY_ZOO
from tests.drawings import CLASSES, draw_galaxy

BACKBONE = "efficientnet_lite0"


def random_bundle(folder: Path, seed: int = 0, center_crop: int = 64, input_size: int = 32) -> str:
    """Write a bundle and return its folder."""
    torch.manual_seed(seed)
    preprocessing = Preprocessing(center_crop, input_size, (0.05, 0.04, 0.03), (0.1, 0.1, 0.1))
    stages = {}
    for stage in ("stage1", "stage2"):
        network = create_backbone(
            BACKBONE, len(GALAXY_ZOO.stage_classes(stage)), pretrained=True, input_size=input_size
        )
        _spread(network, preprocessing)
        stages[stage] = StageModel(BACKBONE, preprocessing, 0.05, network.state_dict())
    bundle = ModelBundle(GALAXY_ZOO, stages, np.array([0.13, 0.87]), views=1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in bundle_files(bundle).items():
        (folder / name).write_bytes(content)
    return str(folder)


@torch.inference_mode()
def _spread(network: ImageClassifier, preprocessing: Preprocessing) -> None:
    """Center and scale the logits on some drawings: random weights alone call all galaxies the same."""
    transform = EvalTransform(preprocessing)
    drawings = [decode_cutout(draw_galaxy(label, seed)) for label in CLASSES for seed in range(8)]
    pixels = torch.from_numpy(np.stack([transform(drawing) for drawing in drawings]))
    logits = network.eval()(normalize(pixels, preprocessing.mean, preprocessing.std))
    last = network.head
    scale = 2 / logits.std(dim=0)
    last.bias.copy_((last.bias - logits.mean(dim=0)) * scale)
    last.weight.mul_(scale[:, None])


if __name__ == "__main__":
    import sys

    print(random_bundle(Path(sys.argv[1])))
