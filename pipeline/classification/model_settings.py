"""How a catalog's model is run: views, precision, prior, coverage; decided once, before any row is computed.

They are settings of the catalog, not of the node that computes a row: they stand in its plan and in each
part's footer, and a later call that would compute otherwise is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hiwl_core.bundle import ModelBundle
from hiwl_core.class_prior import estimate_prior, parse_prior
from hiwl_core.conformal import DEFAULT_COVERAGE
from hiwl_core.device import granted_compute
from hiwl_core.engines import choose_engine
from hiwl_core.errors import UserError
from hiwl_core.fitted import Setting, Views
from hiwl_core.inference import CascadeClassifier
from hiwl_core.quickest_precision import quickest_precision
from pipeline.cluster import ClusterResources, starts_here
from pipeline.progress import say
from pipeline.shards.cutout_shards import Columns, iter_rows
from pipeline.shards.wanted_scale import WantedScale

__all__ = ["AS_VALIDATED", "ESTIMATE", "ModelSettings", "decided", "model_facts"]

AUTO, ESTIMATE = "auto", "estimate"
VIEWS = ("adaptive", 1, 2, 4, 8)
# Enough for a class of one in a hundred to be known to a third.
PRIOR_ROWS, PRIOR_SHARDS = 4000, 8


@dataclass(frozen=True)
class ModelSettings:
    """What a user asks for, or what was decided.

    Parameters
    ----------
    views : {1, 2, 4, 8, "adaptive"} or None
        None: the bundle's.
    precision : {"auto", "float32", "bfloat16", "int8"}
    prior : str, tuple of float or None
        ``CRS=..,IBS=..``, ``"estimate"``, or class shares in the taxonomy's order; None: those that the
        calibration was fitted at.
    coverage : float
    features : bool
        Whether the catalog is to hold what stage 1 saw in each galaxy.
    """

    views: Views | None = None
    precision: str = AUTO
    prior: str | tuple[float, ...] | None = None
    coverage: float = DEFAULT_COVERAGE
    features: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a catalog's plan."""
        prior = list(self.prior) if isinstance(self.prior, tuple) else self.prior
        return {
            "views": self.views,
            "precision": self.precision,
            "prior": prior,
            "coverage": self.coverage,
            # Catalogs of before have no such setting.
            **({"features": True} if self.features else {}),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ModelSettings:
        """What `to_dict` described; other keys are left alone, and what is missing has its default."""
        prior = data.get("prior")
        return cls(
            data.get("views"),
            data.get("precision", AUTO),
            tuple(prior) if isinstance(prior, list) else prior,
            data.get("coverage", DEFAULT_COVERAGE),
            data.get("features", False),
        )

    def class_shares(self, bundle: ModelBundle) -> dict[str, float] | None:
        """The class shares that the probabilities assume; None if they are not calibrated."""
        shares = self.prior if isinstance(self.prior, tuple) else bundle.fitted.prior
        return dict(zip(bundle.taxonomy.classes, shares, strict=True)) if shares else None

    def checked(self, bundle: ModelBundle, always_stage2: bool = False) -> ModelSettings:
        """The same, with the bundle's views where none are asked for and a prior in words as numbers.

        Raises
        ------
        UserError
            If the bundle cannot do what is asked for, or a value is none.
        """
        views = bundle.views if self.views is None else self.views
        if views not in VIEWS:
            raise UserError(f"--views {views}: there are {', '.join(map(str, VIEWS))}")
        bundle.check(always_stage2, views, self.prior is not None)
        prior = self.prior
        if isinstance(prior, str) and prior != ESTIMATE:
            prior = tuple(parse_prior(prior, bundle.taxonomy.classes).tolist())
        if self.precision == "int8" and not bundle.fitted.quantized:
            raise UserError(
                "--precision int8: this model has no int8 graphs; `hiwl optimize BUNDLE` makes them, or "
                "leave the option out"
            )
        if self.features and bundle.fitted.unlikeness is None:
            raise UserError(
                "--features: this model has no measure of what galaxies look like; `hiwl optimize BUNDLE` "
                "fits it, or leave the option out"
            )
        validated = bundle.validated(Setting(views, self.precision))
        if validated is not None:
            validated.conformal.thresholds(self.coverage)
        elif not 0 < self.coverage < 1:
            raise UserError(f"--coverage {self.coverage}: a share between 0 and 1, such as 0.95")
        return replace(self, views=views, prior=prior)

    def classifier(
        self,
        bundle: ModelBundle,
        engine: str,
        use_gpu: bool,
        threads: int,
        always_stage2: bool = False,
    ) -> CascadeClassifier:
        """A classifier that does as decided, on this process's device."""
        compute = granted_compute(use_gpu)
        choice = choose_engine(engine, self.precision, compute, threads)
        prior = self.prior if isinstance(self.prior, tuple) else None
        return CascadeClassifier(
            bundle, choice, threads, always_stage2, self.views, prior, self.coverage, self.features
        )


AS_VALIDATED = ModelSettings()
"""What the bundle was made for, and the fastest precision."""


def decided(
    asked: ModelSettings,
    bundle: ModelBundle,
    stored: dict[str, Any] | None,
    cluster: Callable[[], ClusterResources],
    gpu: bool | None,
    engine: str,
    shards: Sequence[str],
    columns: Columns,
    scale: WantedScale,
) -> ModelSettings:
    """Settle what the user leaves open: a precision by a trial where rows are computed, a prior by a look.

    Parameters
    ----------
    asked : ModelSettings
        Checked.
    bundle : ModelBundle
    stored : dict or None
        Settings of the catalog that is there already: what was decided for it stays.
    cluster : callable
        Connects to the cluster, if something has to be tried.
    gpu : bool or None
        Whether actors take GPUs; None: if the cluster has any.
    engine : str
    shards : sequence of str
        Those to classify.
    columns : Columns
    scale : WantedScale
    """
    settled = asked
    if asked.precision == AUTO:
        known = (stored or {}).get("precision")
        settled = replace(settled, precision=known or _precision(bundle, cluster, gpu, engine))
    if asked.prior == ESTIMATE:
        known = (stored or {}).get("prior")
        prior = tuple(known or _estimated(settled, bundle, cluster(), gpu, engine, shards, columns, scale))
        settled = replace(settled, prior=prior)
    return settled


def _precision(
    bundle: ModelBundle, cluster: Callable[[], ClusterResources], gpu: bool | None, engine: str
) -> str:
    use_gpu = gpu
    if gpu is None:
        use_gpu = torch.cuda.is_available() if starts_here() else cluster().gpus > 0
    if not use_gpu and (engine == "torch" or len(bundle.fitted.precisions) < 2):
        return "float32"
    resources = cluster()
    if use_gpu and not resources.gpus:
        # They are yet to come, and whatever comes for such work has it.
        return "bfloat16"
    cpus, gpus = resources.cpus_an_actor(bool(use_gpu)), int(bool(use_gpu))

    def trial(bundle: ModelBundle) -> tuple[str, dict[str, float]]:
        compute = granted_compute(bool(gpus))
        return quickest_precision(bundle, compute, cpus)

    # Where the rows will be computed: the driver may be on another machine.
    precision, rates = resources.run(trial, bundle, cpus, gpus)
    if rates:
        listed = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        say(f"precision {precision}: in a trial stage 1 takes {listed} images/s")
    return str(precision)


def _estimated(
    settled: ModelSettings,
    bundle: ModelBundle,
    cluster: ClusterResources,
    gpu: bool | None,
    engine: str,
    shards: Sequence[str],
    columns: Columns,
    scale: WantedScale,
) -> list[float]:
    """Class shares by the first rows of some shards, spread over all."""
    use_gpu = cluster.gpus > 0 if gpu is None else gpu
    cpus = cluster.cpus_an_actor(use_gpu)
    chosen = [shards[i] for i in np.unique(np.linspace(0, len(shards) - 1, PRIOR_SHARDS).astype(int))]

    def look(bundle: ModelBundle) -> np.ndarray:
        classifier = replace(settled, prior=None).classifier(bundle, engine, use_gpu, cpus)
        found = [np.empty((0, len(bundle.taxonomy.classes)))]
        for shard in chosen:
            left = -(-PRIOR_ROWS // len(chosen))
            for table in iter_rows(shard, columns, ["object_id", "image", *scale.wanted], list(scale.carry)):
                images = scale.cutouts(table.slice(0, left))
                _, prediction = classifier.classify(images)
                found.append(prediction.probabilities)
                left -= len(images)
                if left <= 0:
                    break
        return np.concatenate(found)

    seen = cluster.run(look, bundle, cpus, int(use_gpu))
    if not len(seen):
        raise UserError("--prior estimate: no readable cutout in the shards to estimate it from")
    prior = estimate_prior(seen, np.array(bundle.fitted.prior))
    listed = ", ".join(f"{n}={share:.4f}" for n, share in zip(bundle.taxonomy.classes, prior, strict=True))
    say(f"prior of {len(seen)} cutouts: {listed}")
    return list(map(float, prior))


def model_facts(bundle: ModelBundle, settings: ModelSettings) -> dict[str, Any] | None:
    """What those who only have the catalog want to know of its model; None for one not calibrated."""
    validated = bundle.validated(Setting(settings.views or bundle.views, settings.precision))
    if validated is None:
        return None
    return {
        "model_id": bundle.model_id,
        "classes": list(bundle.taxonomy.classes),
        "prior": list((settings.class_shares(bundle) or {}).values()),
        "validation": {"confusion": validated.confusion.tolist()},
        "reference": bundle.fitted.reference,
    }
