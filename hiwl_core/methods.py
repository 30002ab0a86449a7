"""The methods that are compared, each as changes to a recipe: all else stays the same.

The first five are those of Ma et al. (2023, MNRAS 519, 4765): the whole method, the same without its
hierarchy (SLWSLM), without its weighted sampling, without its label smoothing (HMWS), and the plain network
of its comparison of backbones (Table 7), without any of the three. The last two replace the uniform
smoothing, in which an edge-on disk is as near to a round galaxy as to a cigar, by targets that follow the
classes' likeness.

==========  ===================================================================================
hiwl        the recipe as it is: hierarchy, weighted sampling after stage 1, label smoothing
slwslm      one network for all classes, with weighted sampling and label smoothing
unweighted  the hierarchy with label smoothing, without weighted sampling
hmws        the hierarchy with weighted sampling, without label smoothing
plain       one network for all classes, plain sampling, no label smoothing
similarity  as hiwl, smoothed by the distances of the classes (Bertinetto et al. 2020)
online      as hiwl, smoothed by what the network itself takes for alike (Zhang et al. 2021)
==========  ===================================================================================
"""

from __future__ import annotations

from functools import cache

from hiwl_core.errors import UserError
from hiwl_core.near_names import or_meant
from hiwl_core.recipe import Recipe, load_recipe

__all__ = ["METHODS", "method_name", "method_overrides"]

METHODS: dict[str, tuple[str, ...]] = {
    "hiwl": (),
    "slwslm": ("hierarchy=false", "stage1.sampling=weighted"),
    "unweighted": ("hierarchy=true", "later.sampling=plain"),
    "hmws": ("hierarchy=true", "stage1.label_smoothing=0", "later.label_smoothing=0"),
    "plain": ("hierarchy=false", "stage1.sampling=plain", "stage1.label_smoothing=0"),
    "similarity": ("stage1.smoothing=similarity", "later.smoothing=similarity"),
    "online": ("stage1.smoothing=online", "later.smoothing=online"),
}
"""Overrides of each method, for `hiwl_core.recipe.load_recipe`."""

Switches = tuple[set[tuple[str, bool, str]], ...]


def method_overrides(name: str) -> tuple[str, ...]:
    """What a method changes in a recipe; a user's own overrides come after it.

    Raises
    ------
    UserError
        If there is no such method.
    """
    if name not in METHODS:
        raise UserError(f"no method {name!r}: there are {', '.join(METHODS)}{or_meant(name, METHODS)}")
    return METHODS[name]


def method_name(recipe: Recipe) -> str | None:
    """Which method's switches a recipe has; None if they are those of none."""
    switches = _switches(recipe)
    return next((name for name in METHODS if _switches_of(name) == switches), None)


@cache
def _switches_of(method: str) -> Switches:
    return _switches(load_recipe("paper", METHODS[method]))


def _switches(recipe: Recipe) -> Switches:
    """Those of stage 1 and of the later stages, which a method sets alike."""
    first, *later = (
        (stage.sampling, stage.label_smoothing > 0, stage.smoothing) for stage in recipe.stages.values()
    )
    return ({first}, set(later))
