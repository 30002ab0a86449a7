"""What a machine has, and that what will not do is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from tests.object_store import ObjectStore


def test_a_sound_machine(tmp_path: Path, object_store: ObjectStore) -> None:
    result = CliRunner().invoke(main, ["doctor", str(tmp_path), f"{object_store.url}/doctor"])
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines())
    assert lines["ray"].startswith("2.")
    assert "galaxyzoo" in lines["models"]
    assert lines[str(tmp_path)] == lines[f"{object_store.url}/doctor"] == "written, read and removed"
    assert not list(tmp_path.iterdir())


def test_what_will_not_do_is_said(
    tmp_path: Path, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("pipeline.doctor.LEAST_MEMORY", 2**60)
    result = CliRunner().invoke(main, ["doctor", str(tmp_path / "file"), "s3://nowhere/place"])
    assert result.exit_code == 1
    assert result.stdout.count("cannot be used") == 2
    assert "Error: of this machine memory, " in result.stderr
