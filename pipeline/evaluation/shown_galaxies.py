"""The scored galaxies that the pages show: mistakes, one of each class, and some of each confusion."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from hiwl_core.bundle import ModelBundle
from hiwl_core.taxonomy import Taxonomy
from pipeline.catalog.catalog_schema import TRUE_LABEL
from pipeline.evaluation.galaxies import confident_mistakes, galaxy_cards, read_pictures, scored
from pipeline.pages.cards import Card
from pipeline.pages.class_notes import ClassNote, class_sentence
from pipeline.pages.confusion_cells import ConfusionCell, anchor, pictured_cells
from pipeline.shards.cutout_shards import Columns

__all__ = ["ShownGalaxies", "class_notes", "read_shown", "typical"]

MISTAKES, MISTAKE_PIXELS = 14, 256
IN_A_CELL, CELL_PIXELS = 6, 160
# Completed by what is known of the galaxies; see `typical`.
HOW_CHOSEN = (
    "The picture of a class is of a galaxy that the model calls right, {}; if it calls none right, of one "
    "that it missed."
)
LIKEST = "with a confidence above that of half of them and most like those that it was trained on"
SUREST = "with the highest confidence"


@dataclass(frozen=True)
class ShownGalaxies:
    """Galaxies as cards.

    Parameters
    ----------
    mistakes : list of Card
        The most confident ones.
    examples : dict of Card
        By class a typical one of it; see `typical`.
    how_chosen : str
        How these were.
    cells : list of ConfusionCell
        Of the confusion matrix.
    """

    mistakes: list[Card]
    examples: dict[str, Card]
    how_chosen: str
    cells: list[ConfusionCell]

    @property
    def anchors(self) -> Collection[str]:
        """Of the cells."""
        return {cell.anchor for cell in self.cells}


def read_shown(
    galaxies: pd.DataFrame, confusion: pd.DataFrame, bundle: ModelBundle, columns: Columns
) -> ShownGalaxies:
    """Choose galaxies, always alike, and read their cutouts.

    Parameters
    ----------
    galaxies : pandas.DataFrame
        See `pipeline.evaluation.galaxies.read_galaxies`.
    confusion : pandas.DataFrame
        Of them.
    bundle : ModelBundle
    columns : Columns
        Of the shards.
    """
    mistakes = confident_mistakes(galaxies, MISTAKES)
    # The surest first, wherever they stand.
    ordered = scored(galaxies).sort_values(["confidence", "object_id"], ascending=[False, True])
    examples = typical(ordered)
    rows_of = {key: rows.head(IN_A_CELL) for key, rows in ordered.groupby([TRUE_LABEL, "label"], sort=False)}
    places = pictured_cells(confusion)
    in_cells = [rows_of[confusion.index[row], confusion.columns[column]] for row, column in places]
    wanted = pd.concat([mistakes, examples, *in_cells])
    pictures = read_pictures(wanted[~wanted.index.duplicated()], columns)

    def cards(rows: pd.DataFrame, pixels: int) -> list[Card]:
        return galaxy_cards(rows, pictures, bundle.taxonomy, bundle.rgb, pixels)

    counts = confusion.to_numpy()
    cells = [
        ConfusionCell(
            true=str(confusion.index[row]),
            called=str(confusion.columns[column]),
            galaxies=int(counts[row, column]),
            share=float(counts[row, column] / counts[row].sum()),
            anchor=anchor(row, column),
            cards=cards(rows, CELL_PIXELS),
        )
        for (row, column), rows in zip(places, in_cells, strict=True)
    ]
    of_class = dict(zip(examples[TRUE_LABEL], cards(examples, CELL_PIXELS), strict=True))
    how = HOW_CHOSEN.format(LIKEST if ordered["ood_score"].notna().any() else SUREST)
    return ShownGalaxies(cards(mistakes, MISTAKE_PIXELS), of_class, how, cells)


def typical(galaxies: pd.DataFrame) -> pd.DataFrame:
    """A galaxy of each class that shows what it is.

    Of those that are called right, and with at least the median confidence of these, the one most like the
    training galaxies, by `ood_score`; where that is not known, the one with the highest confidence. Those of
    the highest confidence of all are often odd in all but their class. Of a class of which none is called
    right, one that was missed.

    Parameters
    ----------
    galaxies : pandas.DataFrame
        See `pipeline.evaluation.galaxies.scored`.
    """
    right = galaxies[TRUE_LABEL] == galaxies["label"]
    median = galaxies["confidence"].where(right).groupby(galaxies[TRUE_LABEL]).transform("median")
    rank = (~(right & (galaxies["confidence"] >= median))).astype(int) + ~right
    columns = ["rank", "ood_score", "confidence", "object_id"]
    ordered = galaxies.assign(rank=rank).sort_values(columns, ascending=[True, True, False, True])
    return galaxies.loc[ordered.groupby(TRUE_LABEL, sort=False).head(1).index]


def class_notes(
    taxonomy: Taxonomy, shown: ShownGalaxies, counts: dict[str, dict[str, int]]
) -> list[ClassNote]:
    """What each class is, for a page.

    Parameters
    ----------
    taxonomy : Taxonomy
    shown : ShownGalaxies
    counts : dict of dict of int
        By what is counted, such as ``"Scored"``, galaxies of each class.
    """
    words = taxonomy.descriptions or ("",) * len(taxonomy.classes)
    return [
        ClassNote(
            name,
            class_sentence(name, description),
            shown.examples.get(name),
            {title: of_class[name] for title, of_class in counts.items()},
        )
        for name, description in zip(taxonomy.classes, words, strict=True)
    ]
