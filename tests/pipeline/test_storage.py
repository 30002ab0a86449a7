"""Files on the local disk and behind fsspec's other filesystems; `test_object_store` has S3."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.storage import partials
from pipeline.storage.retries import is_transient


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory:///{tmp_path.name}"


def test_what_is_written_is_listed_and_read(folder: str) -> None:
    contents = {f"{folder}/{name}": name.encode() * 3 for name in ("b.bin", "a/x.bin", "a/deep/y.txt")}
    for path, content in contents.items():
        storage.write_bytes(path, content)
    storage.write_bytes(f"{folder}/_ledger/z.bin", b"marker")
    storage.write_bytes(f"{folder}/a/.partial", b"half")

    assert storage.list_files(folder) == sorted((path, len(c)) for path, c in contents.items())
    assert {entry.path: entry.size for entry in storage.iter_entries(folder)} == dict(
        storage.list_files(folder)
    )
    assert storage.list_files(f"{folder}/b.bin") == [(f"{folder}/b.bin", 15)]
    assert storage.list_files(f"{folder}/_ledger/z.bin") == [(f"{folder}/_ledger/z.bin", 6)]
    assert [name for name, _ in storage.list_files(f"{folder}/**/*.bin")] == [
        f"{folder}/a/x.bin",
        f"{folder}/b.bin",
    ]
    assert storage.list_files(f"{folder}/nothing") == []
    for path, content in contents.items():
        assert storage.read_bytes(path) == content
        with storage.open_input(path) as file:
            file.seek(-3, os.SEEK_END)
            assert file.read() == content[-3:]
        filesystem, place = storage.arrow_path(path)
        with filesystem.open_input_file(place) as file:
            assert file.read() == content
    assert storage.exists(f"{folder}/a")
    storage.remove(f"{folder}/a")
    assert not storage.exists(f"{folder}/a")
    assert storage.list_files(folder) == [(f"{folder}/b.bin", 15)]


def test_a_mark_differs_where_the_content_may(tmp_path: Path) -> None:
    path = tmp_path / "part.bin"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    (first,) = storage.iter_entries(str(tmp_path))
    assert next(storage.iter_entries(str(path))) == first
    os.utime(path, ns=(1, 2))
    (later,) = storage.iter_entries(str(tmp_path))
    path.write_bytes(b"longer")
    os.utime(path, ns=(1, 2))
    (longer,) = storage.iter_entries(str(tmp_path))
    assert len({first.mark, later.mark, longer.mark}) == 3


def test_a_link_to_nothing_is_listed_for_its_reader_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "gone.bin").symlink_to(tmp_path / "nowhere")
    ((path, _),) = storage.list_files(str(tmp_path))
    with pytest.raises(UserError, match="no file .*gone.bin"):
        storage.read_bytes(path)


def test_a_listing_sees_what_was_written_since() -> None:
    folder = "memory:///growing"
    storage.write_bytes(f"{folder}/a", b"1")
    assert len(storage.list_files(folder)) == 1
    fsspec.filesystem("memory").pipe("/growing/b", b"2")
    assert len(storage.list_files(folder)) == 2


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "part.bin"
    storage.write_bytes(str(path), b"old")
    with pytest.raises(TypeError):
        storage.write_bytes(str(path), "text is not bytes")  # type: ignore[arg-type]
    assert [(name.name, name.read_bytes()) for name in tmp_path.iterdir()] == [("part.bin", b"old")]


def partial_of(process: str = "", host: str = "", began: float | None = None) -> str:
    """A name as this machine's, or another's, gives it."""
    _, own, pid, now, token = partials.partial_name().split("-")
    since = now if began is None else f"{int(began):x}"
    return "-".join([".hiwl", host or own, process or pid, since, token])


def test_only_what_dead_writers_of_ours_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = partial_of(str(gone.pid))
    an_hour_ago, days_ago = time.time() - 3600, time.time() - 3 * 86400
    removed = {
        dead,
        f"_ledger/{dead}",
        f"_ledger/deep/{dead}",
        partial_of(host="0123456789ab", began=days_ago),
    }
    kept = {
        # Of those who are at it: this process, one of another user, one elsewhere.
        partial_of(),
        partial_of("1"),
        partial_of(host="0123456789ab", began=an_hour_ago),
        # Not ours, whatever they look like.
        "_probe",
        ".thesis.tex.partial",
        ".part.parquet.1a2b3c4d.partial",
        ".hiwl-notes.partial",
        f"theirs/{dead}",
        f"{dead}.bak",
        "part.parquet",
    }
    for name in removed | kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    storage.prepare_folder(str(tmp_path), inner=("_ledger", "missing"))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == kept
    assert {(tmp_path / name).read_bytes() for name in left} == {b"half"}


def test_a_start_breaks_no_write_of_another(tmp_path: Path) -> None:
    """A run that starts while another writes in the same folder."""
    with ThreadPoolExecutor(1) as other:
        starts = other.submit(lambda: [storage.prepare_folder(str(tmp_path)) for _ in range(100)])
        for number in range(100):
            storage.write_bytes(f"{tmp_path}/{number}.bin", b"whole")
        starts.result()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"] * 100


def test_an_unknown_scheme_and_missing_files_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot use the path 'nonsense://x/y'"):
        storage.read_bytes("nonsense://x/y")
    with pytest.raises(UserError, match="no file or folder"):
        storage.find_files(str(tmp_path / "nothing"), (".parquet",))
    (tmp_path / "_only_hidden").write_bytes(b"")
    with pytest.raises(UserError, match="no .parquet or .tar file in"):
        storage.find_files(str(tmp_path), (".parquet", ".tar"))


@pytest.mark.parametrize(
    ("error", "passes_by"),
    [
        (ConnectionResetError("reset"), True),
        (TimeoutError("slow"), True),
        (OSError("When reading: AWS Error SLOW_DOWN during GetObject operation"), True),
        (OSError("When reading: AWS Error ACCESS_DENIED during GetObject operation"), False),
        (FileNotFoundError("none"), False),
        (PermissionError("no"), False),
        (ValueError("a bug"), False),
    ],
)
def test_only_faults_on_the_way_are_tried_again(error: Exception, passes_by: bool) -> None:
    assert is_transient(error) is passes_by
    wrapped = RuntimeError("in a worker")
    wrapped.__cause__ = error
    assert is_transient(wrapped) is passes_by
