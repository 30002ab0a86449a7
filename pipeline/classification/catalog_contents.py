"""What a catalog holds beside model and shards: what a user asks for, and what stands in its plan.

These are settings of the catalog, not of the node that computes a row: they stand in each part's footer too,
and a later call that would make other parts is refused. What changes no value is in
`pipeline.classification.computing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hiwl_core.conformal import DEFAULT_COVERAGE
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale

if TYPE_CHECKING:
    # It brings PyTorch.
    from hiwl_core.fitted import Views

__all__ = ["ANY_PRECISION", "AS_VALIDATED", "ESTIMATE", "CatalogContents"]

ANY_PRECISION, ESTIMATE = "auto", "estimate"


@dataclass(frozen=True)
class CatalogContents:
    """What a catalog is to hold, beside model and shards.

    Parameters
    ----------
    carry : sequence of str
        Further columns of the shards to take over.
    stage2 : {"routed", "always"}
        On which galaxies later stages run.
    keep_truth : bool
        Take the shards' labels over as the column `true_label`.
    scale : WantedScale
        The pixel scale at which the model is to see each galaxy; default: that at which it was trained, or as
        the images are.
    views : {1, 2, 4, 8, "adaptive"} or None
        None: the bundle's.
    precision : {"auto", "float32", "bfloat16", "int8"}
    prior : str, tuple of float or None
        ``CRS=..,IBS=..``, ``"estimate"``, or class shares in the taxonomy's order; None: those that the
        calibration was fitted at.
    coverage : float
        Share of each class whose `class_set` is to hold it.
    features : bool
        What stage 1 saw in each galaxy, too.
    """

    carry: Sequence[str] = ()
    stage2: str = "routed"
    keep_truth: bool = False
    scale: WantedScale = AS_IT_IS
    views: Views | None = None
    precision: str = ANY_PRECISION
    prior: str | tuple[float, ...] | None = None
    coverage: float = DEFAULT_COVERAGE
    features: bool = False

    def to_settings(self, columns: Columns) -> dict[str, Any]:
        """Plain data for a catalog's plan; `columns` are the shards' names."""
        prior = list(self.prior) if isinstance(self.prior, tuple) else self.prior
        return {
            "columns": asdict(columns),
            "carry": list(dict.fromkeys(self.carry)),
            "stage2": self.stage2,
            "keep_truth": self.keep_truth,
            "scale": asdict(self.scale),
            "views": self.views,
            "precision": self.precision,
            "prior": prior,
            "coverage": self.coverage,
            # Catalogs of before have no such setting.
            **({"features": True} if self.features else {}),
        }

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> CatalogContents:
        """What `to_settings` described; other keys are left alone.

        How the model is run has its default where a catalog of before does not say it.
        """
        prior = settings.get("prior")
        return cls(
            tuple(settings["carry"]),
            settings["stage2"],
            settings["keep_truth"],
            WantedScale(**settings["scale"]),
            settings.get("views"),
            settings.get("precision", ANY_PRECISION),
            tuple(prior) if isinstance(prior, list) else prior,
            settings.get("coverage", DEFAULT_COVERAGE),
            settings.get("features", False),
        )


AS_VALIDATED = CatalogContents()
"""What the bundle was made for, in the fastest precision, and no columns but the catalog's own."""
