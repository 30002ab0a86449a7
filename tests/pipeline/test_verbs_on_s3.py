"""The verbs with all their inputs and outputs in S3."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from hiwl_core.bundle import load_bundle
from hiwl_core.methods import method_overrides
from hiwl_core.recipe import load_recipe
from pipeline import storage
from pipeline.catalog.parts import read_part
from pipeline.classification.classify import classify
from pipeline.classification.shard_classifier import read_bundle
from pipeline.evaluation.evaluate import evaluate
from pipeline.ingestion.ingest import ingest
from pipeline.ingestion.ingest_options import IngestOptions
from pipeline.simulate import simulate
from pipeline.training.train import train
from tests.conftest import TINY, TinyData
from tests.object_store import ObjectStore


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_from_cutouts_by_a_sample_of_them_to_a_catalog_in_s3(
    object_store: ObjectStore, tiny_data: TinyData, tmp_path: Path
) -> None:
    root = f"{object_store.url}/survey"
    for part in ("train", "val"):
        for path, _ in storage.list_files(getattr(tiny_data, part)):
            name = path.rsplit("/", 1)[-1]
            storage.write_bytes(f"{root}/labeled/{part}/{name}", storage.read_bytes(path))

    sky = simulate(f"{root}/sky", count=10, size=72, shard_rows=5)
    assert sky.rendered == 10
    assert simulate(f"{root}/sky", count=10, size=72, shard_rows=5).rendered == 0
    packed = ingest(sky.cutouts, f"{root}/shards", IngestOptions(shard_rows=4))
    assert packed.rows == 10
    assert ingest(sky.cutouts, f"{root}/shards", IngestOptions(shard_rows=4)).resumed == packed.shards

    # Half the galaxies of each class to train on, and five to select by.
    sample = ("train_galaxies=70", "val_galaxies=25")
    # Of one stage: how two follow each other is no matter of where their files are.
    recipe = load_recipe("demo", [*method_overrides("slwslm"), *TINY, *sample, "stage1.epochs=2"])
    data, val, run = f"{root}/labeled/train", f"{root}/labeled/val", f"{root}/run"
    bundle = train(data, val, recipe, run, workers=1).bundle
    model_id = read_bundle(bundle).model_id
    # What is trained in this process is the same.
    here = load_bundle(train(tiny_data.train, tiny_data.val, recipe, str(tmp_path / "run")).bundle)
    assert not (tmp_path / "run" / "stage1" / "checkpoint_manager_snapshot.json").exists()
    assert here.metrics == read_bundle(bundle).metrics
    for name, weights in read_bundle(bundle).stages["stage1"].weights.items():
        torch.testing.assert_close(here.stages["stage1"].weights[name], weights)
    counts = {"CRS": 18, "IBS": 18, "CSS": 6, "EO": 12, "SPI": 16}
    assert read_bundle(bundle).provenance["class_counts"] == counts
    sources = json.loads(storage.read_bytes(f"{run}/sources.json"))
    assert (sources["data"], sources["val"], sources["columns"]["id"]) == (data, val, "object_id")
    table = storage.read_bytes(f"{run}/stage1_epochs.csv")
    # As if it had been killed after the last epoch: it goes on from the checkpoint.
    for lost in ("bundle", "pairs.csv", "stage1.json"):
        storage.remove(f"{run}/{lost}")
    again = train(data, val, recipe, run, workers=1)
    assert again.pairs is not None
    assert len(again.pairs) == 2
    assert {round(25 * accuracy, 4) % 1 for accuracy in again.pairs["accuracy"]} == {0}
    assert {round(5 * share, 4) % 1 for share in again.pairs["recall_CRS"]} == {0}
    assert storage.read_bytes(f"{run}/stage1_epochs.csv") == table
    assert read_bundle(bundle).model_id == model_id
    checkpoints = [name for name, _ in storage.list_files(run) if name.endswith("weights.safetensors")]
    assert len(checkpoints) == 2

    scores = evaluate(bundle, val, f"{root}/evaluation")
    assert scores.confusion.to_numpy().sum() == 50
    assert json.loads(storage.read_bytes(f"{root}/evaluation/evaluation.json"))["rows"] == 50
    catalog = classify(bundle, f"{root}/shards", f"{root}/catalog")
    assert catalog.failed == []
    rows = pd.concat([read_part(part).to_pandas() for part in catalog.parts])
    assert len(rows) == rows["object_id"].nunique() == catalog.computed == 10
    assert set(rows["status"]) == {"ok"}
    resumed = classify(bundle, f"{root}/shards", f"{root}/catalog")
    assert (resumed.computed, resumed.skipped_parts) == (0, len(catalog.parts))
