"""The Ray cluster that the user names, for those who ask before Ray is imported, too."""

from __future__ import annotations

import os

__all__ = ["named_cluster"]


def named_cluster() -> str | None:
    """What ``RAY_ADDRESS`` says; None if it is not set, or empty."""
    return os.environ.get("RAY_ADDRESS") or None
