"""What is decided once for a catalog, before any row is computed: what is asked for is checked, what is left
open is settled by a look or a trial."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hiwl_core.bundle import ModelBundle
from hiwl_core.class_prior import estimate_prior, parse_prior
from hiwl_core.device import granted_compute
from hiwl_core.engines import choose_engine
from hiwl_core.errors import UserError
from hiwl_core.fitted import Setting
from hiwl_core.inference import CascadeClassifier
from hiwl_core.quickest_precision import quickest_precision
from hiwl_core.taxonomy import Taxonomy
from pipeline.catalog.catalog_schema import TRUE_LABEL, catalog_schema
from pipeline.classification.catalog_contents import ANY_PRECISION, ESTIMATE, CatalogContents
from pipeline.classification.computing import Computing
from pipeline.classification.seen_rows import SEEN_COLUMN
from pipeline.cluster import ClusterResources, starts_here
from pipeline.progress import say
from pipeline.shards.cutout_shards import Columns, iter_rows
from pipeline.shards.wanted_scale import kept_scale

__all__ = ["check_names", "checked_contents", "class_shares", "classifier_for", "decided", "model_facts"]

VIEWS = ("adaptive", 1, 2, 4, 8)
# Enough for a class of one in a hundred to be known to a third.
PRIOR_ROWS, PRIOR_SHARDS = 4000, 8


def checked_contents(contents: CatalogContents, bundle: ModelBundle, columns: Columns) -> CatalogContents:
    """What is asked for, with the bundle's views and scale where none are, and a prior in words as numbers.

    A column that is to be carried twice is carried once.

    Raises
    ------
    UserError
        If the bundle cannot do what is asked for, a value is none, or a carried column has a name of the
        catalog's own.
    """
    views = bundle.views if contents.views is None else contents.views
    if views not in VIEWS:
        raise UserError(f"--views {views}: there are {', '.join(map(str, VIEWS))}")
    bundle.check(contents.stage2 == "always", views, contents.prior is not None)
    prior = contents.prior
    if isinstance(prior, str) and prior != ESTIMATE:
        prior = tuple(parse_prior(prior, bundle.taxonomy.classes).tolist())
    if contents.precision == "int8" and not bundle.fitted.quantized:
        raise UserError(
            "--precision int8: this model has no int8 graphs; `hiwl optimize BUNDLE` makes them, or "
            "leave the option out"
        )
    if contents.features and bundle.fitted.unlikeness is None:
        raise UserError(
            "--features: this model has no measure of what galaxies look like; `hiwl optimize BUNDLE` "
            "fits it, or leave the option out"
        )
    validated = bundle.validated(Setting(views, contents.precision))
    if validated is not None:
        validated.conformal.thresholds(contents.coverage)
    elif not 0 < contents.coverage < 1:
        raise UserError(f"--coverage {contents.coverage}: a share between 0 and 1, such as 0.95")
    carry = tuple(dict.fromkeys(contents.carry))
    check_names(bundle.taxonomy, columns, carry, contents.features)
    scale = kept_scale(bundle.scale, contents.scale)
    return replace(contents, carry=carry, scale=scale, views=views, prior=prior)


def check_names(taxonomy: Taxonomy, columns: Columns, carry: Sequence[str], features: bool = False) -> None:
    """Check that no carried column has a name that the catalog uses itself, in whatever case.

    DuckDB, FITS and VOTable readers take ``RA`` and ``ra`` for one.

    Raises
    ------
    UserError
    """
    own = {
        *catalog_schema(taxonomy, pa.int64(), features=int(features)).names,
        TRUE_LABEL,
        "image",
        columns.image,
        SEEN_COLUMN,
    }
    taken = {name.lower(): name for name in own}
    for name in carry:
        other = taken.get(name.lower())
        if other is not None:
            beside = "" if other == name else f" by {other!r}"
            raise UserError(
                f"--carry {name}: that name is taken in the catalog{beside}; rename the shards' column"
            )
        taken[name.lower()] = name


def decided(
    contents: CatalogContents,
    bundle: ModelBundle,
    stored: dict[str, Any] | None,
    cluster: Callable[[], ClusterResources],
    computing: Computing,
    shards: Sequence[str],
    columns: Columns,
) -> CatalogContents:
    """Settle what the user leaves open: a precision by a trial where rows are computed, a prior by a look.

    Parameters
    ----------
    contents : CatalogContents
        Checked.
    bundle : ModelBundle
    stored : dict or None
        Settings of the catalog that is there already: what was decided for it stays.
    cluster : callable
        Connects to the cluster, if something has to be tried.
    computing : Computing
    shards : sequence of str
        Those to classify.
    columns : Columns
    """
    settled, known = contents, stored or {}
    if contents.precision == ANY_PRECISION:
        precision = known.get("precision") or _precision(bundle, cluster, computing)
        settled = replace(settled, precision=precision)
    if contents.prior == ESTIMATE:
        prior = known.get("prior") or _estimated(settled, bundle, cluster(), computing, shards, columns)
        settled = replace(settled, prior=tuple(prior))
    return settled


def _precision(bundle: ModelBundle, cluster: Callable[[], ClusterResources], computing: Computing) -> str:
    use_gpu = computing.gpu
    if use_gpu is None:
        use_gpu = torch.cuda.is_available() if starts_here() else cluster().gpus > 0
    if not use_gpu and (computing.engine == "torch" or len(bundle.fitted.precisions) < 2):
        return "float32"
    resources = cluster()
    if use_gpu and not resources.gpus:
        # They are yet to come, and whatever comes for such work has it.
        return "bfloat16"
    cpus, gpus = resources.cpus_an_actor(use_gpu), int(use_gpu)

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
    settled: CatalogContents,
    bundle: ModelBundle,
    cluster: ClusterResources,
    computing: Computing,
    shards: Sequence[str],
    columns: Columns,
) -> list[float]:
    """Class shares by the first rows of some shards, spread over all."""
    use_gpu, scale = cluster.takes_gpus(computing.gpu), settled.scale
    cpus = cluster.cpus_an_actor(use_gpu)
    chosen = [shards[i] for i in np.unique(np.linspace(0, len(shards) - 1, PRIOR_SHARDS).astype(int))]

    def look(bundle: ModelBundle) -> np.ndarray:
        classifier = classifier_for(replace(settled, prior=None), bundle, computing.engine, use_gpu, cpus)
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


def class_shares(contents: CatalogContents, bundle: ModelBundle) -> dict[str, float] | None:
    """The class shares that the probabilities assume; None if they are not calibrated."""
    shares = contents.prior if isinstance(contents.prior, tuple) else bundle.fitted.prior
    return dict(zip(bundle.taxonomy.classes, shares, strict=True)) if shares else None


def model_facts(bundle: ModelBundle, contents: CatalogContents) -> dict[str, Any] | None:
    """What those who only have the catalog want to know of its model; None for one not calibrated."""
    validated = bundle.validated(Setting(contents.views or bundle.views, contents.precision))
    if validated is None:
        return None
    return {
        "model_id": bundle.model_id,
        "classes": list(bundle.taxonomy.classes),
        "prior": list((class_shares(contents, bundle) or {}).values()),
        "validation": {"confusion": validated.confusion.tolist()},
        "reference": bundle.fitted.reference,
    }


def classifier_for(
    contents: CatalogContents, bundle: ModelBundle, engine: str, use_gpu: bool, threads: int
) -> CascadeClassifier:
    """A classifier that does as decided, on this process's device."""
    compute = granted_compute(use_gpu)
    choice = choose_engine(engine, contents.precision, compute, threads)
    prior = contents.prior if isinstance(contents.prior, tuple) else None
    always = contents.stage2 == "always"
    return CascadeClassifier(
        bundle, choice, threads, always, contents.views, prior, contents.coverage, contents.features
    )
