"""What is fitted to a trained cascade: calibration, margins of the views, int8 graphs, unlikeness.

All of it is optional. Probabilities depend on how many views are averaged and on the precision of the
networks, so that each *setting* of the two has a calibration of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hiwl_core.bundle_description import CALIBRATION_FILE, GRAPH_FILES, UNLIKENESS_FILE, read_json
from hiwl_core.calibration import Calibration
from hiwl_core.conformal import ConformalScores
from hiwl_core.engines.graph import QuantizedGraph
from hiwl_core.errors import UserError
from hiwl_core.taxonomy import Taxonomy
from hiwl_core.unlikeness import Unlikeness

__all__ = ["ADAPTIVE", "Fitted", "Setting", "ValidatedSetting", "Views", "checked"]

ADAPTIVE = "adaptive"
# As `Setting` is written.
KNOWN_SETTING = re.compile(r"(1|2|4|8|adaptive)/(float32|bfloat16|int8)")

Views = int | str
"""1, 2, 4 or 8 views of each galaxy, or ``"adaptive"``: eight of those of which one leaves a doubt."""


@dataclass(frozen=True)
class Setting:
    """How a cascade is run.

    Parameters
    ----------
    views : {1, 2, 4, 8, "adaptive"}
    precision : {"float32", "bfloat16", "int8"}
    """

    views: Views
    precision: str

    def __str__(self) -> str:
        return f"{self.views}/{self.precision}"

    def describe(self) -> str:
        """For people: ``adaptive views in int8``."""
        return f"{self.views} view{'' if self.views == 1 else 's'} in {self.precision}"


@dataclass(frozen=True)
class ValidatedSetting:
    """What validation galaxies say of a cascade in one setting.

    Parameters
    ----------
    calibration : Calibration
        Fitted on all of them.
    conformal : ConformalScores
        Of the cross-fitted probabilities.
    confusion : numpy.ndarray of int64, shape (C, C)
        True classes by row, the most probable by column, cross-fitted.
    """

    calibration: Calibration
    conformal: ConformalScores
    confusion: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a bundle's JSON; `from_dict` is its inverse."""
        return {
            "calibration": self.calibration.to_dict(),
            "conformal": self.conformal.to_dict(),
            "confusion": self.confusion.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ValidatedSetting:
        """The setting that `to_dict` described."""
        return cls(
            Calibration.from_dict(data["calibration"]),
            ConformalScores.from_dict(data["conformal"]),
            np.array(data["confusion"], dtype=np.int64),
        )


@dataclass(frozen=True)
class Fitted:
    """What was fitted to a cascade; empty for one that was only trained.

    Parameters
    ----------
    settings : dict of ValidatedSetting
        By the `Setting` as text.
    prior : tuple of float, length C
        The class shares that calibrated probabilities assume: those of the validation galaxies.
    margins : dict of float
        For each stage, the difference of the two largest probabilities of one view below which adaptive views
        are eight.
    reference : dict
        Histograms of the validation galaxies' catalog, to see by how a later one differs.
    quantized : dict of QuantizedGraph
        The stages' graphs in int8.
    unlikeness : Unlikeness or None
        How unlike the training galaxies an image is.
    notes : dict
        How all this was fitted, and what was not accepted, for people.
    """

    settings: dict[str, ValidatedSetting] = field(default_factory=dict)
    prior: tuple[float, ...] = ()
    margins: dict[str, float] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    quantized: dict[str, QuantizedGraph] = field(default_factory=dict)
    unlikeness: Unlikeness | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions that the cascade was validated in."""
        return tuple(dict.fromkeys(name.split("/")[1] for name in self.settings))

    def files(self) -> dict[str, bytes]:
        """The files of a bundle that hold it, by name."""
        if not self.settings and not self.quantized and self.unlikeness is None:
            return {}
        description = {
            "settings": {name: setting.to_dict() for name, setting in self.settings.items()},
            "prior": list(self.prior),
            "margins": self.margins,
            "reference": self.reference,
            "notes": self.notes,
        }
        files = {CALIBRATION_FILE: (json.dumps(description, ensure_ascii=False) + "\n").encode()}
        for stage, graph in self.quantized.items():
            for name, content in zip(GRAPH_FILES, (graph.model, graph.weights), strict=True):
                files[name.format(stage=stage)] = content
        if self.unlikeness is not None:
            files[UNLIKENESS_FILE] = self.unlikeness.to_bytes()
        return files

    @classmethod
    def from_files(cls, read: Callable[[str], bytes], hashes: Mapping[str, str], place: str) -> Fitted:
        """What a bundle's files hold.

        Parameters
        ----------
        read : callable
            From a file name to its bytes; raises UserError if there is none.
        hashes : mapping of str
            The sha256 of each file.
        place : str
            The bundle, for messages.

        Raises
        ------
        UserError
            If a file is missing, changed, or not what its name says.
        """
        files = {name: checked(read, name, sha256, place) for name, sha256 in hashes.items()}
        if not files:
            return cls()
        try:
            data = read_json(files[CALIBRATION_FILE], CALIBRATION_FILE, place)
            stages = [name.split(".")[0] for name in files if name.endswith(".int8.xml")]
            return cls(
                settings={name: ValidatedSetting.from_dict(one) for name, one in data["settings"].items()},
                prior=tuple(map(float, data["prior"])),
                margins={stage: float(margin) for stage, margin in data["margins"].items()},
                reference=data["reference"],
                quantized={
                    stage: QuantizedGraph(*(files[name.format(stage=stage)] for name in GRAPH_FILES))
                    for stage in stages
                },
                unlikeness=Unlikeness.from_bytes(files[UNLIKENESS_FILE])
                if UNLIKENESS_FILE in files
                else None,
                notes=data["notes"],
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"model bundle {place!r}: what was fitted to it is not whole ({error}); copy the bundle "
                "again from its source"
            ) from None

    def check(self, taxonomy: Taxonomy, place: str) -> None:
        """Check that all this is of a model of these classes, and can be computed with.

        Parameters
        ----------
        taxonomy : Taxonomy
        place : str
            The bundle, for messages.

        Raises
        ------
        UserError
            If it is not.
        """
        classes = len(taxonomy.classes)
        wrong = ""
        if self.prior and not _is_prior(self.prior, classes):
            wrong = f"the prior is not {classes} shares that sum to 1"
        if self.margins and not (
            set(self.margins) == set(taxonomy.stages) and np.isfinite([*self.margins.values()]).all()
        ):
            wrong = f"the margins are not a number for each of {', '.join(taxonomy.stages)}"
        if strange := self.quantized.keys() - set(taxonomy.stages):
            wrong = f"there is a graph of {min(strange)}, which is no stage"
        for name, setting in self.settings.items():
            lengths = {stage: len(one.biases) for stage, one in setting.calibration.stages.items()}
            counts = setting.confusion
            if not KNOWN_SETTING.fullmatch(name):
                wrong = f"{name[:40]!r} is no setting"
            elif lengths != {stage: len(taxonomy.stage_classes(stage)) for stage in taxonomy.stages}:
                wrong = f"the calibration {name} is of other classes"
            elif setting.conformal.classes != taxonomy.classes:
                wrong = f"the conformal scores {name} are of other classes"
            elif counts.shape != (classes, classes) or (counts < 0).any():
                wrong = f"the confusion {name} is not counts of {classes} by {classes} classes"
        if wrong:
            raise UserError(
                f"model bundle {place!r}: what was fitted to it cannot be used: {wrong}; copy the bundle "
                "again from its source"
            )


def _is_prior(prior: tuple[float, ...], classes: int) -> bool:
    shares = np.array(prior)
    return len(shares) == classes and bool((shares >= 0).all() and abs(shares.sum() - 1) < 0.01)


def checked(read: Callable[[str], bytes], name: str, sha256: str, place: str) -> bytes:
    """A file of a bundle, if it is what it was when the bundle was made.

    Raises
    ------
    UserError
        If it is missing or changed.
    """
    content = read(name)
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise UserError(
            f"model bundle {place!r}: {name} has sha256 {digest[:12]}..., not {sha256[:12]}... as when it "
            "was made; copy the bundle again from its source"
        )
    return content
