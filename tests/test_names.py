"""One name, one thing: a public name is defined in one module, and imported from there."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The face of each verb, and what each network's file has for the registry.
OF_MANY = {"main", "SPEC", "SPECS"}


def public_names(path: Path) -> list[str]:
    """What a module has in its ``__all__``."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def test_a_public_name_stands_in_one_module() -> None:
    places = defaultdict(list)
    for package in ("hiwl_core", "pipeline", "jobs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            # A package's face hands names on.
            if path.name != "__init__.py":
                for name in public_names(path):
                    places[name].append(str(path.relative_to(ROOT)))
    assert len(places) > 500
    assert {name: at for name, at in places.items() if len(at) > 1 and name not in OF_MANY} == {}
