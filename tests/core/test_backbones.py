from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hiwl_core.backbones import available_backbones, create_backbone, spec
from hiwl_core.errors import UserError


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_lite0"]
)
def test_logits_features_and_gradcam_layer(name: str) -> None:
    model = create_backbone(name, num_classes=4, input_size=64).eval()
    images = torch.zeros(2, 3, 64, 64)
    assert model(images).shape == (2, 4)
    assert model.features(images).shape == (2, spec(name).feature_width)
    assert spec(name).gradcam_layer in dict(model.named_modules())


def test_registry_names_what_there_is() -> None:
    assert set(available_backbones()) >= {
        "efficientnet_b0",
        "efficientnet_b1",
        "efficientnet_b2",
        "efficientnet_lite0",
    }
    with pytest.raises(UserError, match="no backbone 'resnet1': there are efficientnet_b0"):
        spec("resnet1")


def test_lite0_brings_its_imagenet_weights() -> None:
    torch.manual_seed(0)
    first = create_backbone("efficientnet_lite0", 4, pretrained=True)
    second = create_backbone("efficientnet_lite0", 2, pretrained=True)
    for (name, one), two in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert name.startswith("head.") or torch.equal(one, two)
    # ImageNet's first filters are far from the small random ones of a new network.
    assert first.state_dict()["trunk.network._conv_stem.weight"].abs().max() > 0.5


def test_torchvision_weights_load_from_a_local_file(tmp_path: Path) -> None:
    from torchvision.models import efficientnet_b0

    torch.manual_seed(1)
    source = efficientnet_b0(weights=None)
    torch.save(source.state_dict(), tmp_path / "b0.pth")
    model = create_backbone("efficientnet_b0", 4, pretrained=tmp_path / "b0.pth").eval()
    images = torch.randn(1, 3, 64, 64)
    expected = source.eval().avgpool(source.features(images)).flatten(1)
    torch.testing.assert_close(model.features(images), expected)


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    other = create_backbone("efficientnet_b0", 4)
    save_file(
        {name: tensor.contiguous() for name, tensor in other.state_dict().items()},
        tmp_path / "b0.safetensors",
    )
    with pytest.raises(UserError, match=r"b0\.safetensors.*another backbone"):
        create_backbone("efficientnet_lite0", 4, pretrained=tmp_path / "b0.safetensors")


def test_a_missing_weights_file_is_named() -> None:
    with pytest.raises(UserError, match=r"no weights file 'nowhere\.pth'"):
        create_backbone("efficientnet_b0", 4, pretrained="nowhere.pth")


def test_weights_out_of_reach_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.download_url_to_file", no_network)
    with pytest.raises(UserError, match="out of reach.*stage1.init"):
        create_backbone("efficientnet_b1", 4, pretrained=True)
