"""A recipe with what a user says beside it: classes of their own, a method, single keys."""

from __future__ import annotations

from collections.abc import Sequence

from hiwl_core.methods import method_overrides
from hiwl_core.recipe import Recipe, load_recipe
from hiwl_core.taxonomy_file import read_taxonomy, taxonomy_overrides

__all__ = ["training_recipe"]


def training_recipe(
    name: str, taxonomy: str | None = None, method: str | None = None, overrides: Sequence[str] = ()
) -> Recipe:
    """What decides a training.

    Parameters
    ----------
    name : str
        See `hiwl_core.recipe.load_recipe`.
    taxonomy : str, optional
        A file of classes; default: the recipe's, which are Galaxy Zoo's.
    method : str, optional
        See `hiwl_core.methods.method_overrides`; default: the hierarchy, where there are groups of
        classes, and one network where there are none.
    overrides : sequence of str
        Such as ``stage1.epochs=3``; they come last.

    Raises
    ------
    UserError
        For a file, name, key or value that is none.
    """
    classes = read_taxonomy(taxonomy)
    own = taxonomy_overrides(classes) if taxonomy else []
    method = method or ("hiwl" if classes.groups else "slwslm")
    return load_recipe(name, [*own, *method_overrides(method), *overrides])
