import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from hiwl_core.errors import UserError
from jobs.cli import main
from pipeline.catalog.status import catalog_status
from pipeline.catalog.verify import verify
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.catalog_summary import CatalogSummary
from pipeline.classification.classify import classify
from pipeline.classification.computing import Computing
from pipeline.evaluation.evaluate import evaluate
from pipeline.shards.fingerprints import fingerprint
from tests.bundles import random_bundle
from tests.conftest import TinyData
from tests.drawings import CLASSES, draw_galaxy, write_labeled_shard
from tests.page_reader import Reader

PROBABILITIES = ["p_crs", "p_ibs", "p_css", "p_eo", "p_spi"]
pytestmark = pytest.mark.usefixtures("ray_session")


def read(catalog: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(part) for part in sorted(catalog.glob("*.parquet"))], ignore_index=True)


def write_shards(folder: Path, count: int, per_class: int = 2) -> Path:
    for index in range(count):
        path = folder / f"sky-{index:05d}-of-{count:05d}.parquet"
        write_labeled_shard(path, dict.fromkeys(CLASSES, per_class), first_id=1000 * index)
    return folder


class Made(NamedTuple):
    """Three shards and their catalog."""

    shards: Path
    catalog: Path
    summary: CatalogSummary


@pytest.fixture(scope="module")
def made(ray_session: None, random_model: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    shards = write_shards(folder / "sky", 3)
    summary = classify(random_model, str(shards), str(folder / "catalog"), computing=Computing(workers=1))
    return Made(shards, folder / "catalog", summary)


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Made:
    """A test's own."""
    shards, catalog = (Path(shutil.copytree(one, tmp_path / one.name)) for one in made[:2])
    return Made(shards, catalog, made.summary)


def test_every_row_is_in_the_catalog_once_with_its_columns(made: Made) -> None:
    catalog = read(made.catalog)
    assert [path.name for path in sorted(made.catalog.glob("*.parquet"))] == [
        path.name for path in sorted(made.shards.iterdir())
    ]
    assert sorted(catalog["object_id"]) == [1000 * i + j for i in range(3) for j in range(10)]
    assert list(catalog.columns) == [
        "object_id",
        "ra",
        "dec",
        "label",
        "confidence",
        *PROBABILITIES,
        "label_map",
        "class_set",
        "p_stage1_combined",
        "p_stage2_css",
        "views_used",
        "ood_score",
        "flags",
        "status",
        "model_id",
    ]
    assert np.abs(catalog[PROBABILITIES].astype("float64").sum(axis=1) - 1).max() < 1e-5
    assert (catalog["p_stage2_css"].notna() == catalog["label"].isin(["CSS", "EO"])).all()
    assert made.summary.rows == 30
    assert made.summary.classes == catalog["label"].value_counts().to_dict()


def test_columns_say_their_units_and_meaning(made: Made) -> None:
    schema = pq.read_schema(next(made.catalog.glob("*.parquet")))
    assert schema.field("p_css").type == pa.float32()
    assert schema.field("object_id").type == pa.int64()
    assert schema.field("ra").metadata[b"unit"] == b"deg"
    assert schema.field("ra").metadata[b"ucd"] == b"pos.eq.ra;meta.main"
    assert b"cigar-shaped" in schema.field("p_css").metadata[b"description"]


@pytest.fixture(scope="module")
def odd(ray_session: None, random_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of shards that are as surveys write them at their worst."""
    folder = tmp_path_factory.mktemp("odd")
    image = draw_galaxy("CRS", 0)
    broken = [image, None, b"", b"text", draw_galaxy("EO", 1)[:600], draw_galaxy("EO", 1, size=40)]
    rows = {
        "broken": (pa.array([2**62 + i for i in range(6)]), broken),
        "ids": (pa.array([7, 8, 7, None, None, 9], pa.int64()), [image] * 6),
        "none": (pa.array([], pa.string()), []),
        "null": (pa.array(["a"]), [None]),
    }
    (folder / "sky").mkdir()
    for name, (ids, images) in rows.items():
        table = pa.table({"object_id": ids, "image": pa.array(images, pa.binary())})
        pq.write_table(table, folder / "sky" / f"{name}.parquet")
    summary = classify(random_model, str(folder / "sky"), str(folder / "catalog"))
    assert summary.rows == 13
    assert verify(str(folder / "catalog")).passed
    return folder / "catalog"


def test_unreadable_cutouts_are_rows_with_a_status(odd: Path) -> None:
    part = pd.read_parquet(odd / "broken.parquet")
    assert part["object_id"].tolist() == [2**62 + i for i in range(6)]
    assert part["status"].tolist() == [
        "ok",
        "missing",
        "undecodable",
        "undecodable",
        "undecodable",
        "too_small",
    ]
    assert part.loc[1:, ["label", "confidence", *PROBABILITIES]].isna().all(axis=None)
    assert part["ra"].isna().all()


def test_rows_with_a_repeated_or_missing_id_are_kept_and_say_so(odd: Path) -> None:
    part = pq.read_table(odd / "ids.parquet")
    assert part["object_id"].to_pylist() == [7, 8, 7, None, None, 9]
    assert part["status"].to_pylist() == ["ok", "ok", "duplicate_id", "no_id", "no_id", "ok"]
    assert part["label"].null_count == 3


def test_an_empty_shard_and_one_without_any_image_have_their_parts(odd: Path) -> None:
    rows = {name: pq.read_table(odd / f"{name}.parquet").num_rows for name in ("none", "null")}
    assert rows == {"none": 0, "null": 1}


def test_user_columns_are_carried_and_named(random_model: str, tmp_path: Path) -> None:
    path = write_labeled_shard(tmp_path / "a.parquet", {"CRS": 3})
    table = pq.read_table(path).append_column("redshift", pa.array([0.1, 0.2, 0.3]))
    pq.write_table(table.rename_columns(["id", "ra", "dec", "jpg", "pixel_scale", "label", "redshift"]), path)
    from pipeline.shards.cutout_shards import Columns

    classify(
        random_model,
        str(path),
        str(tmp_path / "catalog"),
        Columns(id="id", image="jpg"),
        contents=CatalogContents(carry=["redshift"]),
    )
    assert read(tmp_path / "catalog")["redshift"].tolist() == [0.1, 0.2, 0.3]
    with pytest.raises(UserError, match="--carry label: that name is taken"):
        classify(
            random_model,
            str(path),
            str(tmp_path / "c2"),
            Columns(id="id", image="jpg"),
            contents=CatalogContents(carry=["label"]),
        )


def test_stage2_on_every_row_keeps_labels_and_fills_its_column(
    random_model: str, made: Made, tmp_path: Path
) -> None:
    classify(
        random_model, str(made.shards), str(tmp_path / "always"), contents=CatalogContents(stage2="always")
    )
    routed, always = read(made.catalog), read(tmp_path / "always")
    assert always["p_stage2_css"].notna().all()
    assert routed["label"].tolist() == always["label"].tolist()
    assert np.abs(always[PROBABILITIES].astype("float64").sum(axis=1) - 1).max() < 1e-5


def test_only_missing_and_damaged_parts_are_computed(random_model: str, copied: Made) -> None:
    shards, catalog, _ = copied
    before = {path.name: path.read_bytes() for path in catalog.glob("*.parquet")}
    kept, missing, damaged = sorted(catalog.glob("*.parquet"))
    missing.unlink()
    damaged.write_bytes(before[damaged.name][:-10])
    made = kept.stat().st_mtime_ns
    summary = classify(random_model, str(shards), str(catalog))
    assert (summary.skipped_parts, summary.computed, summary.rows) == (1, 20, 30)
    assert kept.stat().st_mtime_ns == made
    assert {path.name: path.read_bytes() for path in catalog.glob("*.parquet")} == before


def test_another_model_setting_or_shard_is_refused_under_the_same_catalog(
    random_model: str, copied: Made, tmp_path: Path
) -> None:
    shards, catalog, _ = copied
    before = {path.name: path.read_bytes() for path in catalog.glob("*.parquet")}
    with pytest.raises(UserError, match=r"other settings \(stage2 routed, now always\)"):
        classify(random_model, str(shards), str(catalog), contents=CatalogContents(stage2="always"))
    with pytest.raises(UserError, match=r"by another model \(\w{16}, now \w{16}\)"):
        classify(random_bundle(tmp_path / "other", seed=1), str(shards), str(catalog))
    with pytest.raises(UserError, match="2 of the 3 shards of .* are not among those given now"):
        classify(random_model, str(shards / "sky-00000-of-00003.parquet"), str(catalog))
    write_labeled_shard(shards / "sky-00001-of-00003.parquet", {"CRS": 5}, first_id=500)
    write_labeled_shard(shards / "new.parquet", {"CRS": 3}, first_id=600)
    with pytest.raises(UserError, match=r"1 shards were added .* and 1 shards were changed .*--update"):
        classify(random_model, str(shards), str(catalog))
    assert {path.name: path.read_bytes() for path in catalog.glob("*.parquet")} == before

    summary = classify(random_model, str(shards), str(catalog), update=True)
    assert (summary.skipped_parts, summary.computed, summary.rows) == (2, 8, 28)
    ids = [*range(10), *range(500, 505), *range(600, 603), *range(2000, 2010)]
    assert sorted(read(catalog)["object_id"]) == ids
    assert verify(str(catalog)).passed


def test_shards_that_were_copied_or_touched_are_the_same(
    random_model: str, copied: Made, tmp_path: Path
) -> None:
    shards, catalog, _ = copied
    moved = shards.rename(tmp_path / "moved")
    (moved / "sky-00000-of-00003.parquet").touch()
    assert classify(random_model, str(moved), str(catalog)).skipped_parts == 3
    assert verify(str(catalog)).passed


def test_a_shard_that_was_mended_in_its_middle_is_another(random_model: str, tmp_path: Path) -> None:
    shard, catalog = tmp_path / "sky" / "a.parquet", tmp_path / "catalog"
    images = [noise_image(seed) for seed in range(2)]
    shard.parent.mkdir()
    pq.write_table(pa.table({"object_id": [1, 2], "image": images}), shard, compression="none")
    whole = shard.read_bytes()
    middle = whole.index(images[1]) + 1000
    shard.write_bytes(whole[:middle] + bytes(100) + whole[middle + 100 :])
    damaged = fingerprint(str(shard))
    assert classify(random_model, str(shard), str(catalog)).statuses == {"ok": 1, "undecodable": 1}
    os.utime(shard, ns=(1, 1))
    assert classify(random_model, str(shard), str(catalog)).skipped_parts == 1

    shard.write_bytes(whole)
    assert fingerprint(str(shard)) == damaged
    assert verify(str(catalog)).counts == {"shards": 1}
    with pytest.raises(UserError, match=r"1 shards were changed .*--update"):
        classify(random_model, str(shard), str(catalog))
    summary = classify(random_model, str(shard), str(catalog), update=True)
    assert (summary.computed, summary.statuses) == (2, {"ok": 2})
    os.utime(shard, ns=(2, 2))
    assert classify(random_model, str(shard), str(catalog)).skipped_parts == 1
    assert verify(str(catalog)).passed
    # A catalog of before does not know what its parts were made from.
    for segment in (catalog / "_ledger").glob("*.jsonl"):
        lines = [json.loads(line) for line in segment.read_text().splitlines()]
        segment.write_text("".join(json.dumps({**line, "content": ""}) + "\n" for line in lines))
    assert classify(random_model, str(shard), str(catalog)).skipped_parts == 1
    os.utime(shard, ns=(3, 3))
    with pytest.raises(UserError, match=r"1 shards were changed .*--update"):
        classify(random_model, str(shard), str(catalog))


def noise_image(seed: int) -> bytes:
    """A PNG that is longer than both ends of a fingerprint."""
    pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_folder_of_something_else_is_not_written_to(
    random_model: str, copied: Made, tmp_path: Path
) -> None:
    shards, catalog, _ = copied
    write_labeled_shard(tmp_path / "other" / "mine.parquet", {"CRS": 2})
    with pytest.raises(UserError, match=r"mine\.parquet was not made by `hiwl classify`"):
        classify(random_model, str(shards), str(tmp_path / "other"))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.parquet"]
    (catalog / "stray.parquet").write_text("stray")
    with pytest.raises(UserError, match=r"stray\.parquet is no part of this catalog"):
        classify(random_model, str(shards), str(catalog))


def test_parts_of_a_killed_driver_are_adopted(random_model: str, copied: Made) -> None:
    shards, catalog, _ = copied
    # They are there, and no segment of the ledger knows them.
    for segment in (catalog / "_ledger").glob("*.jsonl"):
        segment.unlink()
    assert verify(str(catalog)).counts["checksums"] == 3
    summary = classify(random_model, str(shards), str(catalog))
    assert (summary.skipped_parts, summary.computed, summary.rows) == (3, 0, 30)
    assert verify(str(catalog)).passed


def test_two_shards_of_one_name_are_refused(random_model: str, tmp_path: Path) -> None:
    for field in ("a", "b"):
        write_shards(tmp_path / "sky" / field, 1)
    with pytest.raises(UserError, match=r"would both become sky-00000-of-00001\.parquet"):
        classify(random_model, str(tmp_path / "sky"), str(tmp_path / "catalog"))


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
    # The model was calibrated on these galaxies: each is judged by what was fitted on others.
    found = result.probabilities
    assert found.basis == "cross-fitted"
    most_probable = np.array(CLASSES)[found.most_probable]
    by_map = result.metrics_label_map.set_index(["class", "metric"]).loc[("all", "accuracy"), "value"]
    assert by_map == pytest.approx((scored["true_label"] == most_probable).mean())
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())
    assert scores["calibration"] == {"basis": "cross-fitted", "words": found.words, "coverage": 0.95}
    for name in ("metrics_label_map", "probabilities", "reliability", "coverage"):
        table = pd.read_csv(tmp_path / "scores" / f"{name}.csv")
        assert len(table) == len(scores[name])
        assert list(table.columns) == list(scores[name][0])
    assert found.scores is not None
    # What it was before is what the catalog has of the networks themselves.
    before = found.scores.curves.query("side == 'before' and `class` == 'all'")
    assert before["count"].sum() == len(scored)
    page = Reader((tmp_path / "scores" / "evaluation.html").read_text())
    wrong = (scored["true_label"] != scored["label"]).sum()
    assert len(page.cards["mistakes"]) == min(wrong, 14)
    for place in zip(*expected.to_numpy().nonzero(), strict=True):
        cards = page.cards["cell-{}-{}-name".format(*place)]
        assert len(cards) == min(expected.to_numpy()[place], 6)
        assert {(card[3], card[0]) for card in cards} == {(CLASSES[place[0]], CLASSES[place[1]])}
    assert f"{accuracy['value']:.4f}" in page.text


def test_a_damaged_shard_is_named_and_the_others_are_classified(random_model: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "sky", 3)
    damaged = shards / "sky-00001-of-00003.parquet"
    whole = damaged.read_bytes()
    # Its footer is whole, so that it is found only when its rows are read.
    damaged.write_bytes(whole[:4] + bytes(len(whole) // 2 - 4) + whole[len(whole) // 2 :])
    command = ["classify", random_model, str(shards), str(tmp_path / "catalog")]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1, done.output
    assert "20 images in" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith(f"not read: {damaged}: ")]
    assert f"1 of 3 shards are not in the catalog {command[-1]}: mend them and start the same" in done.stderr
    assert "again with --update" in done.stderr
    status = catalog_status(str(tmp_path / "catalog"))
    assert (status.parts_done, list(status.failed)) == (2, [str(damaged)])
    assert verify(str(tmp_path / "catalog")).counts == {"parts": 1}
    damaged.write_bytes(whole)
    done = CliRunner().invoke(main, [*command, "--update"])
    assert done.exit_code == 0
    assert "  classified: 30" in done.stdout.splitlines()
    assert f"to look through all of it: hiwl explore {command[-1]}" in done.stdout
    assert verify(str(tmp_path / "catalog")).passed


def test_webdataset_tars_become_parts_with_their_carried_columns(random_model: str, tmp_path: Path) -> None:
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
    summary = classify(
        random_model,
        str(tmp_path / "sky.tar"),
        str(tmp_path / "catalog"),
        contents=CatalogContents(carry=["z"]),
    )
    catalog = read(tmp_path / "catalog")
    assert summary.statuses == {"ok": 6, "undecodable": 507}
    assert catalog["object_id"].tolist() == [f"J{index:04d}+1.5" for index in range(513)]
    assert catalog["z"].dropna().tolist() == [1.0] * 256 + [0.5]
    assert (catalog["ra"] == 12.5).all()


def test_a_catalog_among_its_shards_is_refused(random_model: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "sky", 1)
    with pytest.raises(UserError, match="lie in each other"):
        classify(random_model, str(shards), str(shards / "catalog"))
