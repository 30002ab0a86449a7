"""Checks on real Galaxy Zoo images, for those who have them; skipped elsewhere.

HIWL_GALAXYZOO names the folder; by default it is ``../shared/galaxyzoo`` beside the checkout. It holds
``train-*.parquet``, ``val-*.parquet`` (GalaxyID, class, image) and ``originals/`` with JPEGs and labels.csv.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from hiwl_core.bundle import load_bundle
from hiwl_core.cascade import CascadePrediction
from hiwl_core.device import choose_compute
from hiwl_core.engines import choose_engine
from hiwl_core.inference import CascadeClassifier
from hiwl_core.selection import split_811
from hiwl_core.taxonomy import GALAXY_ZOO
from pipeline.ingestion.ingest import ingest
from pipeline.ingestion.ingest_options import IngestOptions
from pipeline.shards.cutout_shards import Columns, list_shards, read_columns
from pipeline.training.labeled_shards import check_labeled
from tests.bundles import random_bundle

FOLDER = Path(os.environ.get("HIWL_GALAXYZOO", Path(__file__).parents[2] / "shared" / "galaxyzoo"))
COLUMNS = Columns(id="GalaxyID", label="class")
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no Galaxy Zoo images in {FOLDER}")


def test_the_papers_sample_is_read_in_place() -> None:
    train = check_labeled(list_shards(f"{FOLDER}/train-*.parquet"), COLUMNS, GALAXY_ZOO)
    val = check_labeled(list_shards(f"{FOLDER}/val-*.parquet"), COLUMNS, GALAXY_ZOO)
    assert (sum(train.class_counts.values()), sum(val.class_counts.values())) == (23_031, 2_878)
    assert (train.class_counts["CSS"], train.class_counts["EO"]) == (462, 3_122)


def test_our_split_sizes_are_those_of_the_files() -> None:
    counts = {"CRS": 8434, "IBS": 8069, "CSS": 578, "EO": 3903, "SPI": 7806}
    classes = [name for name, count in counts.items() for _ in range(count)]
    ids = [str(100_000 + index) for index in range(len(classes))]
    split = pd.crosstab(pd.Series(classes), pd.Series(split_811(ids, classes)))
    shards = list_shards(f"{FOLDER}/val-*.parquet")
    labels = read_columns(shards[0], COLUMNS, ["label"])["label"].to_pandas()
    assert split["val"].to_dict() == labels.value_counts().to_dict()


@pytest.mark.usefixtures("ray_session")
def test_originals_become_600_rows(tmp_path: Path) -> None:
    summary = ingest(
        f"{FOLDER}/originals", str(tmp_path / "out"), IngestOptions(f"{FOLDER}/originals/labels.csv")
    )
    assert (summary.rows, summary.rejects) == (600, [])
    table = pq.read_table(tmp_path / "out" / "cutouts-00000-of-00001.parquet")
    assert table["label"].to_pandas().value_counts().to_dict() == dict.fromkeys(GALAXY_ZOO.classes, 120)


@pytest.mark.usefixtures("ray_session")
def test_three_truncated_files_and_one_of_text_are_four_rejects(tmp_path: Path) -> None:
    source = tmp_path / "originals"
    shutil.copytree(FOLDER / "originals", source)
    files = sorted(source.glob("*.jpg"))
    files[0].parent.chmod(0o755)
    for file in files[:4]:
        file.chmod(0o644)
    for file in files[:3]:
        file.write_bytes(file.read_bytes()[:-3000])
    files[3].write_text("this is not a galaxy")
    summary = ingest(str(source), str(tmp_path / "out"), IngestOptions(f"{FOLDER}/originals/labels.csv"))
    assert summary.rows == 596
    assert {reject[0] for reject in summary.rejects} == {file.stem for file in files[:4]}
    rejects = pd.read_csv(tmp_path / "out" / "rejects.csv", dtype=str)
    assert rejects["object_id"].tolist() == [file.stem for file in files[:4]]


@pytest.mark.slow
def test_engines_agree_on_every_eighth_validation_galaxy(tmp_path: Path) -> None:
    images = pq.read_table(next(FOLDER.glob("val-*.parquet")), columns=["image"])["image"].to_pylist()[::8]
    bundle = load_bundle(random_bundle(tmp_path / "bundle", 0, 240, 96, images=images[:100]))

    def classified(engine: str) -> CascadePrediction:
        choice = choose_engine(engine, compute=choose_compute(torch.device("cpu")), threads=2)
        statuses, prediction = CascadeClassifier(bundle, choice, always_stage2=True).classify(images)
        assert set(statuses) == {"ok"}
        return prediction

    eager, openvino = classified("torch"), classified("openvino")
    assert len(np.unique(eager.class_indices)) == 5
    assert np.abs(eager.probabilities - openvino.probabilities).max() < 1e-4
    differ = eager.class_indices != openvino.class_indices
    best = np.sort(eager.probabilities[differ], axis=1)
    # Only where two classes are as likely as each other.
    assert (best[:, -1] - best[:, -2] < 2e-4).all()
