"""Heat lies where a decision was made, and features are those of the stage that made it."""

import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hiwl_core.backbones import ImageClassifier, create_backbone, spec
from hiwl_core.bundle import ModelBundle, StageModel
from hiwl_core.cutouts import EvalTransform, Preprocessing, normalize
from hiwl_core.decoding import decode_image
from hiwl_core.device import ComputePlan
from hiwl_core.errors import UserError
from hiwl_core.explanation import (
    ExplainedModel,
    central_share,
    explained_layer,
    heat_maps,
    penultimate_features,
)
from hiwl_core.explanation.heat_checks import deletion_curves, likeness, shuffled_network
from hiwl_core.taxonomy import GALAXY_ZOO
from tests.drawings import CLASSES, draw_galaxy
from tests.stages import FREQUENCIES

CPU = ComputePlan(torch.device("cpu"), None, can_compile=False)
GRAYS = (0.2, 0.2, 0.2)
NEAR = 0.15


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Blobs:
    """Images whose class is the color of one blob; another one, of a third color, says nothing of it.

    Places are fractions of a side, of shape (N, 2) as (x, y).
    """

    pixels: np.ndarray
    labels: np.ndarray
    deciding: np.ndarray
    idle: np.ndarray


def _blobs(count: int, seed: int, size: int) -> Blobs:
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    pixels = rng.normal(20, 6, (count, size, size, 3))
    labels = rng.integers(0, 2, count)
    places = np.empty((count, 2, 2))
    colors = np.array([(1, 0.3, 0.2), (0.2, 1, 0.3), (0.3, 0.4, 1)])
    for image, label in enumerate(labels):
        while True:
            places[image] = rng.uniform(0.12, 0.88, (2, 2))
            if np.hypot(*(places[image, 0] - places[image, 1])) > 0.45:
                break
        for (across, down), color in zip(places[image], colors[[label, 2]], strict=True):
            blob = np.exp(-((x - across) ** 2 + (y - down) ** 2) / 2 / 0.07**2)
            pixels[image] += 220 * blob[..., None] * color
    return Blobs(pixels.clip(0, 255).astype(np.uint8), labels, places[:, 0], places[:, 1])


def _heat_near(maps: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Heat around a place in each map, in units of the map's mean."""
    size = maps.shape[1]
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    near = np.hypot(x - places[:, 0, None, None], y - places[:, 1, None, None]) < NEAR
    return (maps * near).sum((1, 2)) / near.sum((1, 2)) / maps.mean((1, 2))


def _trained(name: str, size: int, steps: int, rate: float) -> ImageClassifier:
    torch.manual_seed(0)
    model = create_backbone(name, 2, input_size=size).train()
    optimizer = torch.optim.AdamW(model.parameters(), rate)
    blobs = _blobs(512, 0, size)
    images, labels = normalize(torch.from_numpy(blobs.pixels), GRAYS, GRAYS), torch.from_numpy(blobs.labels)
    for step in range(steps):
        rows = torch.arange(32 * step, 32 * step + 32) % len(labels)
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def convolutional() -> ImageClassifier:
    return _trained("timm:test_resnet", 64, 25, 3e-3)


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_the_heat_lies_on_what_decides_the_class(convolutional: ImageClassifier, views: int) -> None:
    size = 64
    blobs, entry = _blobs(24, 1, size), spec("timm:test_resnet")
    preprocessing = Preprocessing(size, size, GRAYS, GRAYS)
    maps = heat_maps(convolutional, entry, preprocessing, blobs.pixels, blobs.labels, views=views)
    assert np.median(_heat_near(maps, blobs.deciding)) > 5
    assert np.median(_heat_near(maps, blobs.idle)) < 0.5
    # Not with x for y, nor mirrored.
    assert np.median(_heat_near(maps, blobs.deciding[:, ::-1])) < 3
    assert np.median(_heat_near(maps, 1 - blobs.deciding)) < 1


def test_patches_of_a_transformer_are_at_their_place() -> None:
    size = 96
    model = _trained("timm:test_vit", size, 50, 2e-3)
    blobs, preprocessing = _blobs(24, 1, size), Preprocessing(size, size, GRAYS, GRAYS)
    maps = heat_maps(model, spec("timm:test_vit"), preprocessing, blobs.pixels, blobs.labels)
    on_it = np.median(_heat_near(maps, blobs.deciding))
    assert on_it > 4
    assert on_it > 2 * np.median(_heat_near(maps, blobs.deciding[:, ::-1]))
    assert on_it > 2 * np.median(_heat_near(maps, 1 - blobs.deciding))


def test_larger_maps_point_better(convolutional: ImageClassifier) -> None:
    """The last maps are of 4 pixels: an earlier layer stands in for them, unless told."""
    size, entry = 64, spec("timm:test_resnet")
    blobs, preprocessing = _blobs(24, 1, size), Preprocessing(size, size, GRAYS, GRAYS)
    on_it = {}
    for side in (1, 5):
        maps = heat_maps(convolutional, entry, preprocessing, blobs.pixels, blobs.labels, min_side=side)
        on_it[side] = np.median(_heat_near(maps, blobs.deciding))
    assert explained_layer(convolutional, entry, size, 1) == entry.gradcam_layer
    assert on_it[5] > 2 * on_it[1] > 2


def test_checks_tell_heat_that_decides_from_heat_that_does_not(convolutional: ImageClassifier) -> None:
    size, entry = 64, spec("timm:test_resnet")
    blobs, preprocessing = _blobs(24, 1, size), Preprocessing(size, size, GRAYS, GRAYS)
    maps = heat_maps(convolutional, entry, preprocessing, blobs.pixels, blobs.labels)
    hottest, coldest = (
        deletion_curves(convolutional, preprocessing, blobs.pixels, order, blobs.labels)
        for order in (maps, -maps)
    )
    # Nothing is gone at first, and then the deciding blob, or all but that.
    assert np.allclose(hottest[:, 0], coldest[:, 0])
    assert hottest[:, 1:].mean() < 0.7 < 0.9 < coldest[:, 1:].mean()
    before = [weights.clone() for weights in convolutional.parameters()]
    shuffled = shuffled_network(convolutional, seed=0)
    others = heat_maps(shuffled, entry, preprocessing, blobs.pixels, blobs.labels)
    assert np.median(likeness(maps, others)) < 0.5
    assert likeness(maps, maps) == pytest.approx(1)
    assert np.isnan(likeness(maps, np.zeros_like(maps))).all()
    assert all(map(torch.equal, before, convolutional.parameters()))


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [
        ("dieleman", 45, "trunk.relu3"),
        ("efficientnet_b1", 240, "trunk.features.8"),
        ("efficientnet_b1", 64, "trunk.features.3.2"),
        ("efficientnet_lite0", 224, "trunk.maps"),
        ("efficientnet_lite0", 64, "trunk.network._blocks.4"),
        ("googlenet", 64, "trunk.inception3b"),
        ("neural_ode", 32, "trunk.stage3.ode"),
        ("resnet26", 64, "trunk.stage3.0"),
        ("resnet34", 96, "trunk.layer3.5"),
        ("timm:swin_tiny_patch4_window7_224", 112, "trunk.layers.2"),
        ("timm:test_vit", 48, "trunk.blocks.5.norm1"),
        ("vgg16", 64, "trunk.features.22"),
        ("vit_b_16", 32, "trunk.encoder.layers.encoder_layer_11.ln_1"),
    ],
)
def test_the_last_layer_with_enough_places(name: str, size: int, layer: str) -> None:
    with torch.device("meta"):
        model = create_backbone(name, 4, input_size=size)
    assert explained_layer(model, spec(name), size) == layer
    assert explained_layer(model, spec(name), size, min_side=1) == spec(name).gradcam_layer


class Reused(nn.Module):
    """A trunk whose only maps of use are the first: the next are overwritten, then a layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.overwritten = nn.Conv2d(4, 4, 1)
        self.twice = nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(4, 4, 8, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.twice(self.twice(self.overwritten(self.first(images)).relu_()))).mean((2, 3))


def test_layers_whose_maps_are_lost_do_not_stand_in() -> None:
    model = ImageClassifier(Reused(), 4, 2, dropout=0.0)
    entry = replace(spec("timm:test_resnet"), gradcam_layer="trunk.last")
    assert explained_layer(model, entry, 32) == "trunk.first"


def test_a_heat_map_is_of_its_image_and_its_class_alone(convolutional: ImageClassifier) -> None:
    entry, preprocessing = spec("timm:test_resnet"), Preprocessing(64, 64, GRAYS, GRAYS)
    blobs = _blobs(5, 2, 64)

    def maps(rows: slice, targets: np.ndarray, batch_size: int = 16) -> np.ndarray:
        # A caller may have switched gradients off.
        with torch.no_grad():
            return heat_maps(
                convolutional, entry, preprocessing, blobs.pixels[rows], targets, batch_size=batch_size
            )

    together = maps(slice(None), blobs.labels)
    np.testing.assert_allclose(maps(slice(3, 4), blobs.labels[3:4])[0], together[3], atol=1e-4)
    np.testing.assert_allclose(maps(slice(None), blobs.labels, batch_size=2), together, atol=1e-4)
    assert np.abs(maps(slice(None), 1 - blobs.labels) - together).max() > 0.5
    assert maps(slice(0, 0), blobs.labels[:0]).shape == (0, 64, 64)


def test_a_class_that_nothing_speaks_for_has_no_heat(convolutional: ImageClassifier) -> None:
    indifferent = deepcopy(convolutional)
    nn.init.zeros_(indifferent.head.weight)
    pixels, preprocessing = _blobs(2, 4, 64).pixels, Preprocessing(64, 64, GRAYS, GRAYS)
    assert not heat_maps(indifferent, spec("timm:test_resnet"), preprocessing, pixels, np.zeros(2, int)).any()


def test_what_heat_maps_refuse(convolutional: ImageClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, preprocessing = spec("timm:test_resnet"), Preprocessing(64, 64, GRAYS, GRAYS)
    pixels = np.zeros((2, 64, 64, 3), np.uint8)
    with pytest.raises(UserError, match=r"in \[0, 2\), not 0 to 2"):
        heat_maps(convolutional, entry, preprocessing, pixels, np.array([0, 2]))
    with pytest.raises(UserError, match=r"N classes, not \(2, 64, 64, 3\) and \(3,\)"):
        heat_maps(convolutional, entry, preprocessing, pixels, np.zeros(3, int))
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(UserError, match=r"need the package grad-cam: pip install 'hiwl\[figures\]'"):
        heat_maps(convolutional, entry, preprocessing, pixels, np.zeros(2, int))


def test_central_share() -> None:
    maps = np.zeros((3, 8, 8))
    maps[0] = 1
    maps[1, 2:6, 2:6] = 0.3
    np.testing.assert_allclose(central_share(maps), [0.25, 1, np.nan])
    assert central_share(maps[:1], side=0.75)[0] == pytest.approx(0.75**2)


def test_features_in_batches(convolutional: ImageClassifier) -> None:
    preprocessing, pixels = Preprocessing(64, 64, GRAYS, GRAYS), _blobs(5, 3, 64).pixels
    features = penultimate_features(convolutional, preprocessing, pixels, CPU, batch_size=2)
    with torch.inference_mode():
        expected = convolutional.features(normalize(torch.from_numpy(pixels), GRAYS, GRAYS)).numpy()
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)
    assert penultimate_features(convolutional, preprocessing, pixels[:0], CPU).shape == (
        0,
        expected.shape[1],
    )


STAGES = {
    "stage1": ("timm:test_resnet", Preprocessing(72, 64, (0.05, 0.04, 0.03), (0.1, 0.1, 0.1))),
    "stage2": ("timm:test_vit", Preprocessing(64, 48, GRAYS, GRAYS)),
}


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    """Two stages that differ in all: network, width, part of the cutout, size."""
    torch.manual_seed(0)
    stages = {}
    for stage, (backbone, preprocessing) in STAGES.items():
        model = create_backbone(
            backbone, len(GALAXY_ZOO.stage_classes(stage)), input_size=preprocessing.input_size
        )
        stages[stage] = StageModel(backbone, preprocessing, 0.05, model.state_dict())
    return ModelBundle(GALAXY_ZOO, stages, FREQUENCIES, views=1)


GALAXIES = [draw_galaxy(label, 1) for label in CLASSES]
TRUTH = np.arange(len(CLASSES))
OWNERS = ["stage1", "stage1", "stage2", "stage2", "stage1"]


def _seen(stage: str) -> np.ndarray:
    transform = EvalTransform(STAGES[stage][1])
    return np.stack([transform(decode_image(image).image) for image in GALAXIES])


def test_each_galaxy_is_explained_by_the_stage_that_owns_its_class(bundle: ModelBundle) -> None:
    model = ExplainedModel(bundle, CPU)
    assert model.owners(TRUTH).tolist() == OWNERS
    maps = model.heat_maps(GALAXIES, TRUTH, views=1)
    assert [one.stage for one in maps] == OWNERS
    targets = {"stage1": [0, 1, 3, 3, 2], "stage2": [-1, -1, 0, 1, -1]}
    for row, found in enumerate(maps):
        backbone, preprocessing = STAGES[found.stage]
        network = bundle.stages[found.stage].network(len(GALAXY_ZOO.stage_classes(found.stage)))
        pixels = _seen(found.stage)[row]
        assert (found.pixels == pixels).all()
        assert found.cutout.shape == (preprocessing.center_crop,) * 2 + (3,)
        target = np.array([targets[found.stage][row]])
        expected = heat_maps(network, spec(backbone), preprocessing, pixels[None], target)
        np.testing.assert_allclose(found.heat, expected[0], atol=1e-4)
    assert {one.layer for one in maps} == {"trunk.layer2.0", "trunk.blocks.5.norm1"}


def test_features_of_stage1_and_by_owner(bundle: ModelBundle) -> None:
    model = ExplainedModel(bundle, CPU)
    features = {}
    for stage, (_, preprocessing) in STAGES.items():
        network = bundle.stages[stage].network(len(GALAXY_ZOO.stage_classes(stage)))
        features[stage] = penultimate_features(network, preprocessing, _seen(stage), CPU)
    np.testing.assert_allclose(model.features(GALAXIES), features["stage1"], atol=1e-5)
    by_owner = model.features_by_owner(GALAXIES, TRUTH)
    assert by_owner.shape == (5, max(part.shape[1] for part in features.values()))
    for row, stage in enumerate(OWNERS):
        own = features[stage][row]
        np.testing.assert_allclose(by_owner[row, : len(own)], own, atol=1e-5)
        assert not by_owner[row, len(own) :].any()
    # Of no galaxy, and of none of one stage.
    assert len(model.features_by_owner([], TRUTH[:0])) == 0
    assert model.heat_maps(GALAXIES[:2], TRUTH[:2], views=1)[1].stage == "stage1"


def test_a_flat_model_has_one_stage_for_all(bundle: ModelBundle) -> None:
    flat = GALAXY_ZOO.flat()
    network = create_backbone("timm:test_vit", 5, input_size=48)
    stages = {"stage1": StageModel("timm:test_vit", STAGES["stage2"][1], 0.05, network.state_dict())}
    model = ExplainedModel(ModelBundle(flat, stages, {}, views=1), CPU)
    assert set(model.owners(TRUTH)) == {"stage1"}
    np.testing.assert_array_equal(model.features_by_owner(GALAXIES, TRUTH), model.features(GALAXIES))
    assert [one.stage for one in model.heat_maps(GALAXIES, TRUTH, views=1)] == ["stage1"] * 5


@pytest.mark.parametrize(
    ("image", "reason"),
    [(b"no image", "not a whole JPEG"), (None, "no image"), (draw_galaxy("EO", 0, 60), "smaller than")],
)
def test_an_image_that_cannot_be_read_is_named_by_its_place(
    bundle: ModelBundle, image: bytes | None, reason: str
) -> None:
    model = ExplainedModel(bundle, CPU)
    images = [*GALAXIES[:3], image, GALAXIES[4]]
    for explain in (model.features_by_owner, model.heat_maps):
        with pytest.raises(UserError, match=f"image 3 of 5: {reason}"):
            explain(images, TRUTH)
