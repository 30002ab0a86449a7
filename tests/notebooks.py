"""Executes the notebooks of the documentation, each in a folder of its own.

python -m tests.notebooks

puts what they print now into ``docs/notebooks``, without progress and warnings.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

__all__ = ["NOTEBOOKS", "execute"]

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
SECONDS_A_CELL = 600
# Of the forms of an output the first is shown.
SHOWN = ("text/html", "image/jpeg", "image/png", "text/plain")
PROGRESS = "application/vnd.jupyter.widget-view+json"


def execute(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """A notebook with what its cells print.

    Parameters
    ----------
    notebook : Path
    folder : Path
        Where it runs.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises.
    """
    book = nbformat.read(str(notebook), nbformat.NO_CONVERT)
    NotebookClient(
        book, timeout=SECONDS_A_CELL, store_widget_state=False, resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in book.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [_tidy(output, folder) for output in cell.outputs if _is_kept(output)]
    return book


def _is_kept(output: nbformat.NotebookNode) -> bool:
    """Whether an output is neither progress nor a warning."""
    return output.output_type != "stream" and PROGRESS not in output.get("data", {})


def _tidy(output: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """An output in the form that a reader sees, with places as they are named in the notebook."""
    kind = next(kind for kind in SHOWN if kind in output.data)
    shown = output.data[kind]
    output.data = {kind: shown.replace(f"{folder}/", "") if kind.startswith("text/") else shown}
    return output


def main() -> None:
    """Execute them all, and write them down."""
    for notebook in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(notebook, Path(folder)), str(notebook))


if __name__ == "__main__":
    main()
