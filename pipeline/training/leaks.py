"""Galaxies on two sides: learned from, and then selected by or scored on as well."""

from __future__ import annotations

import hashlib
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.spatial import cKDTree

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.progress import say
from pipeline.shards.cutout_shards import iter_rows
from pipeline.shards.sky_positions import unit_vectors
from pipeline.training.labeled_shards import LabeledShards

__all__ = ["check_apart", "shared_galaxies", "tell_shared"]

ARCSEC = np.deg2rad(1 / 3600)
# What is compared before each training takes seconds, up to here.
MOST_ROWS = 5_000_000
MOST_IMAGES = 200_000


class _Keys(NamedTuple):
    """What galaxies are known by.

    Parameters
    ----------
    ids : pyarrow.Array of str, length N
    directions : numpy.ndarray of float64, shape (N, 3)
        Unit vectors; NaN without a position.
    images : pyarrow.Array of bytes, length N, or None
        Digests.
    """

    ids: pa.Array
    directions: np.ndarray
    images: pa.Array | None


def check_apart(others: dict[str, LabeledShards], option: str, held_out: LabeledShards) -> None:
    """Refuse a shard that was given twice, and say which galaxies were.

    Parameters
    ----------
    others : dict of LabeledShards
        What is learned from or selected by, by the option that gave it.
    option : str
        That gave the galaxies which should be others.
    held_out : LabeledShards

    Raises
    ------
    UserError
        If a shard is among those of another option, under whatever name.
    """
    contents = dict(zip(held_out.fingerprints, held_out.shards, strict=True))
    for other, labeled in others.items():
        for content, shard in zip(labeled.fingerprints, labeled.shards, strict=True):
            if content in contents:
                raise UserError(
                    f"{option}: {contents[content]} is a shard of {other} too ({shard}); give galaxies that "
                    "no training saw, such as a part that `hiwl ingest --split 8:1:1` makes"
                )
    for other, labeled in others.items():
        tell_shared(other, labeled, option, held_out)


def tell_shared(other: str, labeled: LabeledShards, option: str, held_out: LabeledShards) -> None:
    """Say which galaxies of one set are among those of another; see `check_apart`."""
    if labeled.galaxies + held_out.galaxies > MOST_ROWS:
        say(f"whether galaxies of {option} are among those of {other} was not looked at: there are too many")
        return
    shared = shared_galaxies(labeled, held_out)
    if shared:
        by = ", ".join(f"{count:,} by {key}" for key, count in shared.items())
        say(
            f"warning: some of the {held_out.galaxies:,} galaxies of {option} are among those of {other} "
            f"too, {by}: the model will seem better than it is"
        )


def shared_galaxies(labeled: LabeledShards, held_out: LabeledShards) -> dict[str, int]:
    """How many galaxies of one set are among those of another.

    Parameters
    ----------
    labeled, held_out : LabeledShards

    Returns
    -------
    dict of int
        Of the second set, by what they share: ``"object id"``, ``"position (1 arcsec)"`` or ``"image"``; no
        key where there is none. Images are compared byte by byte, and not of very large sets.
    """
    with_images = labeled.galaxies + held_out.galaxies <= MOST_IMAGES
    keys = partial(_keys_of, with_images=with_images)
    given = list(storage.in_threads(partial(keys, held_out), range(len(held_out.shards))))
    ids = pa.chunked_array([one.ids for one in given]).combine_chunks()
    directions = np.concatenate([one.directions for one in given])
    placed = np.flatnonzero(np.isfinite(directions[:, 0]))
    tree = cKDTree(directions[placed]) if placed.size else None
    images = pa.chunked_array([one.images for one in given]).combine_chunks() if with_images else None

    found = {key: np.zeros(len(ids), bool) for key in ("object id", "position (1 arcsec)", "image")}
    for one in storage.in_threads(partial(keys, labeled), range(len(labeled.shards))):
        _mark(found["object id"], one.ids, ids)
        if images is not None and one.images is not None:
            _mark(found["image"], one.images, images)
        here = one.directions[np.isfinite(one.directions[:, 0])]
        if tree is not None and len(here):
            near = tree.query_ball_point(here, 2 * np.sin(ARCSEC / 2))
            found["position (1 arcsec)"][placed[np.fromiter(chain.from_iterable(near), np.int64)]] = True
    return {key: int(rows.sum()) for key, rows in found.items() if rows.any()}


def _mark(found: np.ndarray, some: pa.Array, among: pa.Array) -> None:
    """Note which values of an array are among some others."""
    found |= pc.is_in(among, value_set=some, skip_nulls=True).to_numpy(zero_copy_only=False)


def _keys_of(labeled: LabeledShards, shard: int, with_images: bool) -> _Keys:
    wanted = ["object_id", "ra", "dec", *(["image"] if with_images else [])]
    meant = None if labeled.chosen is None else labeled.chosen[shard]
    places, digests, start = [], [], 0
    for table in iter_rows(labeled.shards[shard], labeled.columns, wanted):
        if meant is not None:
            start, rows = start + len(table), meant[start : start + len(table)]
            table = table.filter(pa.array(rows))
        if with_images:
            digests += [_digest(image) for image in table["image"]]
            table = table.drop_columns("image")
        places.append(table)
    table = pa.concat_tables(places, promote_options="permissive")
    directions = unit_vectors(*(table[name].cast(pa.float64()).to_numpy() for name in ("ra", "dec")))
    ids = table["object_id"].cast(pa.string()).combine_chunks()
    return _Keys(ids, directions, pa.array(digests, pa.binary()) if with_images else None)


def _digest(image: pa.Scalar) -> bytes | None:
    return hashlib.blake2b(image.as_buffer(), digest_size=16).digest() if image.is_valid else None
