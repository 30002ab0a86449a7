"""The cutouts of a training: those to learn from and those to select by, as it takes them from its shards."""

from __future__ import annotations

from hiwl_core.errors import UserError
from hiwl_core.recipe import Recipe
from pipeline.progress import say
from pipeline.training.checks import TrainingPlan
from pipeline.training.cutout_store import MEBIBYTE, CutoutStore, load_cutouts

__all__ = ["Stores", "load_stores", "sampled"]

Stores = dict[str, CutoutStore]
"""The cutouts to train on and to select by, under ``"train"`` and ``"val"``."""


def load_stores(plan: TrainingPlan, here: bool = False) -> Stores:
    """The readable cutouts of a plan's shards, in Ray's object store, or in this process's memory.

    Raises
    ------
    UserError
        If a part has none.
    """
    stages = plan.recipe.stages.values()
    smallest = {
        "train": max(stage.augmentation.center_crop for stage in stages),
        "val": max(stage.center_crop for stage in stages),
    }
    parts = {"train": plan.train, "val": plan.val}
    if plan.held_out:
        # Both are rows of the same shards, which are read once.
        everything = _loaded(plan, "train", max(smallest.values()), here)
        stores = {part: everything.part(labeled.mask) for part, labeled in parts.items()}
    else:
        stores = {part: _loaded(plan, part, pixels, here) for part, pixels in smallest.items()}
    for part, labeled in parts.items():
        store = stores[part]
        left_out = {**store.left_out, **({"unlabeled": labeled.unlabeled} if labeled.unlabeled else {})}
        note = f"; left out: {', '.join(f'{n} {why}' for why, n in left_out.items())}" if left_out else ""
        counts = ", ".join(f"{name} {n}" for name, n in labeled.class_counts.items())
        windows = "" if store.blocks else f", read in {len(store.windows())} windows in each epoch"
        said = "" if plan.held_out and part == "val" else note
        say(f"{part}: {len(store)} galaxies in {len(labeled.shards)} shards ({counts}){windows}{said}")
        if not len(store):
            smaller = "--set stage1.center_crop=64 --set stage1.augmentation.center_crop=64"
            raise UserError(
                f"no readable cutout of {smallest[part]} px or more among the {part} shards{note}: smaller "
                f"ones want a smaller crop, as by {smaller}"
            )
    return stores


def _loaded(plan: TrainingPlan, part: str, smallest: int, here: bool) -> CutoutStore:
    recipe, labeled = plan.recipe, plan.train if part == "train" else plan.val
    window = int(recipe.window_mb * MEBIBYTE)
    marks = plan.description[part]
    return load_cutouts(labeled, recipe.taxonomy, smallest, recipe.rgb, window, marks, here)


def sampled(recipe: Recipe, stores: Stores) -> Stores:
    """The galaxies that the recipe takes of those that there are.

    Parameters
    ----------
    recipe : Recipe
    stores : dict of CutoutStore
    """
    taken_of = {}
    for part, wanted in (("train", recipe.train_galaxies), ("val", recipe.val_galaxies)):
        taken_of[part] = stores[part].sampled(wanted, recipe.seed)
        taken = len(taken_of[part])
        if taken < len(stores[part]):
            say(f"{part}: a stratified sample of {taken} of them")
    return taken_of
