"""A store that answers, but not as one may expect: old listings, denied ones, another time of day."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

import botocore.auth
import botocore.compat
import pytest

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.lease import Lease
from pipeline.shards.cutout_shards import Columns, list_shards, read_columns
from pipeline.storage import s3_store
from tests.drawings import write_labeled_shard
from tests.flaky_store import flaky
from tests.object_store import READER_KEY, ObjectStore


@pytest.fixture
def folder(object_store: ObjectStore, request: pytest.FixtureRequest) -> str:
    return f"{object_store.url}/{request.node.originalname}"


def test_a_listing_that_changes_under_its_reader_has_what_was_there_all_along(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "PAGE_KEYS", 5)
    staying = [f"{folder}/{number:02d}" for number in range(0, 40, 2)]
    list(storage.in_threads(lambda path: storage.write_bytes(path, b"x"), staying))
    stopped = threading.Event()

    def come_and_go() -> None:
        while not stopped.is_set():
            for number in range(1, 40, 6):
                storage.write_bytes(f"{folder}/{number:02d}", b"x")
            for number in range(1, 40, 6):
                storage.remove(f"{folder}/{number:02d}")

    others = threading.Thread(target=come_and_go)
    others.start()
    try:
        for _ in range(10):
            found = [path for path, _ in storage.list_files(folder)]
            assert len(found) == len(set(found))
            assert set(found) >= set(staying)
    finally:
        stopped.set()
        others.join()


def test_old_listings_make_no_second_owner(
    folder: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of stores, or of what stands before them, whose listings lag behind."""
    with flaky(object_store.endpoint, seed=0) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.endpoint)
        assert storage.list_files(f"{folder}/_lease") == []
        store.stale = True
        with (
            Lease(folder, "the first"),
            pytest.raises(UserError, match="is claimed by several runs at once"),
        ):
            Lease(folder, "the second").__enter__()


def test_who_may_read_and_not_list_names_a_shard(
    folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shard = write_labeled_shard(tmp_path / "a.parquet", {"CRS": 3})
    storage.write_bytes(f"{folder}/a.parquet", shard.read_bytes())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    assert list_shards(f"{folder}/a.parquet") == [f"{folder}/a.parquet"]
    assert read_columns(f"{folder}/a.parquet", Columns(), ["object_id"]).num_rows == 3
    for path in (folder, f"{folder}/*.parquet"):
        with pytest.raises(UserError, match="refuses s3://.* check the credentials .* what they may do"):
            list_shards(path)
    with pytest.raises(UserError, match="refuses s3://.* what they may do"):
        Lease(f"{folder}/out", "hiwl classify").__enter__()


def test_a_clock_that_the_store_does_not_believe_is_named(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write_bytes(f"{folder}/a", b"x")
    signed, now, ahead = botocore.compat.get_current_datetime, time.time, timedelta(hours=1)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *args: signed(*args) + ahead)
    monkeypatch.setattr(time, "time", lambda: now() + ahead.total_seconds())
    # The first has an answer with a body, which says why; the other has none.
    for action in (storage.read_bytes, storage.exists):
        with pytest.raises(UserError, match="refuses s3://.*: the clock of this machine"):
            action(f"{folder}/a")
