"""The networks of the registry: what they put out, train, keep in a bundle and say in another engine."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hiwl_core.backbones import BackboneSpec, ImageClassifier, available_backbones, create_backbone, spec
from hiwl_core.bundle import ModelBundle, StageModel, bundle_files, bundle_from_files
from hiwl_core.cutouts import Preprocessing, normalize
from hiwl_core.device import ComputePlan
from hiwl_core.engines import StageGraph, probabilities
from hiwl_core.engines.openvino_engine import OpenVinoEngine
from hiwl_core.explanation import heat_maps
from hiwl_core.recipe import load_recipe
from hiwl_core.taxonomy import GALAXY_ZOO
from hiwl_core.training import StageLearner
from tests.stages import FREQUENCIES

CPU = ComputePlan(torch.device("cpu"), None, can_compile=False)
# As small as the networks allow: those that are not here take 32 pixels.
INPUT_SIZES = {"dieleman": 45, "neural_ode": 8, "resnet26": 64}
# Deeper or wider ones of the same blocks, which take many seconds and would show nothing else.
SAME_BLOCKS = [f"efficientnet_{size}" for size in ("b1", "b2", "b5", "lite1", "lite2")] + ["resnet34"]
COMPUTED = [*(name for name in available_backbones() if name not in SAME_BLOCKS), "timm:test_vit"]
# All kinds of layers that there are: an export takes seconds. Lite0's are in tests of its own.
EXPORTED = ("dieleman", "efficientnet_b0", "googlenet", "neural_ode", "resnet26", "vit_b_16")
BATCH = 4


@dataclass(frozen=True)
class Case:
    """A network at a small size, whose logits differ from image to image."""

    entry: BackboneSpec
    preprocessing: Preprocessing
    model: ImageClassifier
    pixels: np.ndarray

    @property
    def images(self) -> Tensor:
        return normalize(torch.from_numpy(self.pixels), self.preprocessing.mean, self.preprocessing.std)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On maps as small as these, threads mostly wait for each other: most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=COMPUTED)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    entry = spec(request.param)
    size = INPUT_SIZES.get(entry.name, 32)
    torch.manual_seed(0)
    model = create_backbone(entry.name, 4, input_size=size)
    made = Case(entry, Preprocessing(size, size, entry.mean, entry.std), model, _patterns(size))
    _enliven(model, made.images)
    yield made
    del made, model


def _patterns(size: int) -> np.ndarray:
    """Images that a network sees as different, as it does not of noise: patches of a few colors."""
    coarse = np.random.default_rng(0).integers(0, 255, (BATCH, 4, 4, 3), dtype=np.uint8)
    repeats = -(-size // 4)
    return np.ascontiguousarray(coarse.repeat(repeats, 1).repeat(repeats, 2)[:, :size, :size])


@torch.no_grad()
def _enliven(model: ImageClassifier, images: Tensor) -> None:
    """The signal of a deep random network fades: give it statistics of the images and a head to match."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model.eval()
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    model(images)
    for norm in norms:
        norm.momentum = 0.0
        # Channels that hardly vary over so few images would make much of differences in the last digit.
        variance = norm.running_var
        assert variance is not None
        variance.clamp_(min=0.5 * float(variance.mean()))
    logits = model.eval()(images)
    model.head.weight.mul_(0.5 / logits.std(dim=0)[:, None])
    model.head.bias.sub_(model(images).mean(dim=0))


def test_logits_and_features(case: Case) -> None:
    model, images = case.model, case.images
    for mode in (True, False):
        logits = model.train(mode)(images)
        assert isinstance(logits, Tensor)
        assert logits.shape == (BATCH, 4)
    features = model.features(images)
    assert features.shape == (BATCH, case.entry.feature_width)
    torch.testing.assert_close(model.head(features), logits)


def test_gradients_reach_every_parameter_and_the_gradcam_layer(case: Case) -> None:
    layer = case.model.get_submodule(case.entry.gradcam_layer)
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        logits = case.model.train()(case.images)
    finally:
        hook.remove()
    seen[0].retain_grad()
    logits[:, 0].sum().backward()
    idle = [name for name, parameter in case.model.named_parameters() if parameter.grad is None]
    case.model.zero_grad(set_to_none=True)
    case.model.eval()
    assert not idle
    maps = case.entry.feature_maps(seen[0])
    assert (maps.ndim, len(maps)) == (4, BATCH)
    assert maps.shape[2] == maps.shape[3]
    # What Grad-CAM weights the maps by must come through.
    gradient = seen[0].grad
    assert gradient is not None
    assert float(case.entry.feature_maps(gradient).abs().max()) > 0


def test_every_network_has_heat_maps(case: Case) -> None:
    # Two batches, of which the last is not full.
    maps = heat_maps(
        case.model, case.entry, case.preprocessing, case.pixels[:3], np.array([0, 3, 1]), batch_size=2
    )
    size = case.preprocessing.input_size
    assert (maps.shape, maps.dtype) == ((3, size, size), np.float32)
    assert np.isfinite(maps).all()
    assert maps.min() >= 0
    assert maps.max() == 1
    assert np.abs(maps[0] - maps[1]).max() > 0.1
    assert not any(module._forward_hooks for module in case.model.modules())
    assert all(parameter.grad is None for parameter in case.model.parameters())


# VGG16 has 138 million parameters, and no kind of tensor that the others have not.
@pytest.mark.parametrize("case", [name for name in COMPUTED if name != "vgg16"], indirect=True)
def test_a_bundle_keeps_the_network(case: Case) -> None:
    # The other stage is a small one: it only has to be there.
    other = create_backbone("timm:test_resnet", 2)
    stages = {
        "stage1": StageModel(case.entry.name, case.preprocessing, 0.05, case.model.state_dict()),
        "stage2": StageModel("timm:test_resnet", case.preprocessing, 0.05, other.state_dict()),
    }
    files = bundle_files(ModelBundle(GALAXY_ZOO, stages, FREQUENCIES, views=1))
    loaded = bundle_from_files(files.__getitem__, "memory").stages["stage1"].network(4)
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded(case.images), case.model.eval()(case.images), rtol=0, atol=0, msg=case.entry.name
        )


@pytest.mark.parametrize("case", EXPORTED, indirect=True)
def test_openvino_says_what_pytorch_says(case: Case) -> None:
    graph = StageGraph(lambda: case.model, case.preprocessing)
    with torch.inference_mode():
        expected = graph.module()(torch.from_numpy(case.pixels))[0].numpy()
    got = probabilities(OpenVinoEngine(graph, BATCH, threads=2), case.pixels)
    assert np.abs(got - expected).max() < 1e-4
    # Images must differ, or a network that sees nothing would agree too.
    assert np.ptp(expected, axis=0).max() > 0.1


@pytest.mark.parametrize("name", SAME_BLOCKS)
def test_networks_of_the_same_blocks(name: str) -> None:
    """Shapes and names alone: on this device nothing is computed, at full size."""
    entry = spec(name)
    with torch.device("meta"):
        model = create_backbone(name, 4)
        images = torch.zeros(2, 3, entry.input_size, entry.input_size)
    seen: list[Tensor] = []
    model.get_submodule(entry.gradcam_layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
    for mode in (False, True):
        logits = model.train(mode)(images)
        assert logits.shape == (2, 4)
    assert model.features(images).shape == (2, entry.feature_width)
    maps = entry.feature_maps(seen[0])
    assert (maps.ndim, len(maps)) == (4, 2)
    assert maps.shape[2] == maps.shape[3] > 1
    logits.sum().backward()
    assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("name", ["dieleman", "googlenet", "neural_ode"])
def test_data_parallel_training_with_averaged_weights(name: str) -> None:
    size = INPUT_SIZES.get(name, 32)
    recipe = load_recipe(
        "demo",
        [f"stage1.backbone={name}", f"stage1.input_size={spec(name).input_size}", "stage2.init=imagenet"],
    ).stage1
    assert recipe.ema_memory > 0
    torch.manual_seed(0)
    model = create_backbone(name, 4, input_size=size)
    entry = spec(name)
    preprocessing = Preprocessing(size, size, entry.mean, entry.std)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        learner = StageLearner(
            model, recipe, preprocessing, 4, 10, CPU, compile_model=False, distribute=DistributedDataParallel
        )
        pixels = torch.from_numpy(_patterns(size))
        # A parameter without a gradient in one step makes the next one raise.
        losses = [float(learner.train_step(pixels, torch.arange(4), BATCH)) for _ in range(2)]
    finally:
        torch.distributed.destroy_process_group()
    assert np.isfinite(losses).all()
    assert learner.best_weights is not learner.model
    assert learner.logits(pixels).shape == (BATCH, 4)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("efficientnet_b0", 5_288_548),
        ("efficientnet_b1", 7_794_184),
        ("efficientnet_b2", 9_109_994),
        ("efficientnet_b5", 30_389_784),
        ("googlenet", 6_624_904),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("vgg16", 138_357_544),
        ("vit_b_16", 86_567_656),
        ("efficientnet_lite0", 4_652_008),
        ("efficientnet_lite1", 5_416_680),
        ("efficientnet_lite2", 6_092_072),
    ],
)
def test_parameters_with_the_thousand_classes_of_imagenet(name: str, parameters: int) -> None:
    with torch.device("meta"):
        model = create_backbone(name, 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
