"""A part of the galaxies to train on that is held out to select by, where no shards were given for that.

The split is that of `hiwl ingest`: by class, in an order that the seed and the ids alone decide, so that it
is the same whenever it is made again. Nothing is copied: both parts are rows of the same shards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hiwl_core.errors import UserError
from hiwl_core.near_names import or_meant
from pipeline import storage
from pipeline.ingestion.split import SKY, Split, sky_cells
from pipeline.shards.cutout_shards import inspect_shard, read_columns
from pipeline.training.labeled_shards import LabeledShards

__all__ = ["HeldOut", "galaxies_of"]

MOST_PARTS = 1000


@dataclass(frozen=True)
class HeldOut:
    """What is held out.

    Parameters
    ----------
    share : str
        Of each class's galaxies, as it was given, such as ``0.1``.
    seed : int
        The recipe's.
    group_by : str, optional
        A column of the shards whose equal values stay together, or ``sky`` for cells of the sky.
    """

    share: str
    seed: int
    group_by: str | None = None

    @classmethod
    def parse(cls, val: str | float, seed: int, group_by: str | None = None) -> HeldOut | None:
        """What `--val` asks for; None where it names shards.

        Raises
        ------
        UserError
            For a number that is no share, and for a group without a share.
        """
        text = str(val)
        try:
            share = float(text)
        except ValueError:
            if group_by is not None:
                raise UserError(
                    f"--group-by {group_by}: that is for a share held out of --data, such as --val 0.1; "
                    f"--val {text} names shards"
                ) from None
            return None
        if not 1 / MOST_PARTS <= share <= 1 - 1 / MOST_PARTS:
            raise UserError(
                f"--val {text}: hold out a share between 0 and 1 of --data, such as 0.1; shards of that name "
                f"are ./{text}"
            )
        return cls(text, seed, group_by)

    @property
    def split(self) -> Split:
        """The same in the words of an ingest."""
        share = Fraction(self.share).limit_denominator(MOST_PARTS)
        return Split((share.denominator - share.numerator, share.numerator), self.seed, self.group_by)

    def describe(self) -> dict[str, Any]:
        """Plain data, by the words that a user knows the options by."""
        return {"--val": self.share, "seed": self.seed, "--group-by": self.group_by}

    @classmethod
    def from_description(cls, description: dict[str, Any]) -> HeldOut:
        """What `describe` gave."""
        return cls(description["--val"], description["seed"], description["--group-by"])

    def __str__(self) -> str:
        """In words."""
        grouped = f", grouped by {self.group_by}" if self.group_by else ""
        return f"{self.share} of each class{grouped}, by the seed {self.seed}"

    def apart(self, labeled: LabeledShards) -> tuple[LabeledShards, LabeledShards]:
        """The galaxies to train on, and those held out.

        Galaxies of one object id are on one side, as are those of one group.

        Parameters
        ----------
        labeled : LabeledShards

        Raises
        ------
        UserError
            If the column to group by is not there, or one side would be empty.
        """
        tables = list(storage.in_threads(partial(self._read, labeled), labeled.shards))
        table = pa.concat_tables(tables)
        rows = pa.table({"object_id": pa.array(np.arange(len(table))), **_columns(table)})
        with duckdb.connect() as database:
            database.register("given", rows)
            found = database.execute(
                f"SELECT object_id FROM ({self.split.query('given')}) WHERE series = 'val'"
            ).fetchnumpy()["object_id"]
        held = np.zeros(len(table), bool)
        held[found] = True
        known = table["label"].is_valid().to_numpy()
        labels = table["label"]
        parts = []
        for rows_of_part in (known & ~held, held):
            counted = labels.filter(pa.array(rows_of_part)).value_counts().to_pylist()
            counts = {one["values"]: one["counts"] for one in counted}
            masks = np.split(rows_of_part, np.cumsum(labeled.rows)[:-1])
            parts.append(
                replace(
                    labeled,
                    class_counts={name: counts.get(name, 0) for name in labeled.class_counts},
                    chosen=tuple(masks),
                )
            )
        train, val = parts
        if not train.galaxies or not val.galaxies:
            grouped = f", grouped by {self.group_by}," if self.group_by else ""
            raise UserError(
                f"--val {self.share}: the {int(known.sum()):,} labeled galaxies of {labeled.shards[0]}"
                f"{'' if len(labeled.shards) == 1 else ', ...'}{grouped} are too few to hold some out"
            )
        return train, val

    def _read(self, labeled: LabeledShards, shard: str) -> pa.Table:
        """Id, label and what is grouped by of the rows of a shard, as text."""
        group, wanted = self.group_by, ["object_id", "label"]
        if group == SKY:
            table = read_columns(shard, labeled.columns, [*wanted, "ra", "dec"])
            together = sky_cells(*(table[name].combine_chunks() for name in ("ra", "dec")))
        elif group is None:
            table, together = read_columns(shard, labeled.columns, wanted), None
        else:
            self._check_column(shard, group)
            table = read_columns(shard, labeled.columns, wanted, [group])
            together = table[group].cast(pa.string()).combine_chunks()
        if together is None:
            together = pa.nulls(len(table), pa.string())
        return pa.table(
            {
                "id": table["object_id"].cast(pa.string()),
                "label": table["label"].cast(pa.string()),
                "group": together,
            }
        )

    def _check_column(self, shard: str, group: str) -> None:
        schema = inspect_shard(shard).schema
        if schema is not None and group not in schema.names:
            there = ", ".join(schema.names) + or_meant(group, schema.names, "--group-by {}")
            raise UserError(f"--group-by {group}: no such column in {shard}: it has {there}")


def _columns(table: pa.Table) -> dict[str, pa.Array]:
    """What `Split.query` reads: who is alone goes with the galaxies of the same id."""
    alone = pc.binary_join_element_wise("the galaxy", table["id"], " ")
    grouped = pc.binary_join_element_wise("the group", table["group"], " ")
    return {"label": table["label"], "together": pc.coalesce(grouped, alone)}


def galaxies_of(labeled: LabeledShards) -> pa.Table:
    """Which galaxies are meant: their ids as text, labels and shards, for a table beside the run.

    Parameters
    ----------
    labeled : LabeledShards
        One side of `HeldOut.apart`.
    """
    tables = []
    masks = np.split(labeled.mask, np.cumsum(labeled.rows)[:-1])
    for shard, mask in zip(labeled.shards, masks, strict=True):
        table = read_columns(shard, labeled.columns, ["object_id", "label"]).filter(pa.array(mask))
        ids = table["object_id"].cast(pa.string())
        names = pa.array([shard.rsplit("/", 1)[-1]] * len(table), pa.string())
        tables.append(pa.table({"object_id": ids, "label": table["label"], "shard": names}))
    return pa.concat_tables(tables)
