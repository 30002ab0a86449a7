"""Networks of timm as backbones: what is found out about them, and what their users get wrong."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hiwl_core.backbones import create_backbone, spec, timm_networks
from hiwl_core.errors import UserError
from hiwl_core.recipe import load_recipe

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="the extra timm is not installed")


def test_what_is_known_of_a_convolutional_network() -> None:
    entry = spec("timm:resnet18")
    assert (entry.input_size, entry.feature_width) == (224, 512)
    assert (entry.mean, entry.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (entry.gradcam_layer, entry.gradcam_layout) == ("trunk.layer4", "NCHW")


def test_the_tag_of_the_weights_decides_how_they_are_fed() -> None:
    # The same network, whose weights differ in the normalization that they were trained with.
    assert spec("timm:vit_tiny_patch16_224.augreg_in21k").mean == (0.5, 0.5, 0.5)
    assert spec("timm:mobilenetv3_small_050").feature_width == 1024


@pytest.mark.parametrize(
    ("name", "layer", "layout", "shape"),
    [
        ("timm:test_vit", "trunk.blocks.5.norm1", "NLC", (1, 64, 10, 10)),
        ("timm:swin_tiny_patch4_window7_224", "trunk.layers.3", "NHWC", (1, 768, 7, 7)),
    ],
)
def test_activations_of_transformers_become_maps(
    name: str, layer: str, layout: str, shape: tuple[int, ...]
) -> None:
    entry = spec(name)
    assert (entry.gradcam_layer, entry.gradcam_layout) == (layer, layout)
    size = entry.input_size
    with torch.device("meta"):
        model = create_backbone(name, 4).eval()
        seen: list[torch.Tensor] = []
        model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 4)
    assert entry.feature_maps(seen[0]).shape == shape


def test_a_local_file_of_timm(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(1)
    source = timm.create_model("test_vit", num_classes=10).eval()
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    model = create_backbone("timm:test_vit", 4, pretrained=tmp_path / "model.safetensors").eval()
    images = torch.randn(1, 3, 160, 160)
    expected = source.forward_head(source.forward_features(images), pre_logits=True)
    torch.testing.assert_close(model.features(images), expected)
    smaller = create_backbone(
        "timm:test_vit", 4, pretrained=tmp_path / "model.safetensors", input_size=64
    ).eval()
    assert smaller.state_dict()["trunk.pos_embed"].shape == (1, 4 * 4 + 1, 64)
    assert smaller(images[..., :64, :64]).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        (
            "timm:resnet_18",
            None,
            "no backbone 'timm:resnet_18': timm .* has no 'resnet_18'; did you mean resnet",
        ),
        ("timm:xyzzy", None, "has no 'xyzzy'; timm.list_models"),
        ("timm:resnet18.in99k", None, "weights of resnet18 in timm are a1_in1k, "),
        (
            "timm:test_vit",
            60,
            "input_size 60: timm:test_vit cuts .* of 16 pixels; .* such as 48 or 64",
        ),
    ],
)
def test_mistakes_are_one_line(name: str, size: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        create_backbone(name, 4, input_size=size)
    assert "\n" not in str(caught.value)


def test_without_timm_the_recipe_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    timm_networks.spec.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"stage1: .*need the package timm: pip install 'hiwl\[timm\]'"):
        load_recipe("demo", ["stage1.backbone=timm:resnet18", "stage2.backbone=timm:resnet18"])


def test_weights_out_of_reach_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"https://huggingface.co/timm/test_resnet.*out of reach.*stage1.init"
    ):
        create_backbone("timm:test_resnet", 4, pretrained=True)
