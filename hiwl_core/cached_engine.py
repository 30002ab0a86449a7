"""The engine of a bundle's stage, which begins with the graph that an earlier one has exported."""

from __future__ import annotations

import os
from pathlib import Path

from hiwl_core.bundle import ModelBundle
from hiwl_core.engines import Engine, EngineChoice, create_engine
from hiwl_core.seen_galaxies import stage_graph

__all__ = ["cached_engine", "default_cache"]


def default_cache() -> Path:
    """Where exported graphs are kept: ``$HIWL_CACHE``, else ``hiwl`` in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HIWL_CACHE") or Path(home) / "hiwl")


def cached_engine(bundle: ModelBundle, stage: str, choice: EngineChoice) -> Engine:
    """A stage ready to run, from the cache if it was exported before.

    Parameters
    ----------
    bundle : ModelBundle
    stage : str
    choice : EngineChoice
    """
    # A bundle that was never saved has no name to be found again by.
    cache = default_cache() if bundle.model_id else None
    return create_engine(stage_graph(bundle, stage), choice, cache, f"{bundle.model_id}-{stage}")
