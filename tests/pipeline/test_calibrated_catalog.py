"""Catalogs of a calibrated model: one way of making for all rows, whatever workers, shards and resumes."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from astropy.table import Table
from click.testing import CliRunner

from hiwl_core.bundle import load_bundle
from hiwl_core.cutouts import EvalTransform, normalize
from hiwl_core.decoding import decode_image
from hiwl_core.errors import UserError
from hiwl_core.flags import FLAGS
from hiwl_core.taxonomy import GALAXY_ZOO
from jobs.cli import main
from pipeline.catalog.manifest import MODEL_FACTS
from pipeline.catalog.verify import verify
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.classify import classify
from pipeline.classification.computing import Computing
from pipeline.querying.output import encode
from pipeline.querying.query import query
from tests.drawings import CLASSES, write_labeled_shard

PROBABILITIES = ["p_crs", "p_ibs", "p_css", "p_eo", "p_spi"]
pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 45 drawings, and the same rows in one."""
    folder = tmp_path_factory.mktemp("sky")
    for index in range(3):
        write_labeled_shard(
            folder / "three" / f"sky-{index:05d}-of-00003.parquet",
            dict.fromkeys(CLASSES, 9),
            first_id=1000 * index,
        )
    whole = [pq.read_table(path) for path in sorted((folder / "three").iterdir())]
    (folder / "one").mkdir()
    with pq.ParquetWriter(folder / "one" / "sky.parquet", whole[0].schema) as writer:
        for table in whole:
            # Row groups that have nothing to do with the engines' batches.
            writer.write_table(table, row_group_size=7)
    return folder


def read(catalog: Path) -> pd.DataFrame:
    parts = [pd.read_parquet(part) for part in sorted(catalog.glob("*.parquet"))]
    return pd.concat(parts, ignore_index=True).sort_values("object_id", ignore_index=True)


@pytest.fixture(scope="module")
def catalog(
    ray_session: None, calibrated_model: str, sky: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Of the three shards, by one worker."""
    made = tmp_path_factory.mktemp("catalogs") / "catalog"
    classify(calibrated_model, str(sky / "three"), str(made), computing=Computing(workers=1))
    return made


@pytest.mark.slow
def test_the_catalog_is_the_same_however_it_is_made(
    calibrated_model: str, sky: Path, catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(catalog)
    assert set(expected["views_used"]) == {1, 8}
    classify(calibrated_model, str(sky / "one"), str(tmp_path / "one"))
    with monkeypatch.context() as patch:
        # Or the tests' Ray has room for one.
        patch.setattr("pipeline.cluster.CPUS_AN_ACTOR", 1)
        classify(calibrated_model, str(sky / "three"), str(tmp_path / "two"), computing=Computing(workers=2))
    # A resume in the middle: one part is gone, and its driver with it.
    shutil.copytree(tmp_path / "two", tmp_path / "resumed")
    (tmp_path / "resumed" / "sky-00001-of-00003.parquet").unlink()
    assert classify(calibrated_model, str(sky / "three"), str(tmp_path / "resumed")).computed == 45
    for name in ("two", "one", "resumed"):
        pd.testing.assert_frame_equal(read(tmp_path / name), expected)
        assert verify(str(tmp_path / name)).passed


def test_its_columns_say_what_they_should(catalog: Path) -> None:
    rows = read(catalog)
    p = rows[PROBABILITIES].to_numpy(np.float64)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert rows["label_map"].tolist() == [GALAXY_ZOO.classes[i] for i in p.argmax(axis=1)]
    of_label = p[np.arange(len(rows)), GALAXY_ZOO.encode(rows["label"].tolist())]
    np.testing.assert_allclose(rows["confidence"], of_label, rtol=1e-6)
    for words, most_probable in zip(rows["class_set"], rows["label_map"], strict=True):
        names = words.split("|")
        assert names == [name for name in GALAXY_ZOO.classes if name in names]
        assert len(names) > 1 or names == [most_probable]
    assert rows["ood_score"].notna().all()
    schema = pq.read_schema(next(catalog.glob("*.parquet")))
    assert b"largest of the class probabilities" in schema.field("confidence").metadata[b"description"]
    record = json.loads(schema.metadata[b"hiwl.part"])["settings"]
    assert (record["views"], record["precision"], record["coverage"]) == ("adaptive", "float32", 0.95)
    assert sum(record["class_shares"].values()) == pytest.approx(1)
    facts = json.loads((catalog / MODEL_FACTS).read_text())
    assert facts["classes"] == list(GALAXY_ZOO.classes)
    assert np.array(facts["validation"]["confusion"]).sum() == 150
    assert facts["reference"]["rows"] == 150


def test_the_end_of_a_run_tells_the_flags(calibrated_model: str, sky: Path, catalog: Path) -> None:
    bits = read(catalog)["flags"]
    expected = {name: int((bits & bit > 0).sum()) for bit, name in FLAGS.items()}
    expected = {name: count for name, count in expected.items() if count}
    assert expected
    # From the ledger alone: all parts are there.
    done = CliRunner().invoke(main, ["classify", calibrated_model, str(sky / "three"), str(catalog)])
    assert done.exit_code == 0, done.output
    told = [line.split() for line in done.stdout.splitlines() if line.startswith("  flag ")]
    assert {name.rstrip(":"): int(count) for _, name, count in told} == expected
    assert f"hiwl sample {catalog} odd.html --where \"status <> 'ok' OR flags > 0\"" in done.stdout


def test_eight_views_in_float32_give_the_label_of_before(
    random_model: str, calibrated_model: str, sky: Path, tmp_path: Path
) -> None:
    eight = CatalogContents(views=8, precision="float32")
    classify(random_model, str(sky / "one"), str(tmp_path / "before"), contents=eight)
    classify(calibrated_model, str(sky / "one"), str(tmp_path / "after"), contents=eight)
    before, after = read(tmp_path / "before"), read(tmp_path / "after")
    pd.testing.assert_series_equal(before["label"], after["label"])
    assert before["class_set"].isna().all()
    assert (before[PROBABILITIES] - after[PROBABILITIES]).abs().to_numpy().max() > 0.01


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (CatalogContents(views=8), r"views adaptive, now 8"),
        (CatalogContents(coverage=0.9), r"coverage 0\.95, now 0\.9"),
        (CatalogContents(prior="CRS=.2,IBS=.2,CSS=.2,EO=.2,SPI=.2"), r"prior None, now \[0\.2, 0\.2"),
        (CatalogContents(precision="bfloat16"), r"precision float32, now bfloat16"),
    ],
)
def test_a_catalog_has_one_way_of_making(
    calibrated_model: str, sky: Path, catalog: Path, model: CatalogContents, words: str
) -> None:
    with pytest.raises(UserError, match=f"other settings .{words}"):
        classify(calibrated_model, str(sky / "three"), str(catalog), contents=model)


def test_features_are_kept_where_they_are_asked_for(
    random_model: str, calibrated_model: str, sky: Path, tmp_path: Path
) -> None:
    where, asked = str(tmp_path / "catalog"), CatalogContents(precision="float32", features=True)
    classify(calibrated_model, str(sky / "three"), where, contents=asked)
    assert verify(where).passed
    rows = read(tmp_path / "catalog")
    bundle = load_bundle(calibrated_model)
    stage, measure = bundle.stages["stage1"], bundle.fitted.unlikeness
    assert measure is not None
    shards = [pq.read_table(path) for path in sorted((sky / "three").iterdir())]
    images = [image for shard in shards for image in shard["image"].to_pylist()[:4]]
    seen = torch.from_numpy(
        np.stack([EvalTransform(stage.preprocessing)(decode_image(i).image) for i in images])
    )
    with torch.inference_mode():
        network = stage.network(len(bundle.taxonomy.stage_classes("stage1")))
        features = network.features(normalize(seen, stage.preprocessing.mean, stage.preprocessing.std))
    expected = (features.numpy() - measure.center) @ measure.axes.astype(np.float32)
    ids = [one for shard in shards for one in shard["object_id"].to_pylist()[:4]]
    found = rows.set_index("object_id")["features"].loc[ids]
    np.testing.assert_allclose(np.stack(found), expected, rtol=2e-3, atol=2e-3)

    table = Table.read(io.BytesIO(encode(query(where, "SELECT object_id, features FROM catalog"), "votable")))
    assert table["features"].shape == (len(rows), expected.shape[1])
    with pytest.raises(UserError, match=r"other settings .features True, now None"):
        classify(calibrated_model, str(sky / "three"), where, contents=CatalogContents(precision="float32"))
    with pytest.raises(UserError, match=r"--features: this model has no measure .* `hiwl optimize BUNDLE`"):
        classify(random_model, str(sky / "one"), str(tmp_path / "none"), contents=asked)
    words = ["classify", calibrated_model, str(sky / "one"), str(tmp_path / "no"), "--features"]
    carried = CliRunner().invoke(main, [*words, "--carry", "features"])
    assert (carried.exit_code, "--carry features: that name is taken" in carried.stderr) == (2, True)


def test_an_estimated_prior_is_estimated_once(calibrated_model: str, sky: Path, tmp_path: Path) -> None:
    catalog, asked = tmp_path / "catalog", CatalogContents(prior="estimate")
    classify(calibrated_model, str(sky / "three"), str(catalog), contents=asked)
    settings = json.loads((catalog / "_catalog.json").read_text())["settings"]
    assert sum(settings["prior"]) == pytest.approx(1)
    assert settings["class_shares"] == dict(zip(GALAXY_ZOO.classes, settings["prior"], strict=True))
    (catalog / "sky-00002-of-00003.parquet").unlink()
    assert classify(calibrated_model, str(sky / "three"), str(catalog), contents=asked).computed == 45
    again = json.loads((catalog / "_catalog.json").read_text())["settings"]
    assert again == settings
