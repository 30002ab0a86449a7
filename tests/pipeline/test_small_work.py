"""Small work is done by the command's own process, and what that did not end by Ray's workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from hiwl_core.errors import IncompleteError
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.verify import verify
from pipeline.classification import small_work
from pipeline.classification.classify import classify
from pipeline.classification.shard_classifier import ShardClassifier
from pipeline.classification.shard_work import ShardTask
from pipeline.storage import Entry
from tests.drawings import write_labeled_shard

FEW = [Entry("/sky/a.parquet", 31 * 2**20, "")]


@pytest.mark.parametrize(
    ("shards", "workers", "gpu", "cluster", "small"),
    [
        (FEW, None, None, "", True),
        (FEW, None, False, "", True),
        (FEW, 1, None, "", False),
        (FEW, None, True, "", False),
        (FEW, None, None, "127.0.0.1:6379", False),
        (2 * FEW, None, None, "", False),
    ],
)
def test_what_is_small(
    shards: list[Entry],
    workers: int | None,
    gpu: bool | None,
    cluster: str,
    small: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    assert small_work.is_small(shards, workers, gpu) == small


@pytest.mark.usefixtures("ray_session")
def test_what_was_broken_off_goes_to_ray(
    random_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        write_labeled_shard(tmp_path / "sky" / f"{index}.parquet", {"CRS": 2}, first_id=10 * index)
    there, catalog = str(tmp_path / "sky"), tmp_path / "catalog"
    one_by_one = ShardClassifier.classify

    def fails_at_the_second(classifier: ShardClassifier, tasks: list[ShardTask]) -> list[LedgerEntry]:
        if tasks[0].shard.endswith("1.parquet"):
            raise RuntimeError("could not execute\na primitive")
        return one_by_one(classifier, tasks)

    with monkeypatch.context() as patch:
        patch.setattr(small_work, "ROWS_AT_ONCE", 1)
        patch.setattr(ShardClassifier, "classify", fails_at_the_second)
        # Not even looked at.
        patch.setattr(small_work, "connected", None)
        with pytest.raises(IncompleteError, match=r"\(RuntimeError: could not execute a primitive\); whole"):
            classify(random_model, there, str(catalog))
    assert {path.name for path in catalog.glob("*.parquet")} == {"0.parquet"}
    monkeypatch.setattr("pipeline.classification.classify.classify_here", None)
    summary = classify(random_model, there, str(catalog))
    assert (summary.computed, summary.skipped_parts) == (4, 1)
    assert verify(str(catalog)).passed
