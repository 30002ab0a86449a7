"""The text of a recipe: TOML by name or from a file, with inheritance and overrides, not yet checked."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from hiwl_core.errors import UserError
from hiwl_core.near_names import or_meant
from hiwl_core.taxonomy import FIRST_STAGE, STAGE_NAME

__all__ = ["LATER", "available_recipes", "recipe_data", "recipe_settings"]

TAXONOMY = "taxonomy"
# Of all stages but the first.
LATER = "later"


def available_recipes() -> list[str]:
    """Names of the recipes that come with HIWL."""
    folder = resources.files("hiwl_core") / "recipes"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def recipe_data(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What a recipe and the overrides say, for `hiwl_core.recipe.Recipe` to check.

    Parameters
    ----------
    name, overrides
        As `hiwl_core.recipe.load_recipe`.

    Raises
    ------
    UserError
        If there is no such recipe, it is not TOML, or an override is not ``section.key=value``.
    """
    data = _read(name)
    of_taxonomy = [override for override in overrides if override.lstrip().startswith(f"{TAXONOMY}.")]
    # The classes say how many stages there are to inherit.
    for override in of_taxonomy:
        _apply(data, override)
    data, later = _inherit(data)
    for override in overrides:
        if override not in of_taxonomy:
            _apply_to_all(data, override)
    stages = [FIRST_STAGE, *later]
    for key in data:
        if STAGE_NAME.fullmatch(key) and key not in stages:
            raise UserError(f"recipe {name!r}: {key}: the stages of its taxonomy are {', '.join(stages)}")
    return data


def _read(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"no recipe file {name!r}")
        text = path.read_bytes()
    elif name in available_recipes():
        text = (resources.files("hiwl_core") / "recipes" / f"{name}.toml").read_bytes()
    else:
        raise UserError(
            f"no recipe {name!r}: there are {', '.join(available_recipes())}, or give a .toml file's path"
            + or_meant(name, available_recipes())
        )
    try:
        return tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {name!r} is not TOML: {error}") from None


def _inherit(data: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Fill what later stages leave out, from ``[stage1]`` and then ``[stage2]``; and their names."""
    data = copy.deepcopy(data)
    taxonomy = data.get(TAXONOMY)
    groups = taxonomy.get("groups", ()) if isinstance(taxonomy, dict) else ()
    names = [f"stage{number}" for number in range(2, max(2, len(groups) + 1) + 1)]
    for name, parent in zip(names, [FIRST_STAGE, *["stage2"] * len(names)], strict=False):
        if isinstance(data.get(parent), dict) and isinstance(data.get(name, {}), dict):
            data[name] = _merge(data[parent], data.get(name, {}))
    return data, names


def _merge(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(parent)
    for key, value in child.items():
        both_sections = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_sections else value
    return merged


def _apply_to_all(data: dict[str, Any], override: str) -> None:
    """Apply an override, or one of ``later`` to each stage that is meant."""
    section, dot, key = override.lstrip().partition(".")
    if section != LATER or not dot:
        _apply(data, override)
        return
    for name in data:
        if STAGE_NAME.fullmatch(name) and name != FIRST_STAGE:
            _apply(data, f"{name}.{key}")


def _apply(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise UserError(f"--set {override!r}: write section.key=value, such as stage1.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *sections, key = path.strip().split(".")
    place = data
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UserError(f"--set {override!r}: {section!r} is not a section of the recipe")
    place[key] = value


def recipe_settings(settings: Mapping[str, Any], place: str = "") -> dict[str, str]:
    """A recipe's settings as they are named by ``--set``: ``stage1.optimizer.lr`` and the like."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        key = f"{place}{name}"
        if isinstance(value, Mapping):
            found |= recipe_settings(value, f"{key}.")
        else:
            found[key] = str(value)
    return found
