"""S3 by a real server, and through a network that fails."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import random
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.utils import parse_timestamp

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.storage import retries, s3_client, s3_store
from tests.flaky_store import flaky
from tests.object_store import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectStore, free_ports


@pytest.fixture
def folder(object_store: ObjectStore, request: pytest.FixtureRequest) -> str:
    return f"{object_store.url}/{request.node.originalname}"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits a hundredth as long between attempts."""
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", retries.FIRST_WAIT_SECONDS / 100)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", retries.LONGEST_WAIT_SECONDS / 100)


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def test_listings_name_files_sizes_and_marks(folder: str) -> None:
    contents = {
        f"{folder}/{name}": random_bytes(10 + n) for n, name in enumerate(("b.x", "a/c.x", "a/d/e+ü y.x"))
    }
    for path, content in contents.items():
        storage.write_bytes(path, content)
    for name in ("_plan", "a/_ledger/f.x", "a/.g.x", "_h/i.x"):
        storage.write_bytes(f"{folder}/{name}", b"marker")
    storage.write_bytes(f"{folder}2/beside.x", b"another folder with this one's name in front")

    files = sorted((path, len(content)) for path, content in contents.items())
    assert storage.list_files(folder) == storage.list_files(f"{folder}/") == files
    assert len({entry.mark for entry in storage.iter_entries(folder)} - {""}) == 3
    assert storage.list_files(f"{folder}/*.x") == [(f"{folder}/b.x", 10)]
    assert storage.list_files(f"{folder}/*/*.x") == [(f"{folder}/a/c.x", 11)]
    assert storage.list_files(f"{folder}/**/*.x") == files
    assert storage.list_files(f"{folder}/a/[cd].?") == [(f"{folder}/a/c.x", 11)]
    assert storage.list_files(f"{folder}/a/_ledger/*") == [(f"{folder}/a/_ledger/f.x", 6)]
    assert storage.list_files(f"{folder}/_plan") == [(f"{folder}/_plan", 6)]
    assert storage.find_files(f"{folder}/b.x", (".parquet",)) == [f"{folder}/b.x"]
    assert storage.list_files(f"{folder}/nothing") == []
    for path, there in (
        (folder, True),
        (f"{folder}/a/", True),
        (f"{folder}/b.x", True),
        (f"{folder}/b", False),
    ):
        assert storage.exists(path) is there
    for path, content in contents.items():
        assert storage.read_bytes(path) == content

    storage.remove(folder)
    assert storage.list_files(folder) == []
    assert storage.list_files(f"{folder}2") == [(f"{folder}2/beside.x", 44)]


def test_a_mark_is_that_of_the_content(folder: str) -> None:
    path = f"{folder}/part"
    marks = []
    for content in (b"one", b"two", b"one"):
        storage.write_bytes(path, content)
        (listed,), (asked,) = storage.iter_entries(folder), storage.iter_entries(path)
        assert listed == asked
        marks.append(listed.mark)
    assert marks[0] == marks[2] != marks[1]


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05.678Z",
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05+01:00",
        "Fri, 02 Jan 2026 03:04:05 GMT",
        "1767323045",
        1767323045.5,
    ],
)
def test_times_are_what_botocore_takes_them_for(text: str | float) -> None:
    assert s3_client._moment(text) == parse_timestamp(text)


def test_a_listing_of_many_pages(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_store, "PAGE_KEYS", 10)
    paths = [f"{folder}/{number:04d}" for number in range(35)]
    list(storage.in_threads(lambda path: storage.write_bytes(path, b"x"), paths))
    entries = storage.iter_entries(folder)
    assert next(entries).size == 1
    assert [name for name, _ in storage.list_files(folder)] == paths
    storage.remove(folder)
    assert storage.list_files(folder) == []


def test_what_another_process_wrote_is_seen(folder: str) -> None:
    storage.write_bytes(f"{folder}/a", b"1")
    assert len(storage.list_files(folder)) == 1
    assert not storage.exists(f"{folder}/b")
    assert storage.list_files(f"{folder}/*")
    other = fsspec.filesystem("s3", skip_instance_cache=True)
    other.pipe_file(f"{folder}/b", b"22")
    other.pipe_file(f"{folder}/a", b"333")
    assert storage.exists(f"{folder}/b")
    assert (
        storage.list_files(folder)
        == storage.list_files(f"{folder}/*")
        == [
            (f"{folder}/a", 3),
            (f"{folder}/b", 2),
        ]
    )
    assert storage.read_bytes(f"{folder}/a") == b"333"


def test_a_file_is_read_anywhere_in_small_memory(folder: str) -> None:
    content = random_bytes(20_000_000)
    storage.write_bytes(f"{folder}/big", content)
    rng = random.Random(1)
    with storage.open_input(f"{folder}/big") as file:
        assert file.seekable()
        for _ in range(30):
            start, size = rng.randrange(len(content)), rng.choice([1, 1000, 100_000, 1_000_000])
            file.seek(start)
            assert file.read(size) == content[start : start + size]
        file.seek(0)
        pieces = iter(lambda: file.read(300_000), b"")
        assert b"".join(pieces) == content
        assert len(file.raw._block) <= 8 * 2**20  # type: ignore[attr-defined]
        file.seek(-5, io.SEEK_END)
        assert file.read() == content[-5:]
        assert file.read() == b""
    storage.write_bytes(f"{folder}/empty", b"")
    with storage.open_input(f"{folder}/empty") as file:
        assert file.read() == b""
    with pytest.raises(FileNotFoundError, match=f"{folder}/none"):
        storage.open_input(f"{folder}/none")


def test_a_file_that_is_overwritten_while_it_is_read_is_not_mixed(folder: str) -> None:
    storage.write_bytes(f"{folder}/part", random_bytes(1_000_000, seed=1))
    with storage.open_input(f"{folder}/part") as file:
        file.read(10)
        storage.write_bytes(f"{folder}/part", random_bytes(1_000_000, seed=2))
        file.seek(500_000)
        with pytest.raises(OSError, match="overwritten while it was read"):
            file.read(10)


def test_requests_are_few(folder: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"image": [random_bytes(20_000, seed) for seed in range(300)]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=50)
    storage.write_bytes(f"{folder}/shard.parquet", buffer.getvalue())
    with flaky(object_store.endpoint, seed=0) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)

        def requests_of(action: object) -> int:
            before = store.requests
            action()  # type: ignore[operator]
            return store.requests - before

        def footer() -> None:
            with storage.open_input(f"{folder}/shard.parquet") as file:
                assert pq.ParquetFile(file).metadata.num_rows == 300

        assert requests_of(footer) == 1
        assert requests_of(lambda: storage.find_files(folder, (".parquet",))) == 1
        assert requests_of(lambda: storage.find_files(f"{folder}/shard.parquet", (".parquet",))) == 1
        assert requests_of(lambda: storage.exists(f"{folder}/shard.parquet")) == 1
        assert requests_of(lambda: storage.read_bytes(f"{folder}/shard.parquet")) == 1
        assert requests_of(lambda: storage.prepare_folder(folder)) <= 3


def test_large_files_go_up_in_parts(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_store, "SINGLE_PUT_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3_store, "PART_BYTES", 5 * 2**20)
    content = random_bytes(12_000_000)
    storage.write_bytes(f"{folder}/large", content)
    (entry,) = storage.iter_entries(folder)
    assert entry.mark.endswith("-3")
    assert storage.read_bytes(f"{folder}/large") == content


def test_a_large_file_that_fails_leaves_nothing(
    folder: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    monkeypatch.setattr(s3_store, "SINGLE_PUT_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3_store, "PART_BYTES", 5 * 2**20)
    with flaky(object_store.endpoint, seed=0, errors=1.0, methods=("PUT",)) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        with pytest.raises(storage.StoreError, match="8 attempts"):
            storage.write_bytes(f"{folder}/large", random_bytes(11_000_000))
    monkeypatch.undo()
    assert storage.list_files(folder) == []
    uploads = fsspec.filesystem("s3").call_s3("list_multipart_uploads", Bucket=BUCKET)
    assert not uploads.get("Uploads")


def test_a_failing_network_changes_no_byte(
    folder: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    contents = {
        f"{folder}/{n % 7}/{n:03d}": random_bytes(1 + 37 * n * n % 200_000, seed=n) for n in range(200)
    }
    with flaky(object_store.endpoint, seed=5, errors=0.1, cuts=0.1, delays=0.05) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        list(storage.in_threads(lambda item: storage.write_bytes(*item), list(contents.items())))
        assert storage.list_files(folder) == [(path, len(contents[path])) for path in sorted(contents)]
        assert list(storage.in_threads(storage.read_bytes, list(contents))) == list(contents.values())

        def read(path: str) -> bytes:
            with storage.open_input(path) as file:
                return file.read()

        assert list(storage.in_threads(read, list(contents))) == list(contents.values())
        path = next(iter(contents))
        filesystem, place = storage.arrow_path(path)
        with filesystem.open_input_file(place) as file:
            assert file.read() == contents[path]
        storage.remove(folder)
        assert storage.list_files(folder) == []
    assert store.requests > 600
    assert store.errors > 50
    assert store.cuts > 50
    assert store.delays > 20


@pytest.mark.parametrize("fault", ["errors", "cuts"])
def test_a_store_that_only_fails_is_given_up(
    fault: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    path = f"{object_store.url}/never"
    with flaky(object_store.endpoint, seed=0, **{fault: 1.0}) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        for action in (
            lambda: storage.read_bytes(path),
            lambda: storage.write_bytes(path, b"x"),
            lambda: storage.list_files(path),
            lambda: storage.exists(path),
        ):
            before = store.requests
            with pytest.raises(storage.StoreError) as caught:
                action()
            # Not times those of the clients below; aiohttp alone asks again, once, on a connection it reused.
            most = retries.STORE_ATTEMPTS * (2 if fault == "cuts" else 1)
            assert retries.STORE_ATTEMPTS <= store.requests - before <= most
            message = str(caught.value)
            assert path in message
            assert "8 attempts" in message
            assert "\n" not in message


def test_a_store_that_goes_away_is_a_fault_not_a_mistake(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    path = f"{object_store.url}/gone"
    with flaky(object_store.endpoint, seed=0) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        assert not storage.exists(path)
    with pytest.raises(storage.StoreError, match="8 attempts"):
        storage.exists(path)


def test_mistakes_are_one_line_at_once_without_credentials(
    folder: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    storage.write_bytes(f"{folder}/part", b"x")
    reads = (
        lambda path: storage.find_files(path, (".parquet",)),
        storage.exists,
        storage.read_bytes,
        storage.open_input,
        lambda path: storage.write_bytes(f"{path}/part", b"x"),
    )

    def check(path: str, words: str) -> None:
        for read in reads:
            started = time.monotonic()
            with pytest.raises(UserError, match=words) as caught:
                read(path)
            assert time.monotonic() - started < 5
            message = str(caught.value)
            assert "\n" not in message
            assert not {ACCESS_KEY, SECRET_KEY, "wrong"} & set(message.replace("'", " ").split())

    check("s3://nobodys-bucket/folder", "no bucket of that name for s3://nobodys-bucket/folder")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        check(folder, "refuses s3://.*check the credentials")
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        check(folder, "no credentials for s3://")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
        check(folder, "no object store answers for s3://.*check AWS_ENDPOINT_URL")
    with pytest.raises(UserError, match="no bucket in"):
        storage.list_files("s3://")
    with pytest.raises(ValueError, match="whole bucket"):
        storage.remove(object_store.url)


def _read_in_child(path: str, answers: Connection) -> None:
    answers.send((storage.read_bytes(path), storage.list_files(path)))


def test_a_forked_process_reads_with_a_client_of_its_own(folder: str) -> None:
    storage.write_bytes(f"{folder}/part", b"content")
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_read_in_child, args=(f"{folder}/part", there))
    child.start()
    try:
        assert here.poll(20)
        assert here.recv() == (b"content", [(f"{folder}/part", 7)])
    finally:
        child.kill()
        child.join()
    assert storage.read_bytes(f"{folder}/part") == b"content"


def test_arrow_reads_and_writes_by_the_same_paths(folder: str) -> None:
    filesystem, place = storage.arrow_path(f"{folder}/table.parquet")
    pickled = pickle.dumps(filesystem)
    assert SECRET_KEY.encode() not in pickled
    filesystem = pickle.loads(pickled)
    pq.write_table(pa.table({"n": [1, 2, 3]}), place, filesystem=filesystem)
    with storage.open_input(f"{folder}/table.parquet") as file:
        assert pq.ParquetFile(file).read()["n"].to_pylist() == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_server_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.object_store", str(tmp_path), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert any(line.startswith("# s3://") for line in starter.stdout)
        assert _answers(port)
        starter.kill()
    until = time.monotonic() + 10
    while _answers(port):
        assert time.monotonic() < until
        time.sleep(0.1)


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
