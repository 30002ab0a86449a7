"""Stores of Google and Azure, which are read by fsspec's own filesystems: as these answer, over a memory."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.storage.retries import is_transient, retried

ROOT = "az://sky/f"


class Cloud(MemoryFileSystem):
    """One bucket, `sky`, with two schemes, which says of a single file its name alone, as adlfs does."""

    protocol = ("abfs", "az")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    deciding = Lock()
    lost_answers = 0
    lags = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + str(path).split("://")[-1].strip("/")

    def unstrip_protocol(self, name: str) -> str:
        return "abfs://" + name.strip("/")

    def _check_bucket(self, path: str) -> None:
        if not self._strip_protocol(path).startswith("/sky"):
            raise FileNotFoundError(f"b{path}/o")

    def exists(self, path: str, **kwargs: Any) -> bool:
        return not self.lags and bool(super().exists(path, **kwargs))

    def find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        self._check_bucket(path)
        return [path] if self.isfile(path) else super().find(path, *args, **kwargs)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        self._check_bucket(path)
        with self.deciding:
            if mode == "create" and path in self.store:
                raise FileExistsError(path)
            super().pipe_file(path, value, **kwargs)
        if Cloud.lost_answers:
            Cloud.lost_answers -= 1
            raise ConnectionError("no answer came")


@pytest.fixture(autouse=True)
def _cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in Cloud.protocol:
        monkeypatch.setitem(_registry, scheme, Cloud)
    monkeypatch.setattr(Cloud, "store", {})
    monkeypatch.setattr(storage, "SETTLE_SECONDS", 0.1)


def test_files_are_named_by_the_scheme_that_was_asked_for() -> None:
    for name in ("a.parquet", "b/c.parquet", "_plan"):
        storage.write_bytes(f"{ROOT}/{name}", name.encode())
    files = [f"{ROOT}/a.parquet", f"{ROOT}/b/c.parquet"]
    assert storage.find_files(ROOT, (".parquet",)) == storage.find_files(
        f"{ROOT}/**/*.parquet", (".parquet",)
    )
    assert storage.find_files(ROOT, (".parquet",)) == files
    # A file that is named is taken, whatever its ending.
    assert storage.find_files(f"{ROOT}/_plan", (".parquet",)) == [f"{ROOT}/_plan"]
    assert storage.list_files("abfs://sky/f/b") == [("abfs://sky/f/b/c.parquet", 11)]


def test_of_several_who_create_a_file_one_has_it() -> None:
    def create(number: int) -> bool:
        return storage.create_bytes(f"{ROOT}/lease", b"%d" % number)

    with ThreadPoolExecutor(8) as several:
        answers = list(several.map(create, range(8)))
    assert answers.count(True) == 1
    assert storage.read_bytes(f"{ROOT}/lease") == b"%d" % answers.index(True)


def test_a_file_that_came_meanwhile_is_not_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_bytes(f"{ROOT}/lease", b"theirs")
    # As if it had come after it was asked for.
    monkeypatch.setattr(Cloud, "lags", True)
    assert not storage.create_bytes(f"{ROOT}/lease", b"ours")
    assert storage.read_bytes(f"{ROOT}/lease") == b"theirs"


def test_a_file_is_ours_though_the_answer_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cloud, "lost_answers", 1)
    assert storage.create_bytes(f"{ROOT}/lease", b"ours")


def test_no_such_bucket_is_a_mistake() -> None:
    with pytest.raises(UserError, match="no bucket or folder for az://nobodys/a: check the path"):
        storage.write_bytes("az://nobodys/a", b"x")
    with pytest.raises(UserError, match="no bucket or folder for az://nobodys/a: check the path"):
        storage.create_bytes("az://nobodys/a", b"x")
    with pytest.raises(UserError, match="no file or folder 'az://nobodys/a'"):
        storage.find_files("az://nobodys/a", (".parquet",))


def test_a_missing_package_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    for scheme in ("gs", "gcs"):
        monkeypatch.delitem(_registry, scheme, raising=False)
    with pytest.raises(UserError, match=r"cannot use the path 'gs://sky/f'.*pip install 'hiwl\[gcs\]'"):
        storage.exists("gs://sky/f")


class HttpError(Exception):
    """As gcsfs has it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Anonymous caller does not have access, {code}")
        self.code = code


class HttpResponseError(Exception):
    """As Azure's client has it, whose response is an object."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__("Server failed to authenticate the request.\nRequestId:1")
        self.status_code, self.error_code, self.response = status, code, object()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (HttpError(401), r"refuses az://sky \(401\): check the credentials"),
        (OSError("Forbidden: https://host/b/sky/o\nno access"), r"refuses az://sky \(403\): check the cred"),
        (HttpResponseError(403, "AuthenticationFailed"), r"refuses az://sky \(AuthenticationFailed\)"),
        (HttpResponseError(404, "ContainerNotFound"), "no bucket of that name for az://sky"),
    ],
)
def test_mistakes_are_told_as_those_of_s3(error: Exception, words: str) -> None:
    def refused() -> None:
        raise error

    assert not is_transient(error)
    with pytest.raises(UserError, match=words) as caught:
        retried(refused, "az://sky")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [HttpError(503), HttpResponseError(500), HttpResponseError(429)])
def test_faults_are_tried_again(error: Exception) -> None:
    assert is_transient(error)
