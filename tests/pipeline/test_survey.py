"""A survey as it is: broken images among good ones, and a store that fails now and then."""

import contextlib
import os
import statistics
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.catalog.status import catalog_status
from pipeline.catalog.verify import verify
from pipeline.classification.classify import classify
from pipeline.classification.computing import Computing
from tests.broken_inputs import INPUTS
from tests.conftest import classifying, hiwl
from tests.drawings import CLASSES, draw_galaxy, write_labeled_shard
from tests.flaky_store import flaky
from tests.object_store import ObjectStore

GOOD, SHARDS = 10_000, 5


def read(catalog: str) -> pd.DataFrame:
    parts = [name for name, _ in storage.list_files(catalog)]
    tables = []
    for part in parts:
        with storage.open_input(part) as file:
            tables.append(pq.ParquetFile(file).read().to_pandas())
    return pd.concat(tables, ignore_index=True)


def write_survey(folder: Path) -> pd.DataFrame:
    """Shards of good cutouts with a hundred odd ones and ten bad ids among them; returns what is expected."""
    rng = np.random.default_rng(100)
    drawings = [draw_galaxy(label, seed) for label in CLASSES for seed in range(40)]
    rows = [(drawings[int(rng.integers(len(drawings)))], "ok") for _ in range(GOOD)]
    rows += [(one.image, one.expected_status) for one in INPUTS]
    rows = [rows[index] for index in rng.permutation(len(rows))]
    frame = pd.DataFrame(rows, columns=["image", "status"])
    frame.insert(0, "object_id", 10**17 + np.arange(len(frame)))
    frame["shard"] = np.arange(len(frame)) % SHARDS
    for shard in range(SHARDS):
        own = frame.index[frame["shard"] == shard]
        good = own[frame.loc[own, "status"] == "ok"]
        # An id that stands on two rows of its shard: the first is classified.
        frame.loc[good[50], "object_id"] = frame.loc[good[10], "object_id"]
        frame.loc[good[50], "status"] = "duplicate_id"
    folder.mkdir()
    for shard, group in frame.groupby("shard"):
        table = pa.table(
            {
                "object_id": pa.array(group["object_id"]),
                "image": pa.array(group["image"].tolist(), pa.binary()),
            }
        )
        pq.write_table(table, folder / f"survey-{shard}.parquet", row_group_size=256)
    return frame.sort_values("shard", kind="stable")


@pytest.mark.slow
def test_a_hundred_broken_inputs_among_ten_thousand_cost_a_row_each(
    ray_session: None, random_model: str, tmp_path: Path
) -> None:
    expected = write_survey(tmp_path / "sky")
    catalog = tmp_path / "catalog"
    memory: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for worker in classifying(os.getpid()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    memory.append(worker.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        classify(random_model, str(tmp_path / "sky"), str(catalog), computing=Computing(workers=1))
    finally:
        done.set()
        watcher.join()
    catalog_rows = read(str(catalog))
    assert catalog_rows["object_id"].tolist() == expected["object_id"].tolist()
    assert catalog_rows["status"].tolist() == expected["status"].tolist()
    ok = catalog_rows["status"] == "ok"
    assert (catalog_rows["label"].notna() == ok).all()
    assert expected["status"].nunique() > 5
    # The bombs would take gigabytes if their pixels were decoded.
    spike = max(memory) - statistics.median(memory[len(memory) // 2 :])
    assert spike < 512 * 2**20
    assert verify(str(catalog)).passed


@pytest.mark.slow
def test_a_store_that_fails_now_and_then_changes_nothing(
    random_model: str, ray_session: None, object_store: ObjectStore, tmp_path: Path
) -> None:
    shards, catalog = f"{object_store.url}/flaky/sky", f"{object_store.url}/flaky/catalog"
    for index in range(12):
        path = write_labeled_shard(tmp_path / "one.parquet", dict.fromkeys(CLASSES, 8), 1000 * index)
        storage.write_bytes(f"{shards}/sky-{index:05d}-of-00012.parquet", path.read_bytes())
    with flaky(object_store.endpoint, seed=3, errors=0.1, cuts=0.1, delays=0.2) as proxy:
        command = ["classify", random_model, shards, catalog, "--workers", "1"]
        process = hiwl(*command, AWS_ENDPOINT_URL=proxy.endpoint)
        output, _ = process.communicate(timeout=300)
        checked = hiwl("verify", catalog, AWS_ENDPOINT_URL=proxy.endpoint)
        verdict, _ = checked.communicate(timeout=400)
    assert process.returncode == 0, output
    assert checked.returncode == 0, verdict
    assert proxy.errors > 5
    assert proxy.cuts > 5
    assert catalog_status(catalog).state == "complete"
    classify(random_model, shards, f"{object_store.url}/flaky/calm")
    left, right = read(catalog), read(f"{object_store.url}/flaky/calm")
    # Not bit by bit: the two Rays may grant a network another number of threads.
    pd.testing.assert_frame_equal(left, right, rtol=1e-4, atol=1e-5)
