import io
import json
import tarfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.errors import UserError
from pipeline.classify import classify
from pipeline.evaluate import evaluate
from tests.conftest import TinyData, hiwl
from tests.drawings import CLASSES, draw_galaxy, write_labeled_shard

PROBABILITIES = ["p_crs", "p_ibs", "p_css", "p_eo", "p_spi"]
pytestmark = pytest.mark.usefixtures("ray_session")


def read(catalog: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(part) for part in sorted(catalog.glob("*.parquet"))], ignore_index=True)


def write_shards(folder: Path, count: int, per_class: int = 2) -> Path:
    for index in range(count):
        path = folder / f"sky-{index:05d}-of-{count:05d}.parquet"
        write_labeled_shard(path, dict.fromkeys(CLASSES, per_class), first_id=1000 * index)
    return folder


def test_every_row_is_in_the_catalog_once_with_its_columns(tiny_bundle: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "sky", 3)
    summary = classify(tiny_bundle, str(shards), str(tmp_path / "catalog"))
    catalog = read(tmp_path / "catalog")
    assert [path.name for path in sorted((tmp_path / "catalog").iterdir())] == [
        path.name for path in sorted(shards.iterdir())
    ]
    assert sorted(catalog["object_id"]) == [1000 * i + j for i in range(3) for j in range(10)]
    assert list(catalog.columns) == [
        "object_id",
        "ra",
        "dec",
        "label",
        "confidence",
        *PROBABILITIES,
        "p_stage1_combined",
        "p_stage2_css",
        "status",
        "model_id",
    ]
    assert np.abs(catalog[PROBABILITIES].astype("float64").sum(axis=1) - 1).max() < 1e-5
    assert (catalog["p_stage2_css"].notna() == catalog["label"].isin(["CSS", "EO"])).all()
    assert summary.rows == 30
    assert summary.classes == catalog["label"].value_counts().to_dict()


def test_columns_say_their_units_and_meaning(tiny_bundle: str, tmp_path: Path) -> None:
    classify(tiny_bundle, str(write_shards(tmp_path / "sky", 1, 1)), str(tmp_path / "catalog"))
    schema = pq.read_schema(next((tmp_path / "catalog").iterdir()))
    assert schema.field("p_css").type == pa.float32()
    assert schema.field("object_id").type == pa.int64()
    assert schema.field("ra").metadata[b"unit"] == b"deg"
    assert schema.field("ra").metadata[b"ucd"] == b"pos.eq.ra;meta.main"
    assert b"cigar-shaped" in schema.field("p_css").metadata[b"description"]


def test_unreadable_cutouts_are_rows_with_a_status(tiny_bundle: str, tmp_path: Path) -> None:
    images = [
        draw_galaxy("CRS", 0),
        None,
        b"",
        b"text",
        draw_galaxy("EO", 1)[:600],
        draw_galaxy("EO", 1, size=40),
    ]
    ids = [2**62 + i for i in range(len(images))]
    pq.write_table(
        pa.table({"object_id": ids, "image": pa.array(images, pa.binary())}), tmp_path / "bad.parquet"
    )
    classify(tiny_bundle, str(tmp_path / "bad.parquet"), str(tmp_path / "catalog"))
    catalog = read(tmp_path / "catalog")
    assert catalog["object_id"].tolist() == ids
    assert catalog["status"].tolist() == [
        "ok",
        "missing",
        "undecodable",
        "undecodable",
        "undecodable",
        "too_small",
    ]
    assert catalog.loc[1:, ["label", "confidence", *PROBABILITIES]].isna().all(axis=None)
    assert catalog["ra"].isna().all()


def test_an_empty_shard_and_one_without_any_image_have_their_parts(tiny_bundle: str, tmp_path: Path) -> None:
    schema = pa.schema([("object_id", pa.string()), ("image", pa.binary())])
    pq.write_table(schema.empty_table(), tmp_path / "none.parquet")
    pq.write_table(
        pa.table({"object_id": ["a"], "image": pa.array([None], pa.binary())}), tmp_path / "null.parquet"
    )
    summary = classify(tiny_bundle, str(tmp_path / "n*.parquet"), str(tmp_path / "catalog"))
    assert summary.rows == 1
    parts = {path.name: pq.read_table(path) for path in (tmp_path / "catalog").iterdir()}
    assert {name: part.num_rows for name, part in parts.items()} == {"none.parquet": 0, "null.parquet": 1}


def test_user_columns_are_carried_and_named(tiny_bundle: str, tmp_path: Path) -> None:
    path = write_labeled_shard(tmp_path / "a.parquet", {"CRS": 3})
    table = pq.read_table(path).append_column("redshift", pa.array([0.1, 0.2, 0.3]))
    pq.write_table(table.rename_columns(["id", "ra", "dec", "jpg", "pixel_scale", "label", "redshift"]), path)
    from pipeline.shards import Columns

    classify(
        tiny_bundle, str(path), str(tmp_path / "catalog"), Columns(id="id", image="jpg"), carry=["redshift"]
    )
    assert read(tmp_path / "catalog")["redshift"].tolist() == [0.1, 0.2, 0.3]
    with pytest.raises(UserError, match="--carry label: that name is taken"):
        classify(tiny_bundle, str(path), str(tmp_path / "c2"), Columns(id="id", image="jpg"), carry=["label"])


def test_stage2_on_every_row_keeps_labels_and_fills_its_column(tiny_bundle: str, tmp_path: Path) -> None:
    shards = str(write_shards(tmp_path / "sky", 1, 4))
    classify(tiny_bundle, shards, str(tmp_path / "routed"))
    classify(tiny_bundle, shards, str(tmp_path / "always"), stage2="always")
    routed, always = read(tmp_path / "routed"), read(tmp_path / "always")
    assert always["p_stage2_css"].notna().all()
    assert routed["label"].tolist() == always["label"].tolist()
    assert np.abs(always[PROBABILITIES].astype("float64").sum(axis=1) - 1).max() < 1e-5


def test_only_missing_parts_are_computed(tiny_bundle: str, tmp_path: Path) -> None:
    shards, catalog = write_shards(tmp_path / "sky", 3), tmp_path / "catalog"
    classify(tiny_bundle, str(shards), str(catalog))
    before = {path.name: path.read_bytes() for path in catalog.iterdir()}
    (catalog / "sky-00001-of-00003.parquet").unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in catalog.iterdir()}
    summary = classify(tiny_bundle, str(shards), str(catalog))
    assert (summary.skipped_parts, summary.computed, summary.rows) == (2, 10, 30)
    assert {name: (catalog / name).stat().st_mtime_ns for name in kept} == kept
    assert {path.name: path.read_bytes() for path in catalog.iterdir()} == before


def test_a_part_of_another_shard_model_or_setting_is_never_skipped_over(
    tiny_bundle: str, tmp_path: Path
) -> None:
    shards, catalog = write_shards(tmp_path / "sky", 1), tmp_path / "catalog"
    classify(tiny_bundle, str(shards), str(catalog))
    with pytest.raises(UserError, match="with other settings"):
        classify(tiny_bundle, str(shards), str(catalog), stage2="always")
    write_labeled_shard(shards / "sky-00000-of-00001.parquet", {"CRS": 5}, first_id=500)
    with pytest.raises(UserError, match=r"from another shard named sky-00000-of-00001\.parquet"):
        classify(tiny_bundle, str(shards), str(catalog))
    (catalog / "sky-00000-of-00001.parquet").write_text("stray")
    with pytest.raises(UserError, match="is not a part of a HIWL catalog"):
        classify(tiny_bundle, str(shards), str(catalog))


def test_two_shards_of_one_name_are_refused(tiny_bundle: str, tmp_path: Path) -> None:
    for field in ("a", "b"):
        write_shards(tmp_path / "sky" / field, 1)
    with pytest.raises(UserError, match=r"would both become sky-00000-of-00001\.parquet"):
        classify(tiny_bundle, str(tmp_path / "sky"), str(tmp_path / "catalog"))


def test_evaluate_scores_the_catalog_that_classify_writes(
    tiny_bundle: str, tiny_data: TinyData, tmp_path: Path
) -> None:
    result = evaluate(tiny_bundle, tiny_data.val, str(tmp_path / "scores"))
    classify(tiny_bundle, tiny_data.val, str(tmp_path / "catalog"))
    catalog = read(tmp_path / "catalog").set_index("object_id")
    scored = read(tmp_path / "scores" / "catalog").set_index("object_id")
    assert scored["label"].equals(catalog["label"])
    expected = pd.crosstab(scored["true_label"], catalog["label"]).reindex(
        index=CLASSES, columns=CLASSES, fill_value=0
    )
    assert result.confusion.to_numpy().tolist() == expected.to_numpy().tolist()
    accuracy = result.metrics.set_index(["class", "metric"]).loc[("all", "accuracy")]
    assert accuracy["value"] == pytest.approx((scored["true_label"] == catalog["label"]).mean())
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    names = {path.name for path in (tmp_path / "scores").iterdir()}
    assert names >= {"confusion_matrix.csv", "metrics.csv", "stages.csv", "evaluation.json"}
    page = (tmp_path / "scores" / "evaluation.html").read_text()
    wrong = (scored["true_label"] != scored["label"]).sum()
    assert page.count("<figure>") == min(wrong, 14)
    assert f"{accuracy['value']:.4f}" in page


def test_a_damaged_shard_is_named_and_the_others_are_classified(tiny_bundle: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "sky", 3)
    damaged = shards / "sky-00001-of-00003.parquet"
    content = bytearray(damaged.read_bytes())
    # Its footer is whole, so that it is found only when its rows are read.
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    damaged.write_bytes(content)
    summary = classify(tiny_bundle, str(shards), str(tmp_path / "catalog"))
    assert summary.computed == 20
    assert [line.split(": ")[0] for line in summary.failed] == [str(damaged)]
    assert len(list((tmp_path / "catalog").glob("*.parquet"))) == 2


def test_webdataset_tars_become_parts_with_their_carried_columns(tiny_bundle: str, tmp_path: Path) -> None:
    # The first batch of rows has no redshift at all, the second has whole numbers, the last has others.
    redshifts = [None] * 256 + [1] * 256 + [0.5]
    with tarfile.open(tmp_path / "sky.tar", "w") as tar:
        for index, redshift in enumerate(redshifts):
            fields = {"ra": "12.5", **({"z": redshift} if redshift is not None else {})}
            image = draw_galaxy("CRS", 0) if index % 100 == 0 else b"broken"
            for suffix, content in (("jpg", image), ("json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(f"J{index:04d}+1.5.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    summary = classify(tiny_bundle, str(tmp_path / "sky.tar"), str(tmp_path / "catalog"), carry=["z"])
    catalog = read(tmp_path / "catalog")
    assert summary.statuses == {"ok": 6, "undecodable": 507}
    assert catalog["object_id"].tolist() == [f"J{index:04d}+1.5" for index in range(513)]
    assert catalog["z"].dropna().tolist() == [1.0] * 256 + [0.5]
    assert (catalog["ra"] == 12.5).all()


def test_a_catalog_among_its_shards_is_refused(tiny_bundle: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "sky", 1)
    with pytest.raises(UserError, match="lie in each other"):
        classify(tiny_bundle, str(shards), str(shards / "catalog"))


@pytest.mark.slow
def test_a_killed_classification_goes_on_to_the_same_catalog(tiny_bundle: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "sky", 24, per_class=20)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    first = hiwl("classify", tiny_bundle, str(shards), str(broken))
    deadline = time.monotonic() + 120
    while not (broken.exists() and len(list(broken.glob("*.parquet"))) >= 3):
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.kill()
    first.wait()
    # Ray's processes notice that their driver is gone and end, within a second or two.
    time.sleep(5)
    survivors = {path: path.stat().st_mtime_ns for path in broken.glob("*.parquet")}
    assert 3 <= len(survivors) < 24

    second = hiwl("classify", tiny_bundle, str(shards), str(broken))
    output, _ = second.communicate(timeout=200)
    assert second.returncode == 0, output
    assert f"{len(survivors)} parts were there already and were skipped" in output
    assert {path: path.stat().st_mtime_ns for path in survivors} == survivors
    classify(tiny_bundle, str(shards), str(whole))
    assert read(broken)["object_id"].is_unique
    assert len(read(broken)) == 24 * 100
    # Not bit by bit: the two Rays may grant a network another number of threads.
    pd.testing.assert_frame_equal(read(broken), read(whole), rtol=1e-4, atol=1e-5)
    assert not list(broken.glob(".*"))
