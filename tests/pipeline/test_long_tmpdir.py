from pathlib import Path

import pytest

from hiwl_core.errors import IncompleteError, UserError
from pipeline import own_ray
from pipeline.own_ray import short_temp_dir, start_ray
from tests.fault_runs import small_disk


def test_a_long_tmpdir_is_no_place_for_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(own_ray, "SHORT_PLACE", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/scratch/user")
    assert short_temp_dir() is None
    monkeypatch.setenv("TMPDIR", "/scratch/" + "long" * 30)
    place = short_temp_dir()
    assert place is not None
    assert Path(place).parent == tmp_path
    assert Path(place).stat().st_mode & 0o777 == 0o700
    assert short_temp_dir() == place
    # Who made it first may have meant to find the sockets there.
    Path(place).chmod(0o777)
    with pytest.raises(UserError, match="is not this user's alone"):
        short_temp_dir()
    monkeypatch.setenv("RAY_TMPDIR", "/scratch/" + "long" * 30)
    with pytest.raises(UserError, match="RAY_TMPDIR '/scratch/long.* is too long a path"):
        short_temp_dir()


def test_no_room_for_ray_is_a_line_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with small_disk(tmp_path, "64k") as disk:
        if disk is None:
            pytest.skip("no filesystem can be mounted here")
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", str(disk))
        monkeypatch.setattr(own_ray, "SHORT_PLACE", str(disk))
        with pytest.raises(IncompleteError, match=f"no room for its logs .* MB at {disk}.*; make room"):
            start_ray(1)
