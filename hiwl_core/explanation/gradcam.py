"""Heat maps of where a network looks: Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391).

A network of 224 pixels ends in maps of 7 x 7, the same network at 64 pixels in maps of 2 x 2, which say
nothing of places. There an earlier layer stands in, and its gradients weigh the maps place by place
(HiResCAM; Draelos & Carin 2020, arXiv:2011.08891): their mean over all places, as Grad-CAM takes it, stands
for them only where the network itself averages over places next. There both methods give the same maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hiwl_core.backbones import BackboneSpec, ImageClassifier
from hiwl_core.cutouts import Preprocessing, normalize
from hiwl_core.errors import UserError, if_missing
from hiwl_core.views import seen_views

__all__ = ["MIN_MAP_SIDE", "central_share", "explained_layer", "heat_maps"]

MIN_MAP_SIDE = 5
"""Pixels on a side that maps have at least where the network has a layer that allows it."""


def heat_maps(
    model: ImageClassifier,
    entry: BackboneSpec,
    preprocessing: Preprocessing,
    pixels: np.ndarray,
    targets: np.ndarray,
    min_side: int = MIN_MAP_SIDE,
    views: int = 1,
    batch_size: int = 16,
) -> np.ndarray:
    """Where in each image the evidence for a class lies.

    Parameters
    ----------
    model : ImageClassifier
        Is left in eval mode on its device, without hooks and gradients.
    entry : BackboneSpec
        Of the model's backbone.
    preprocessing : Preprocessing
        Its normalization is applied here.
    pixels : numpy.ndarray of uint8, shape (N, H, H, 3)
        As `hiwl_core.cutouts.EvalTransform` makes them.
    targets : numpy.ndarray of int, shape (N,)
        For each image the class that is explained, as a position among the model's logits.
    min_side : int
        See `explained_layer`.
    views : int
        Flips and quarter turns whose maps, turned back, are averaged; see `hiwl_core.views.seen_views`.
    batch_size : int
        Images at once; it bounds the memory.

    Returns
    -------
    numpy.ndarray of float32, shape (N, H, H)
        In [0, 1]: what a place has more than the coldest one, in units of the hottest one; all 0 where no
        place speaks for the class more than another.

    Raises
    ------
    UserError
        If the package grad-cam is missing, or shapes or targets do not fit.
    """
    targets = np.asarray(targets)
    if pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2] or targets.shape != pixels.shape[:1]:
        raise UserError(
            f"heat maps need square images (N, H, H, 3) and N classes, not {pixels.shape} and {targets.shape}"
        )
    num_classes = model.head.out_features
    if targets.size and not (targets.min() >= 0 and targets.max() < num_classes):
        raise UserError(
            f"classes to explain must be in [0, {num_classes}), not {targets.min()} to {targets.max()}"
        )
    layer = explained_layer(model, entry, pixels.shape[1], min_side)
    maps = np.zeros(pixels.shape[:3], np.float32)
    cam = _method(model, entry, layer)
    try:
        for start in range(0, len(pixels), batch_size):
            rows = slice(start, start + batch_size)
            batch = torch.from_numpy(np.ascontiguousarray(pixels[rows]))
            for number, view in enumerate(seen_views(batch, views)):
                seen = _of_batch(cam, normalize(view, preprocessing.mean, preprocessing.std), targets[rows])
                maps[rows] += _turned_back(seen, number, views)
    finally:
        cam.activations_and_grads.release()
        model.zero_grad(set_to_none=True)
    peaks = maps.max(axis=(1, 2), keepdims=True, initial=0)
    return np.divide(maps, peaks, out=maps, where=peaks > 0)


def explained_layer(
    model: ImageClassifier, entry: BackboneSpec, input_size: int, min_side: int = MIN_MAP_SIDE
) -> str:
    """The layer whose maps show where the network looks.

    Parameters
    ----------
    model : ImageClassifier
        Is left in eval mode.
    entry : BackboneSpec
        Of the model's backbone.
    input_size : int
        Pixels on a side of the images.
    min_side : int
        Pixels on a side that the maps should have. With 1 it is always the backbone's own Grad-CAM layer, and
        the maps are Grad-CAM as published.

    Returns
    -------
    str
        Name of a module: the backbone's own Grad-CAM layer, or where its maps are smaller than `min_side`
        the last block before it whose maps are not; where all are, the last of the largest. All tokens of a
        transformer are those of the same patches, and its layer is always its own.
    """
    own = entry.gradcam_layer
    if entry.gradcam_layout == "NLC":
        return own
    sides = _map_sides(model, entry, input_size)
    wanted = min(min_side, max(sides.values()))
    if sides[own] >= wanted:
        return own
    return [name for name, side in sides.items() if side >= wanted][-1]


def central_share(maps: np.ndarray, side: float = 0.5) -> np.ndarray:
    """Share of each map's heat within the central square.

    Parameters
    ----------
    maps : numpy.ndarray of float, shape (N, H, H)
    side : float
        Of the square, in units of the map's side: it has ``side**2`` of the area, and that share of the heat
        of a map that is the same everywhere.

    Returns
    -------
    numpy.ndarray of float64, shape (N,)
        NaN for a map without heat.
    """
    height = maps.shape[1]
    margin = round(height * (1 - side) / 2)
    inner = slice(margin, height - margin)
    with np.errstate(invalid="ignore"):
        central = maps[:, inner, inner].sum(axis=(1, 2), dtype=np.float64)
        return np.asarray(central / maps.sum(axis=(1, 2), dtype=np.float64))


def _method(model: ImageClassifier, entry: BackboneSpec, layer: str) -> Any:
    with if_missing("heat maps need the package grad-cam: pip install 'hiwl[figures]'"):
        from pytorch_grad_cam import GradCAM, HiResCAM
    method = GradCAM if layer == entry.gradcam_layer else HiResCAM
    return method(model, [model.get_submodule(layer)], reshape_transform=entry.feature_maps)


def _of_batch(cam: Any, images: Tensor, targets: np.ndarray) -> np.ndarray:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    # A caller who needs no gradients may have switched them off.
    with torch.enable_grad():
        maps: np.ndarray = cam(images, [ClassifierOutputTarget(int(target)) for target in targets])
    return maps


def _turned_back(maps: np.ndarray, number: int, views: int) -> np.ndarray:
    """Maps of one of `seen_views`, as the image lies."""
    turns = 4 if views >= 4 else 1
    if number >= turns:
        maps = np.flip(maps, axis=2)
    return np.rot90(maps, -(number % turns), axes=(1, 2))


def _map_sides(model: ImageClassifier, entry: BackboneSpec, input_size: int) -> dict[str, int]:
    """Pixels on a side of the maps of each block up to the Grad-CAM layer, in the order in which they run."""
    outputs: list[tuple[str, Any, int]] = []

    def note(name: str, output: Any) -> None:
        outputs.append((name, output, getattr(output, "_version", 0)))

    # Some modules only hold others, and are never called themselves.
    called: set[str] = set()
    _run_noting(
        model, input_size, [name for name, _ in model.named_modules()], lambda name, _: called.add(name)
    )
    _run_noting(model, input_size, list(_blocks(model, entry.gradcam_layer, called)), note)
    names = [name for name, _, _ in outputs]
    sides = {}
    for name, output, version in outputs:
        # Of a module that runs more than once the maps are not of one place in the network, and maps that the
        # next module overwrites are lost.
        lost = names.count(name) > 1 or getattr(output, "_version", 0) != version
        if name == entry.gradcam_layer or (not lost and isinstance(output, Tensor) and output.ndim == 4):
            maps = entry.feature_maps(output)
            if maps.shape[2] == maps.shape[3]:
                sides[name] = maps.shape[2]
    return sides


def _run_noting(
    model: ImageClassifier, input_size: int, names: Sequence[str], note: Callable[[str, Any], object]
) -> None:
    """Run a network once, and note what some of its modules put out."""
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: note(name, output)
        )
        for name in names
    ]
    try:
        with torch.no_grad():
            device = model.head.weight.device
            model.eval()(torch.zeros(1, 3, input_size, input_size, device=device))
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(model: nn.Module, layer: str, called: Set[str]) -> Iterator[str]:
    """Names of the modules that stand before a layer, and of the layer: what all maps go through."""
    parent = ""
    for part in layer.split("."):
        for child, module in model.get_submodule(parent).named_children():
            name = f"{parent}.{child}" if parent else child
            if child == part:
                break
            yield from _opened(name, module, called)
        parent = f"{parent}.{part}" if parent else part
    yield layer


def _opened(name: str, module: nn.Module, called: Set[str]) -> Iterator[str]:
    """A module's name, or of a mere container the names of what is in it."""
    if isinstance(module, nn.Sequential) or name not in called:
        for child, inner in module.named_children():
            yield from _opened(f"{name}.{child}", inner, called)
    else:
        yield name
