"""The notebooks of the documentation run, and print what is kept in them."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.notebooks import NOTEBOOKS, execute


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    kept = nbformat.read(str(notebook), nbformat.NO_CONVERT)
    assert kinds(execute(notebook, tmp_path)) == kinds(kept)


def kinds(notebook: nbformat.NotebookNode) -> list[list[list[str]]]:
    """What each cell shows: HTML, a picture, text."""
    return [[sorted(output.data) for output in cell.get("outputs", [])] for cell in notebook.cells]
