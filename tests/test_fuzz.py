"""A short round of `tests.fuzz`: files of every kind that went wrong cost a status, a line or nothing."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import KINDS, try_inputs

ROUNDS = 4


def test_files_that_went_wrong_raise_nothing_of_their_own(tmp_path: Path) -> None:
    # Others than those that a run by hand begins with.
    numbers = range(1_000_000, 1_000_000 + ROUNDS * len(KINDS))
    results = list(try_inputs(numbers, seed=7, folder=tmp_path))
    assert len(results) == len(numbers)
    assert [fault for _, fault in results if fault is not None] == []
