"""The networks that are written here, layer by layer: shapes and weights counted by hand."""

import pytest
import torch
from torch import Tensor, nn

from hiwl_core.backbones import ImageClassifier, create_backbone
from hiwl_core.errors import UserError


def layers(model: ImageClassifier, size: int, names: list[str]) -> list[tuple[str, tuple[int, ...], int]]:
    """Name, output shape of one image and number of parameters of the modules with these names."""
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            shapes[name] = tuple(output.shape[1:])

        return hook

    for name in names:
        model.get_submodule(name).register_forward_hook(keep(name))  # type: ignore[arg-type]
    model.eval()(torch.zeros(1, 3, size, size, device="meta"))
    return [
        (name, shapes[name], sum(weight.numel() for weight in model.get_submodule(name).parameters()))
        for name in names
    ]


def made(name: str) -> ImageClassifier:
    """A network for five classes, without memory for its weights."""
    with torch.device("meta"):
        return create_backbone(name, 5)


def parameters(model: ImageClassifier) -> int:
    return sum(weight.numel() for weight in model.parameters())


def test_dieleman() -> None:
    model = made("dieleman")
    expected = [
        # 32 filters of 6 x 6 x 3 and a bias each; 45 - 6 + 1 = 40 pixels are left.
        ("trunk.conv1", (32, 40, 40), 6 * 6 * 3 * 32 + 32),
        ("trunk.pool1", (32, 20, 20), 0),
        ("trunk.conv2", (64, 16, 16), 5 * 5 * 32 * 64 + 64),
        ("trunk.pool2", (64, 8, 8), 0),
        ("trunk.conv3", (128, 6, 6), 3 * 3 * 64 * 128 + 128),
        ("trunk.conv4", (128, 4, 4), 3 * 3 * 128 * 128 + 128),
        ("trunk.pool4", (128, 2, 2), 0),
        ("trunk.flatten", (512,), 0),
        ("trunk.dense1", (2048,), 512 * 2048 + 2048),
        ("trunk.dense2", (2048,), 2048 * 2048 + 2048),
        ("head", (5,), 2048 * 5 + 5),
    ]
    assert layers(model, 45, [name for name, _, _ in expected]) == expected
    assert parameters(model) == sum(count for _, _, count in expected)
    # A ReLU after each convolution and dense layer; dropout after each dense layer.
    kinds = [type(layer).__name__ for layer in model.trunk.children()]
    assert kinds.count("ReLU") == 6
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


def bottleneck(width_in: int, width: int) -> int:
    """Parameters: two a channel in each normalization, none but the filters in convolutions."""
    width_out = 4 * width
    project = width_in * width_out if width_in != width_out else 0
    norms = 2 * width_in + 2 * width + 2 * width
    return norms + width_in * width + 9 * width * width + width * width_out + project


def test_resnet26() -> None:
    model = made("resnet26")
    expected = [
        ("trunk.stem", (64, 64, 64), 6 * 6 * 3 * 64),
        ("trunk.pool", (64, 32, 32), 0),
        # Widths m k = 128, 256, 512, 1024 inside, 4 m k outside; the second of a stage halves the maps.
        ("trunk.stage1.0", (512, 32, 32), bottleneck(64, 128)),
        ("trunk.stage1.1", (512, 16, 16), bottleneck(512, 128)),
        ("trunk.stage2.0", (1024, 16, 16), bottleneck(512, 256)),
        ("trunk.stage2.1", (1024, 8, 8), bottleneck(1024, 256)),
        ("trunk.stage3.0", (2048, 8, 8), bottleneck(1024, 512)),
        ("trunk.stage3.1", (2048, 4, 4), bottleneck(2048, 512)),
        ("trunk.stage4.0", (4096, 4, 4), bottleneck(2048, 1024)),
        ("trunk.stage4.1", (4096, 4, 4), bottleneck(4096, 1024)),
        ("trunk.norm", (4096, 4, 4), 2 * 4096),
        ("trunk.average", (4096, 1, 1), 0),
        ("head", (5,), 4096 * 5 + 5),
    ]
    assert layers(model, 64, [name for name, _, _ in expected]) == expected
    assert parameters(model) == sum(count for _, _, count in expected) == 55_656_325


def test_a_bottleneck_of_resnet26() -> None:
    model = made("resnet26")
    expected = [
        ("trunk.stage1.0.conv1", (128, 32, 32), 64 * 128),
        ("trunk.stage1.0.conv2", (128, 32, 32), 9 * 128 * 128),
        ("trunk.stage1.0.dropout", (128, 32, 32), 0),
        ("trunk.stage1.0.conv3", (512, 32, 32), 128 * 512),
        ("trunk.stage1.0.project", (512, 32, 32), 64 * 512),
        ("trunk.stage1.1.conv1", (128, 32, 32), 512 * 128),
        ("trunk.stage1.1.conv2", (128, 32, 32), 9 * 128 * 128),
        ("trunk.stage1.1.conv3", (512, 16, 16), 128 * 512),
        ("trunk.stage1.1.thin", (512, 16, 16), 0),
    ]
    assert layers(model, 64, [name for name, _, _ in expected]) == expected
    # With the dense layer there are 26 that give the network its name: shortcuts do not count.
    named = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len([name for name in named if not name.endswith("project")]) == 26
    assert {layer.p for layer in model.trunk.modules() if isinstance(layer, nn.Dropout)} == {0.2}


def residual(width_in: int, width: int) -> int:
    """Parameters of two convolutions and their normalizations, and of a shortcut where it has any."""
    project = width_in * width + 2 * width if width_in != width else 0
    return 9 * width_in * width + 9 * width * width + 4 * width + project


def test_neural_ode() -> None:
    model = made("neural_ode")
    expected = [
        ("trunk.stem", (64, 32, 32), 3 * 3 * 3 * 64),
        ("trunk.norm", (64, 32, 32), 2 * 64),
        # An ODE block has the parameters of a residual block that leaves the maps as many and as large.
        ("trunk.stage1.residual", (64, 32, 32), residual(64, 64)),
        ("trunk.stage1.ode", (64, 32, 32), residual(64, 64)),
        ("trunk.stage2.residual", (128, 16, 16), residual(64, 128)),
        ("trunk.stage2.ode", (128, 16, 16), residual(128, 128)),
        ("trunk.stage3.residual", (256, 8, 8), residual(128, 256)),
        ("trunk.stage3.ode", (256, 8, 8), residual(256, 256)),
        ("trunk.stage4.residual", (512, 4, 4), residual(256, 512)),
        ("trunk.stage4.ode", (512, 4, 4), residual(512, 512)),
        ("trunk.average", (512, 1, 1), 0),
        ("head", (5,), 512 * 5 + 5),
    ]
    assert layers(model, 32, [name for name, _, _ in expected]) == expected
    # A ResNet-18 for small images has as many: 11,173,962 with ten classes.
    assert parameters(model) == sum(count for _, _, count in expected) == 11_173_962 - 5 * 513


@pytest.mark.parametrize(("name", "size", "only"), [("dieleman", 64, 45), ("resnet26", 96, 64)])
def test_these_networks_take_one_size(name: str, size: int, only: int) -> None:
    with pytest.raises(UserError, match=f"input_size {size}: {name} takes {only} pixels only"):
        create_backbone(name, 5, input_size=size)


@pytest.mark.parametrize("name", ["dieleman", "neural_ode", "resnet26"])
def test_these_networks_have_no_imagenet_weights(name: str) -> None:
    with pytest.raises(UserError, match=f"no ImageNet weights for {name}: set stage1.init to random"):
        create_backbone(name, 5, pretrained=True)
