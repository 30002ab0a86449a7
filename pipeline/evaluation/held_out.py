"""Which galaxies of some shards a model may be scored on, where it learned from others of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from hiwl_core.bundle import ModelBundle
from hiwl_core.errors import UserError
from pipeline.progress import say
from pipeline.training.held_out import HeldOut
from pipeline.training.labeled_shards import LabeledShards

__all__ = ["LEARNED_FROM", "not_learned_from"]

LEARNED_FROM = "learned from"


def not_learned_from(bundle: ModelBundle, labeled: LabeledShards) -> np.ndarray | None:
    """The rows that the model did not learn from; None where it cannot have, or held none out of these.

    Parameters
    ----------
    bundle : ModelBundle
    labeled : LabeledShards
        To score it on.

    Returns
    -------
    numpy.ndarray of bool, shape (R,), or None
        For each row of all shards. Of those of the training, the held-out part is split off again as the
        training did it, for which all of them have to be there.

    Raises
    ------
    UserError
        If the shards are the training's, but read by other columns.
    """
    held_out: dict[str, Any] | None = bundle.provenance.get("held_out")
    trained = set(bundle.provenance.get("train", ()))
    learned = [mark in trained for mark in labeled.fingerprints]
    if not any(learned):
        return None
    if held_out is None or trained - set(labeled.fingerprints):
        mend = "" if held_out is None else "; give all of them to have the part scored that was held out"
        say(
            f"warning: the model learned from {sum(learned)} of these {len(learned)} shards: the figures say "
            f"little of other galaxies{mend}"
        )
        return None
    of_training = np.repeat(learned, labeled.rows)
    whole = labeled.only([number for number, one in enumerate(learned) if one])
    train, val = HeldOut.from_description(held_out).apart(whole)
    counts = {"train": train.galaxies, "val": val.galaxies}
    if counts != held_out["galaxies"]:
        raise UserError(
            f"{val.galaxies:,} galaxies of these shards were held out of the training by the columns "
            f"{labeled.columns.id!r} and {labeled.columns.label!r}, but it held out "
            f"{held_out['galaxies']['val']:,}: name the columns as for `hiwl train`"
        )
    say(f"scored are the {val.galaxies:,} galaxies that the training held out ({held_out['--val']} of these)")
    kept = ~of_training
    kept[of_training] = val.mask
    return kept
