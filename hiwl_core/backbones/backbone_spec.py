"""What the rest of HIWL needs to know of a backbone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Literal

from torch import Tensor

from hiwl_core.backbones.classifier import ImageClassifier
from hiwl_core.errors import UserError

__all__ = [
    "GALAXY_ZOO_MEAN",
    "GALAXY_ZOO_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "BackboneSpec",
    "Weights",
    "any_size",
    "galaxy_spec",
    "multiples_of",
    "no_imagenet_weights",
    "only_size",
    "under_trunk",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Of the Galaxy Zoo composites, whose sky is nearly black (code of Ma et al. 2023, MNRAS 519, 4765).
GALAXY_ZOO_MEAN, GALAXY_ZOO_STD = (0.046, 0.041, 0.030), (0.090, 0.075, 0.065)

Weights = dict[str, Tensor]
"""Tensors by name, as in a state dict."""


def any_size(size: int) -> None:
    """For `BackboneSpec.check_input` of a network that takes all sizes."""


def under_trunk(weights: Weights) -> Weights:
    """For `BackboneSpec.rename` of a network that is a trunk as it is."""
    return {f"trunk.{name}": tensor for name, tensor in weights.items()}


@dataclass(frozen=True)
class BackboneSpec:
    """What the rest of HIWL needs to know of a backbone.

    Parameters
    ----------
    name : str
    input_size : int
        Pixels on a side that its ImageNet weights were trained at, or that it is made for.
    mean, std : tuple of float
        Normalization that its ImageNet weights want, in units of full scale; that of the Galaxy Zoo
        composites where there are none.
    feature_width : int
        Width of the penultimate layer.
    gradcam_layer : str
        Name of the module whose output is the last one with places in the image: a convolutional layer's or
        block's, in a transformer the first normalization of the last block (the usual choice: of what follows
        the last attention only the class token is used, and the patches have no gradient).
    build : callable
        ``build(num_classes, input_size)`` makes the network with random weights.
    imagenet_trunk : callable
        Returns the ImageNet weights of everything but the head, under the names of the built network;
        raises UserError where there are none or they are out of reach.
    rename : callable
        From the names of the tensors in the library's own files to those of the built network.
    check_input : callable
        Raises UserError for an input size in pixels that the network cannot take.
    gradcam_layout : {"NCHW", "NHWC", "NLC"}
        Axes of what `gradcam_layer` puts out: maps, maps with channels last, or tokens.
    prefix_tokens : int
        Tokens before those of the patches, such as the class token.
    on_imagenet : bool
        Whether there are ImageNet weights that `imagenet_trunk` can find.
    """

    name: str
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    feature_width: int
    gradcam_layer: str
    build: Callable[[int, int], ImageClassifier]
    imagenet_trunk: Callable[[], Weights]
    rename: Callable[[Weights], Weights] = under_trunk
    check_input: Callable[[int], None] = any_size
    gradcam_layout: Literal["NCHW", "NHWC", "NLC"] = "NCHW"
    prefix_tokens: int = 0
    on_imagenet: bool = True

    def feature_maps(self, activations: Tensor) -> Tensor:
        """What `gradcam_layer` puts out, or its gradient, as maps.

        Parameters
        ----------
        activations : Tensor
            In the layout `gradcam_layout`; tokens must be those of a square image.

        Returns
        -------
        Tensor, shape (N, C, H, W)
        """
        if self.gradcam_layout == "NHWC":
            return activations.permute(0, 3, 1, 2)
        if self.gradcam_layout == "NLC":
            patches = activations[:, self.prefix_tokens :].transpose(1, 2)
            return patches.unflatten(2, (isqrt(patches.shape[2]), -1))
        return activations


def only_size(name: str, only: int) -> Callable[[int], None]:
    """For `BackboneSpec.check_input` of a network whose layers fit one size."""

    def check(size: int) -> None:
        if size != only:
            raise UserError(f"input_size {size}: {name} takes {only} pixels only; set input_size to {only}")

    return check


def multiples_of(name: str, step: int) -> Callable[[int], None]:
    """For `BackboneSpec.check_input` of a network that cuts images into patches."""

    def check(size: int) -> None:
        if size % step:
            below = size // step * step
            raise UserError(
                f"input_size {size}: {name} cuts images into patches of {step} pixels; set input_size to a "
                f"multiple, such as {below or step} or {below + step}"
            )

    return check


def no_imagenet_weights(name: str) -> Callable[[], Weights]:
    """For `BackboneSpec.imagenet_trunk` of a network that nobody trained on ImageNet."""

    def refuse() -> Weights:
        raise UserError(
            f"there are no ImageNet weights for {name}: set stage1.init to random, or to the path of a "
            "weights file"
        )

    return refuse


def galaxy_spec(
    name: str,
    input_size: int,
    feature_width: int,
    gradcam_layer: str,
    build: Callable[[int, int], ImageClassifier],
    check_input: Callable[[int], None] | None = None,
) -> BackboneSpec:
    """The spec of a network made for galaxies: never trained on ImageNet, by default of one input size."""
    return BackboneSpec(
        name=name,
        input_size=input_size,
        mean=GALAXY_ZOO_MEAN,
        std=GALAXY_ZOO_STD,
        feature_width=feature_width,
        gradcam_layer=gradcam_layer,
        build=build,
        imagenet_trunk=no_imagenet_weights(name),
        check_input=check_input or only_size(name, input_size),
        on_imagenet=False,
    )
