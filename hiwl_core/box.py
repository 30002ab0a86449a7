"""The models that come with HIWL, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

__all__ = ["box_models", "box_place", "in_the_box"]

FOLDER = "models"


def box_models() -> list[str]:
    """Names of the models in the box."""
    folder = Path(str(resources.files("hiwl_core") / FOLDER))
    return sorted(place.parent.name for place in folder.glob("*/bundle.json"))


def box_place(name: str) -> Path:
    """The folder of a model in the box."""
    return Path(str(resources.files("hiwl_core") / FOLDER / name))


def in_the_box() -> str:
    """Words for the error of a model that is nowhere: the names that there are."""
    names = box_models()
    return f"; in the box: {', '.join(names)}" if names else ""
