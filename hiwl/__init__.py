"""HIWL in Python: the verbs as functions, and what they return shows itself in a notebook.

::

    import hiwl

    hiwl.classify("galaxyzoo", "survey/*.parquet", "catalog", hiwl.Columns(id="objid"))
    hiwl.query("catalog", "SELECT object_id, p_css FROM catalog ORDER BY p_css DESC LIMIT 10")

The names stand in ``__init__.pyi``, with the modules that they come from; each is imported when it is first
used, so that a query does not wait for PyTorch. `hiwl plan` is `estimate` here and `hiwl status`
`catalog_status`, for what they return. A user's mistake raises `UserError`, work that could not be
ended `IncompleteError`.
"""

from __future__ import annotations

import ast
import importlib
from importlib.metadata import version
from pathlib import Path
from typing import Any

__version__ = version("hiwl")

# One list for type checkers and for this, as in SPEC 1 of Scientific Python, whose package takes relative
# imports only.
_HOMES = {
    alias.name: str(node.module)
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
