"""Classes of one's own in a TOML file, which each verb that needs them takes with ``--taxonomy``.

    name = "bars"
    classes = ["round", "bar", "ring"]
    combined = ["bar", "ring"]
    combined_name = "bar or ring"

Of several groups, which may be members of each other, each has a table:

    [[groups]]
    name = "bar or ring"
    members = ["bar", "ring"]

It is the section ``[taxonomy]`` of a recipe, and may have that heading.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from hiwl_core.errors import UserError
from hiwl_core.recipe_sections import TaxonomySection
from hiwl_core.taxonomy import GALAXY_ZOO, Taxonomy

__all__ = ["most_confused", "read_taxonomy", "taxonomy_overrides", "taxonomy_template"]


def read_taxonomy(path: str | None) -> Taxonomy:
    """The taxonomy of a file; without one, Galaxy Zoo's.

    Raises
    ------
    UserError
        If there is no such file, or it is none.
    """
    if path is None:
        return GALAXY_ZOO
    try:
        data = tomllib.loads(Path(path).read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"no taxonomy file {path!r}: `hiwl taxonomy new LABELS` proposes one") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"taxonomy {path!r} is not TOML: {error}") from None
    try:
        section = TaxonomySection.model_validate(data.get("taxonomy", data))
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(map(str, problem["loc"]))
        known = ", ".join(TaxonomySection.model_fields)
        raise UserError(f"taxonomy {path!r}: {place}: {problem['msg']}; its keys are {known}") from None
    return Taxonomy.from_dict(section.model_dump())


def taxonomy_overrides(taxonomy: Taxonomy) -> list[str]:
    """What puts a taxonomy into a recipe, for `hiwl_core.recipe.load_recipe`."""
    form = {"combined": [], "combined_name": "", "groups": [], **taxonomy.to_dict()}
    return [f"taxonomy.{key}={_toml(value)}" for key, value in form.items()]


def _toml(value: Any) -> str:
    """A value in one line of TOML, whose strings are JSON's."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def most_confused(classes: tuple[str, ...], matrix: np.ndarray) -> tuple[str, str]:
    """The two classes that a model takes for each other most.

    Parameters
    ----------
    classes : tuple of str, length C
    matrix : numpy.ndarray of int, shape (C, C)
        See `hiwl_core.metrics.confusion_matrix`.

    Returns
    -------
    tuple of str, length 2
        By the larger of the shares of one that are called the other.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    mutual = np.triu(np.maximum(shares, shares.T), k=1)
    first, second = np.unravel_index(int(mutual.argmax()), mutual.shape)
    return classes[first], classes[second]


def taxonomy_template(name: str, counts: Mapping[str, int], combined: tuple[str, ...] = ()) -> str:
    """A taxonomy file to be read over and changed.

    Parameters
    ----------
    name : str
    counts : mapping of int
        Objects of each class; two or more.
    combined : tuple of str
        Classes for a second stage to tell apart; without any there is one stage.

    Returns
    -------
    str
        TOML that `read_taxonomy` reads.
    """
    lines = [
        f"name = {json.dumps(name)}",
        "# In the order of the catalog's columns. A short description of each may follow in `descriptions`.",
        "classes = [",
        *(f"    {json.dumps(label)},  # {count:,} objects" for label, count in counts.items()),
        "]",
        "",
        "# Classes that look alike, which a second network then tells apart from each other alone: those",
        "# that a first model confuses most. Without them one network tells all classes apart. For several",
        "# groups, and groups within groups, there are tables instead: [[groups]], with a name and members.",
    ]
    if combined:
        lines += [
            f"combined = {json.dumps(list(combined), ensure_ascii=False)}",
            f"combined_name = {json.dumps(' or '.join(combined), ensure_ascii=False)}",
        ]
    else:
        first, second = list(counts)[:2]
        lines += [
            f"# combined = {json.dumps([first, second], ensure_ascii=False)}",
            f"# combined_name = {json.dumps(f'{first} or {second}', ensure_ascii=False)}",
        ]
    return "\n".join(lines) + "\n"
