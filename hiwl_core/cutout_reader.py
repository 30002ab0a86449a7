"""Cutouts as the networks of a model see them, read in one way wherever that is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from hiwl_core.cutouts import EvalTransform, Preprocessing, ReadCutout, read_cutout
from hiwl_core.decoding import Cutout, Scratch

if TYPE_CHECKING:
    from hiwl_core.bundle import ModelBundle
    from hiwl_core.recipe_sections import RgbSettings

__all__ = ["CutoutReader"]


class CutoutReader:
    """Decodes and transforms for a model.

    Parameters
    ----------
    preprocessings : iterable of Preprocessing
        Those that differ.
    smallest : int
        Pixels that a cutout's shorter side must have.
    rgb : RgbSettings
        Colors of FITS images.
    """

    def __init__(self, preprocessings: Iterable[Preprocessing], smallest: int, rgb: RgbSettings) -> None:
        self.preprocessings = list(preprocessings)
        self._transforms = tuple(map(EvalTransform, self.preprocessings))
        self._smallest, self._rgb = smallest, rgb

    @classmethod
    def of(cls, bundle: ModelBundle) -> CutoutReader:
        """That of a bundle, whose stages share pixels if they see the same."""
        different = dict.fromkeys(stage.preprocessing for stage in bundle.stages.values())
        return cls(different, bundle.smallest_cutout, bundle.rgb)

    @property
    def sides(self) -> list[int]:
        """Pixels on a side of what each preprocessing gives."""
        return [preprocessing.input_size for preprocessing in self.preprocessings]

    def read(self, image: bytes | Cutout | ReadCutout | None, scratch: Scratch | None = None) -> ReadCutout:
        """What becomes of a cutout; one that was read elsewhere is given back.

        Parameters
        ----------
        image : bytes, Cutout, ReadCutout or None
        scratch : Scratch, optional
            Where to decode; the pixels may then lie in it.
        """
        if isinstance(image, ReadCutout):
            return image
        return read_cutout(image, self._transforms, self._smallest, self._rgb, scratch)
