"""The labels that people give: a table to which rows are only ever added.

``FOLDER/labels.jsonl`` has a line for each label and for each one taken back, in the order in which they were
given: who, when, what was shown, which model had classified it. What is a galaxy's label now follows from the
lines; nothing that was once said is lost. A line is on the disk before the page is told that it is.
"""

from __future__ import annotations

import errno
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.progress import say

__all__ = ["ENDINGS", "NO_CLASS", "SKIP", "UNSURE", "Labels", "export_bytes", "export_labels", "exported"]

UNSURE, SKIP = "unsure", "skip"
NO_CLASS = (UNSURE, SKIP)
"""Answers that are no class, and are not exported as one."""
FILE = "labels.jsonl"
LABEL, UNDO = "label", "undo"
EXPORTED = pa.schema(
    [
        *(pa.field(name, pa.string()) for name in ("object_id", "class")),
        *(pa.field(name, pa.float64()) for name in ("ra", "dec")),
        *(pa.field(name, pa.string()) for name in ("who", "when", "model_id", "model_class", "why")),
        pa.field("model_confidence", pa.float64()),
        pa.field("answer_shown", pa.bool_()),
    ]
)
ENDINGS = (".csv", ".parquet")


@dataclass(frozen=True)
class _Line:
    number: int
    said: dict[str, Any]


class Labels:
    """The labels in a folder, as they are now; see the module for how they are kept.

    Parameters
    ----------
    folder : str
        On this machine. Made with the first label.
    classes : sequence of str
        Those that may be given, beside `NO_CLASS`.

    Raises
    ------
    UserError
        If a line of the table is damaged, or has another class.
    """

    def __init__(self, folder: str, classes: Sequence[str]) -> None:
        self.path = Path(folder, FILE)
        self._answers = (*classes, *NO_CLASS)
        self._lines: list[_Line] = []
        # Lines that are not taken back, of all objects, and of each in its order.
        self._live: list[_Line] = []
        lines, self._torn = _read(self.path)
        for said in lines:
            if said["event"] == LABEL and said["class"] not in self._answers:
                raise UserError(
                    f"{self.path} has labels of the class {said['class']!r}, and the catalog's classes are "
                    f"{', '.join(classes)}: choose another folder with --labels"
                )
            self._take(said)

    def __len__(self) -> int:
        return len(self.now())

    def now(self) -> dict[str, dict[str, Any]]:
        """The last line of each object that has a label, by its id as text."""
        return {line.said["object_id"]: line.said for line in self._live}

    def counts(self) -> dict[str, int]:
        """Objects by class, and by what is no class."""
        found = Counter(said["class"] for said in self.now().values())
        return {name: found[name] for name in self._answers if found[name]}

    def add(self, object_id: str, answer: str, who: str, shown: dict[str, Any]) -> None:
        """Give an object a label, whether it has one or not.

        Parameters
        ----------
        object_id : str
        answer : str
            A class, `UNSURE` or `SKIP`.
        who : str
        shown : dict
            What the person saw: position, the model's class and confidence, `model_id`, and how the list was
            made; as JSON has it.

        Raises
        ------
        UserError
            If there is no such class.
        """
        if answer not in self._answers:
            raise UserError(f"no class {answer!r}: there are {', '.join(self._answers)}")
        self._write({"event": LABEL, "object_id": object_id, "class": answer, "who": who, "shown": shown})

    def undo(self, who: str) -> tuple[str, str | None] | None:
        """Take a person's last label back.

        Returns
        -------
        object_id : str
        answer : str or None
            What the object's label is now, if it had another one before.
        None
            If there is nothing to take back.
        """
        mine = [line for line in self._live if line.said["who"] == who]
        if not mine:
            return None
        object_id = mine[-1].said["object_id"]
        self._write({"event": UNDO, "of": mine[-1].number, "object_id": object_id, "who": who})
        before = self.now().get(object_id)
        return object_id, before["class"] if before else None

    def _write(self, said: dict[str, Any]) -> None:
        said = {"number": len(self._lines) + 1, "when": datetime.now(UTC).isoformat(), **said}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._torn:
            say(f"{self.path}: its last line was not whole, and is left out")
            os.truncate(self.path, self.path.stat().st_size - self._torn)
            self._torn = 0
        line = json.dumps(said, ensure_ascii=False).encode() + b"\n"
        with self.path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
            except OSError:
                # A full disk: half a line would spoil the next one.
                os.truncate(self.path, before)
                raise
        self._take(said)

    def _take(self, said: dict[str, Any]) -> None:
        line = _Line(len(self._lines) + 1, said)
        self._lines.append(line)
        if said["event"] == UNDO:
            self._live = [live for live in self._live if live.number != said["of"]]
        else:
            self._live.append(line)


def exported(labels: Labels) -> pa.Table:
    """The labels as a table for ``hiwl ingest --labels``: a row for each object that has a class now.

    Parameters
    ----------
    labels : Labels

    Returns
    -------
    pyarrow.Table
        `object_id` (text) and `class`, and from whom it is.
    """
    rows = []
    for said in labels.now().values():
        if said["class"] not in NO_CLASS:
            shown = said["shown"]
            rows.append(
                {
                    **{name: said[name] for name in ("object_id", "class", "who", "when")},
                    **{name: shown.get(name) for name in ("ra", "dec", "model_id", "model_class", "why")},
                    **{name: shown.get(name) for name in ("model_confidence", "answer_shown")},
                }
            )
    return pa.Table.from_pylist(rows, schema=EXPORTED)


def export_labels(labels: Labels, out: str) -> int:
    """Write the labels of `exported`; how many there are.

    Parameters
    ----------
    labels : Labels
    out : str
        A path or a URL that ends with one of `ENDINGS`, and is not taken yet.

    Raises
    ------
    UserError
        If it is, or ends otherwise, or if there is no label.
    """
    if not out.lower().endswith(ENDINGS):
        raise UserError(f"--export {out}: give a file that ends with {' or '.join(ENDINGS)}")
    if storage.exists(out):
        raise UserError(f"{out} is there already: choose another file, or remove it")
    table = exported(labels)
    if not table.num_rows:
        raise UserError(f"there is no label in {labels.path}: label some galaxies first")
    storage.write_bytes(out, export_bytes(table, out))
    return int(table.num_rows)


def export_bytes(table: pa.Table, name: str) -> bytes:
    """A table as the content of a file, by the ending of its name."""
    buffer = io.BytesIO()
    if name.lower().endswith(".parquet"):
        pq.write_table(table, buffer)
    else:
        pa.csv.write_csv(table, buffer)
    return buffer.getvalue()


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of the table, and the bytes after them, of one that is not whole: nobody was told of it."""
    if not path.exists():
        return [], 0
    *lines, tail = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            said = json.loads(line)
            needed = {LABEL: {"object_id", "class", "who", "when", "shown"}, UNDO: {"of", "who"}}
            if not needed[said["event"]] <= said.keys() or said["number"] != number:
                raise ValueError("it lacks something")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(_damage(path, number, str(error))) from None
        found.append(said)
    begun = _beginning(len(lines) + 1)
    # A file of something else may have no line end either.
    if not (tail.startswith(begun) or begun.startswith(tail)):
        raise UserError(_damage(path, len(lines) + 1, "it is something else"))
    return found, len(tail)


def _beginning(number: int) -> bytes:
    """What each line of this number begins with."""
    return json.dumps({"number": number, "when": ""})[:-2].encode()


def _damage(path: Path, number: int, what: str) -> str:
    return (
        f"{path}, line {number}: this is no line of labels ({what}); mend it, or choose another folder with "
        "--labels"
    )
