"""A bundle whose heads are random, made in seconds: for tests of catalogs, not of how good a model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hiwl_core.backbones import ImageClassifier, create_backbone
from hiwl_core.bundle import ModelBundle, StageModel, bundle_files
from hiwl_core.cutouts import EvalTransform, Preprocessing, normalize
from hiwl_core.decoding import decode_image
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy
from tests.drawings import CLASSES, draw_galaxy

BACKBONE = "efficientnet_lite0"
DRAWINGS_A_CLASS = 8
IMAGES_AT_ONCE = 50


def random_bundle(
    folder: Path,
    seed: int = 0,
    center_crop: int = 64,
    input_size: int = 32,
    backbone: str = BACKBONE,
    images: Sequence[bytes] = (),
    routed: float | None = None,
    taxonomy: Taxonomy = GALAXY_ZOO,
) -> str:
    """Write a bundle and return its folder.

    Parameters
    ----------
    folder : Path
    seed : int
    center_crop, input_size : int
        Pixels on a side.
    backbone : str
        Only EfficientNet-Lite0 starts from ImageNet weights: those of others may have to be fetched.
    images : sequence of bytes
        Encoded cutouts on which all classes are to occur; default drawn ones.
    routed : float, optional
        Share of the images that stage 1 is to send on to stage 2; default as it comes.
    taxonomy : Taxonomy
        Galaxy Zoo's, with or without its combined class.
    """
    torch.manual_seed(seed)
    preprocessing = Preprocessing(center_crop, input_size, (0.05, 0.04, 0.03), (0.1, 0.1, 0.1))
    images = images or [draw_galaxy(label, one) for label in CLASSES for one in range(DRAWINGS_A_CLASS)]
    transform = EvalTransform(preprocessing)
    pixels = torch.from_numpy(np.stack([transform(decode_image(image).image) for image in images]))
    inputs = normalize(pixels, preprocessing.mean, preprocessing.std)
    stages = {}
    for stage in taxonomy.stages:
        network = create_backbone(
            backbone,
            len(taxonomy.stage_classes(stage)),
            pretrained=backbone == BACKBONE,
            input_size=input_size,
        )
        if backbone != BACKBONE:
            _settle(network, inputs)
        _spread(network, inputs)
        if stage == "stage1" and routed is not None:
            _route(network, inputs, routed)
        stages[stage] = StageModel(backbone, preprocessing, 0.05, network.state_dict())
    counts = dict.fromkeys(taxonomy.classes, 1.0) | {"CSS": 0.13, "EO": 0.87}
    frequencies = taxonomy.member_frequencies(counts)
    bundle = ModelBundle(taxonomy, stages, frequencies, views=1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in bundle_files(bundle).items():
        (folder / name).write_bytes(content)
    return str(folder)


def calibrated_bundle(folder: Path, bundle: str, precisions: Sequence[str] = ()) -> str:
    """Write a bundle with adaptive views and all that is fitted after training; return its folder.

    Parameters
    ----------
    folder : Path
    bundle : str
        Folder of a bundle for Galaxy Zoo's classes.
    precisions : sequence of str
        Beside float32.
    """
    # Heavy imports, which tests of other things should not wait for.
    from hiwl_core.bundle import load_bundle
    from hiwl_core.finishing import Galaxies, finish

    def drawings(first: int, count: int) -> Galaxies:
        labels = [CLASSES[row % len(CLASSES)] for row in range(count)]
        images = [draw_galaxy(label, first + row) for row, label in enumerate(labels)]
        return Galaxies(images, GALAXY_ZOO.encode(labels))

    made = finish(
        replace(load_bundle(bundle), views="adaptive"),
        drawings(0, 80),
        drawings(1000, 150),
        say=lambda line: None,
        precisions=precisions,
    )
    # Random heads are so unsure that all galaxies would be seen again.
    fitted = replace(made.fitted, margins=dict.fromkeys(made.taxonomy.stages, 0.25))
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in bundle_files(replace(made, fitted=fitted)).items():
        (folder / name).write_bytes(content)
    return str(folder)


@torch.inference_mode()
def _settle(network: ImageClassifier, inputs: Tensor) -> None:
    """Take the statistics of batch normalization from the images.

    Without them the signal of a deep random network fades, and it sees no difference between galaxies.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    _logits(network, inputs)


@torch.inference_mode()
def _spread(network: ImageClassifier, inputs: Tensor) -> None:
    """Center and scale the logits on the images: random weights alone call all galaxies the same."""
    logits = _logits(network.eval(), inputs)
    last = network.head
    scale = 2 / logits.std(dim=0)
    last.bias.copy_((last.bias - logits.mean(dim=0)) * scale)
    last.weight.mul_(scale[:, None])


def _logits(network: ImageClassifier, inputs: Tensor) -> Tensor:
    """Of all images, some at a time: the layers of hundreds at once do not fit in any cache."""
    return torch.cat([network(some) for some in inputs.split(IMAGES_AT_ONCE)])


@torch.inference_mode()
def _route(network: ImageClassifier, inputs: Tensor, share: float) -> None:
    """Shift the combined class's bias so that it wins on a share of the images."""
    logits = _logits(network.eval(), inputs)
    _, combined = GALAXY_ZOO.sent_by("stage2")
    lead = logits[:, combined] - logits.index_fill(1, torch.tensor([combined]), -torch.inf).amax(1)
    network.head.bias[combined] -= lead.quantile(1 - share) if share else lead.max() + 100


if __name__ == "__main__":
    import sys

    print(random_bundle(Path(sys.argv[1])))
