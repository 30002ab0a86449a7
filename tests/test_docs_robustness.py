"""The page on what was tried names tests that there are."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "robustness.md").read_text()


def test_each_attempt_has_its_test() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)
    assert len(named) > 70
    assert [f"{file}::{name}" for file, name in named if f"def {name}(" not in files.get(file, "")] == []
