"""Any network of timm by its name there, as ``timm:<name>`` (Wightman 2019, doi:10.5281/zenodo.4414861)."""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache, partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hiwl_core.backbones.backbone_spec import BackboneSpec, Weights, multiples_of, under_trunk
from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.errors import UserError, if_missing

__all__ = ["PREFIX", "spec"]

PREFIX = "timm:"
POSITIONS = "trunk.pos_embed"


class TimmClassifier(ImageClassifier):
    """A network of timm, whose position embedding may be that of one input size."""

    def fitted(self, weights: Weights) -> Weights:
        """Interpolate a position embedding to this network's grid of patches."""
        from timm.layers import resample_abs_pos_embed

        own, given = getattr(self.trunk, "pos_embed", None), weights.get(POSITIONS)
        if own is None or given is None or own.ndim != 3 or own.shape[1] == given.shape[1]:
            return weights
        prefix = 0 if getattr(self.trunk, "no_embed_class", False) else self.trunk.num_prefix_tokens
        grid: Any = self.trunk.patch_embed.grid_size  # type: ignore[union-attr]
        fitted = resample_abs_pos_embed(given, list(grid), num_prefix_tokens=prefix)
        return {**weights, POSITIONS: fitted}


@lru_cache
def spec(name: str) -> BackboneSpec:
    """What timm and a look at the network, without its weights, say of it.

    Raises
    ------
    UserError
        If timm is not installed or has no such network.
    """
    short = name.removeprefix(PREFIX)
    config = _config(short)
    size = config["input_size"][-1]
    network, width, layer, activations = _look(short, size)
    layout: Literal["NCHW", "NHWC", "NLC"] = "NCHW"
    if activations.ndim == 3:
        layout = "NLC"
    elif getattr(network, "output_fmt", None) == "NHWC":
        layout = "NHWC"
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)

    # A grid of trainings asks for the same sizes again and again.
    @lru_cache
    def check_input(other: int) -> None:
        if other == size:
            return
        if patch and config.get("fixed_input_size"):
            multiples_of(name, patch[0])(other)
        _look(short, other)

    return BackboneSpec(
        name=name,
        input_size=size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        feature_width=width,
        gradcam_layer=f"trunk.{layer}",
        build=partial(_build, short, width),
        imagenet_trunk=partial(_imagenet_trunk, short),
        check_input=check_input,
        gradcam_layout=layout,
        prefix_tokens=getattr(network, "num_prefix_tokens", 0) if layout == "NLC" else 0,
    )


def _timm() -> Any:
    with if_missing(f"backbones {PREFIX}<name> need the package timm: pip install 'hiwl[timm]'"):
        import timm
    return timm


def _config(short: str) -> dict[str, Any]:
    """What timm keeps with a network's weights: sizes, normalization, where they are."""
    timm = _timm()
    network, _, tag = short.partition(".")
    if not timm.is_model(network):
        near = get_close_matches(network, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() has the names"
        raise UserError(f"no backbone {PREFIX + short!r}: timm {timm.__version__} has no {network!r}; {hint}")
    tagged = timm.list_pretrained(f"{network}.*") if tag else []
    if tag and short not in tagged:
        tags = ", ".join(one.partition(".")[2] for one in tagged)
        raise UserError(f"no backbone {PREFIX + short!r}: weights of {network} in timm are {tags or 'none'}")
    config: dict[str, Any] = timm.get_pretrained_cfg(short).to_dict()
    return config


def _network(short: str, size: int) -> nn.Module:
    """timm's network without its head, for an input size."""
    config = _config(short)
    options: dict[str, Any] = {"num_classes": 0}
    if config.get("fixed_input_size") and size != config["input_size"][-1]:
        options["img_size"] = size
    network: nn.Module = _timm().create_model(short, **options)
    if getattr(network, "dynamic_img_size", False):
        # Interpolating the position embedding anew for each batch is of no use here, nor can it be exported.
        network = _timm().create_model(short, dynamic_img_size=False, **options)
    return network


def _look(short: str, size: int) -> tuple[nn.Module, int, str, Tensor]:
    """A network without memory for its weights, its feature width, Grad-CAM layer and what that puts out."""
    seen: list[Tensor] = []
    # timm and its networks refuse a size in many ways.
    try:
        with torch.device("meta"), torch.no_grad():
            network = _network(short, size).eval()
            layer = _gradcam_layer(network)
            hook = network.get_submodule(layer).register_forward_hook(lambda _m, _i, out: seen.append(out))
            width = network(torch.zeros(1, 3, size, size)).shape[1]
            hook.remove()
    except UserError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"input_size {size}: {PREFIX}{short} does not take it ({reason})") from None
    return network, width, layer, seen[0]


def _gradcam_layer(network: nn.Module) -> str:
    """The last module with places in the image, as timm lists them; in a transformer before its attention."""
    last: str = network.feature_info[-1]["module"]  # type: ignore[index, assignment]
    before = f"{last}.norm1"
    has_tokens = hasattr(network, "num_prefix_tokens")
    return before if has_tokens and before in dict(network.named_modules()) else last


def _build(short: str, width: int, num_classes: int, input_size: int) -> ImageClassifier:
    """The network with random weights."""
    return TimmClassifier(_network(short, input_size), width, num_classes, dropout=0.0)


def _imagenet_trunk(short: str) -> Weights:
    """timm's pretrained weights, from the cache or the network."""
    config = _config(short)
    if not (config.get("hf_hub_id") or config.get("url")):
        raise UserError(f"timm has no weights for {short!r}: set stage1.init to random or a weights file")
    # The hub's client has errors of its own, which differ by version.
    try:
        network = _timm().create_model(short, pretrained=True, num_classes=0)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        hub = config.get("hf_hub_id")
        place = f"https://huggingface.co/{hub}" if hub else config["url"]
        raise UserError(
            f"no pretrained weights for {PREFIX}{short}: {place} is out of reach ({reason}); fetch its "
            "model.safetensors elsewhere and set stage1.init to the file's path, or train from scratch with "
            "stage1.init=random"
        ) from None
    return under_trunk(network.state_dict())
