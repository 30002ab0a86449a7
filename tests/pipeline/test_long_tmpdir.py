import os

import pytest

from hiwl_core.errors import UserError
from pipeline.cluster import _short_temp_dir


def test_a_long_tmpdir_is_no_place_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/scratch/user")
    assert _short_temp_dir() is None
    monkeypatch.setenv("TMPDIR", "/scratch/" + "long" * 30)
    assert _short_temp_dir() == f"/tmp/ray-{os.getuid()}"
    monkeypatch.setenv("RAY_TMPDIR", "/scratch/" + "long" * 30)
    with pytest.raises(UserError, match="RAY_TMPDIR '/scratch/long.* is too long a path"):
        _short_temp_dir()
