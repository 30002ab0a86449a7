import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hiwl_core.errors import UserError
from jobs.plan import main
from pipeline import storage
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.computing import Computing
from pipeline.classification.estimate import estimate
from pipeline.classification.estimate_sample import ShardSampler
from pipeline.classification.shard_classifier import ShardClassifier, read_bundle
from pipeline.classification.shard_work import CatalogWork
from pipeline.shards.cutout_shards import Columns, inspect_shard, list_shards
from pipeline.storage.s3_store import shared_store
from tests.drawings import CLASSES, draw_galaxy, write_labeled_shard
from tests.object_store import ObjectStore

SECONDS = 3.0


def write_sky(folder: Path) -> Path:
    """Shards of different lengths, an empty one among them."""
    for index, per_class in enumerate((30, 8, 55, 1, 20)):
        path = folder / f"sky-{index:05d}-of-00006.parquet"
        write_labeled_shard(path, dict.fromkeys(CLASSES, per_class), first_id=1000 * index, size=64)
        names = pa.array([f"J{1000 * index + row}" for row in range(5 * per_class)])
        pq.write_table(pq.read_table(path).append_column("name", names), path)
    empty = pq.read_schema(folder / "sky-00000-of-00006.parquet").empty_table()
    pq.write_table(empty, folder / "sky-00005-of-00006.parquet")
    return folder


def classify_here(bundle: str, shards: list[str], catalog: str, carry: list[str], stage2: str) -> int:
    """Make the parts of a catalog as a worker does, without Ray; returns their rows."""
    settings = CatalogContents(carry, stage2).to_settings(Columns())
    work = CatalogWork(bundle, read_bundle(bundle).model_id, settings, catalog)
    classifier = ShardClassifier(work, 2)
    rows = 0
    for shard in shards:
        (done,) = classifier.classify([work.task(shard, inspect_shard(shard).fingerprint, None)])
        assert not done.failed
        rows += sum(done.statuses.values())
    return rows


@pytest.mark.parametrize(("stage2", "carry"), [("routed", []), ("always", ["name", "pixel_scale"])])
def test_rows_and_the_catalog_are_as_estimated(
    random_model: str, tmp_path: Path, stage2: str, carry: list[str]
) -> None:
    sky, catalog = write_sky(tmp_path / "sky"), str(tmp_path / "catalog")
    foreseen = estimate(
        random_model, str(sky), contents=CatalogContents(carry=carry, stage2=stage2), seconds=SECONDS
    )
    assert [path.name for path in tmp_path.iterdir()] == ["sky"]
    made = classify_here(random_model, list_shards(str(sky)), catalog, carry, stage2)
    written = sum(size for _, size in storage.list_files(catalog))
    assert (foreseen.rows, foreseen.shards, foreseen.rows_counted) == (made, 6, True)
    assert foreseen.bytes_written == pytest.approx(written, rel=0.3)
    assert foreseen.size == sum(path.stat().st_size for path in sky.iterdir())
    assert 0.5 * foreseen.size < foreseen.bytes_read < 2 * foreseen.size
    assert foreseen.requests is None


def test_times_follow_from_the_rate_the_machines_and_the_price(random_model: str, tmp_path: Path) -> None:
    for index in range(8):
        write_labeled_shard(tmp_path / f"sky-{index}.parquet", {"CRS": 3, "EO": 2}, first_id=100 * index)
    one = estimate(random_model, str(tmp_path), rate=0.01, price=2.0)
    assert one.seconds.value == one.seconds_one.value == pytest.approx(40 / 0.01)
    assert one.cost == pytest.approx(2.0 * 4000 / 3600)
    assert one.rate.value == one.rate.low == one.rate.high == pytest.approx(0.01)
    # For the sizes of their parts.
    assert [taken.rows_computed for taken in one.samples] == [5, 5, 5]
    assert one.read_seconds == one.compute_seconds == 0
    # What the machine has that is not here, this one need not have.
    there = Computing(workers=2, gpu=True, decode_on="all-nodes")
    known = CatalogContents(precision="bfloat16")
    far = estimate(random_model, str(tmp_path), contents=known, computing=there, rate=0.01, machines=8)
    assert far.seconds.value == pytest.approx(500)
    assert far.bytes_written == one.bytes_written
    # Eight shards on three machines are three rounds; more machines than shards do not help.
    for machines, rounds in ((3, 3), (8, 1), (100, 1)):
        many = estimate(random_model, str(tmp_path), rate=0.01, machines=machines, price=2.0)
        assert many.seconds.value == pytest.approx(rounds * 500)
        assert many.seconds_one == one.seconds_one
        assert many.cost == pytest.approx(2.0 * machines * rounds * 500 / 3600)


def test_ctrl_c_waits_for_one_shard_alone(
    random_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in range(3):
        write_labeled_shard(tmp_path / f"sky-{index}.parquet", {"CRS": 1}, first_id=100 * index)
    looked_at: list[str] = []

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardSampler, "sample", lambda _, shard: looked_at.append(shard) or "it is damaged")
    monkeypatch.setattr("pipeline.classification.estimate.say", interrupted)
    with pytest.raises(KeyboardInterrupt):
        estimate(random_model, str(tmp_path), seconds=SECONDS)
    assert len(looked_at) == 1


def test_what_is_timed_adds_up(random_model: str, tmp_path: Path) -> None:
    found = estimate(random_model, str(write_sky(tmp_path)), sample=4, seconds=SECONDS)
    # The one without rows is not looked into; the others are spread over the list, its ends among them.
    names = [taken.shard.rsplit("/", 1)[-1][:9] for taken in found.samples]
    assert names == ["sky-00000", "sky-00001", "sky-00003", "sky-00004"]
    assert [taken.rows_read for taken in found.samples] == [150, 40, 5, 100]
    assert found.rate.low <= found.rate.value <= found.rate.high
    assert found.seconds_one.low <= found.seconds_one.value <= found.seconds_one.high
    one_worker = found.rows * (found.read_seconds + found.compute_seconds)
    assert found.workers * found.seconds_one.value >= one_worker * (1 - 1e-9)
    assert found.seconds_one.value * found.rate.value == pytest.approx(found.rows, rel=0.5)


def test_rows_of_tars_are_estimated(random_model: str, tmp_path: Path) -> None:
    for shard, count in (("a", 20), ("b", 60), ("c", 30)):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for index in range(count):
                content = {"jpg": draw_galaxy("CRS", index), "json": json.dumps({"ra": 1.5}).encode()}
                for suffix, data in content.items():
                    member = tarfile.TarInfo(f"{shard}{index:04d}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    found = estimate(random_model, str(tmp_path), seconds=SECONDS)
    assert not found.rows_counted
    assert found.rows == pytest.approx(110, rel=0.15)


def test_a_damaged_shard_is_passed_over_unless_all_are(
    random_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        write_labeled_shard(tmp_path / f"{name}.parquet", {"CRS": 30}, first_id=ord(name))
    _damage(tmp_path / "a.parquet")
    found = estimate(random_model, str(tmp_path), seconds=SECONDS)
    assert (found.rows, len(found.samples)) == (60, 1)
    assert "a.parquet cannot be read" in capsys.readouterr().err
    _damage(tmp_path / "b.parquet")
    with pytest.raises(UserError, match=r"none of the 2 sampled shards can be read: .*a\.parquet"):
        estimate(random_model, str(tmp_path), seconds=SECONDS)


def test_requests_are_those_that_an_actor_sends(
    random_model: str, object_store: ObjectStore, tmp_path: Path
) -> None:
    sky = f"{object_store.url}/plan/sky"
    for index in range(3):
        path = write_labeled_shard(tmp_path / f"{index}.parquet", {"CRS": 60}, first_id=100 * index)
        storage.write_bytes(f"{sky}/{index}.parquet", path.read_bytes())
    found = estimate(random_model, sky, sample=2, seconds=SECONDS)
    assert found.requests is not None

    store = shared_store()
    reads, got = store.reads, store.bytes_read
    classify_here(random_model, list_shards(sky), f"{object_store.url}/plan/catalog", [], "routed")
    # The bundle is local here, but its files count: three for the driver, three for the actor.
    assert found.requests["GET"] == store.reads - reads + 6
    assert found.bytes_read == pytest.approx(store.bytes_read - got, rel=0.01)
    assert found.requests["PUT"] >= 3
    assert found.requests["LIST"] == 3


def test_the_verb_prints_a_table_or_json(random_model: str, tmp_path: Path) -> None:
    write_labeled_shard(tmp_path / "a.parquet", {"CRS": 7})
    arguments = [random_model, str(tmp_path), "--rate", "0.001", "--machines", "2", "--price", "1.5"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines()}
    assert lines["rows"][:2] == ["7", "in"]
    assert lines["cost"][0] == "5.83"
    assert max(map(len, result.stdout.splitlines())) <= 110
    figures = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert (figures["rows"], figures["shards"]) == (7, 1)
    assert figures["cost"] == pytest.approx(2 * 1.5 * 7000 / 3600)


def test_the_verb_says_what_its_times_rest_on(
    random_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_labeled_shard(tmp_path / "a.parquet", {"CRS": 7})
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    result = CliRunner().invoke(main, [random_model, str(tmp_path), "--seconds", "1"])
    assert "Timed on 7 images of 1 shards" in result.stdout
    assert "This machine is busy" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 110


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no file or folder"),
        (["a.parquet", "--id-column", "id"], "no column 'id' in"),
        (["a.parquet", "--carry", "z"], "no column 'z' to carry"),
        (["a.parquet", "--carry", "confidence"], "--carry confidence: that name is taken"),
        (["a.parquet", "--machines", "0"], "--machines 0"),
        (["a.parquet", "--rate", "-5"], "--rate -5"),
        (["a.parquet", "--price", "nan"], "--price nan"),
        (["bad.parquet"], "bad.parquet is not a Parquet file"),
    ],
)
def test_a_mistake_is_one_line(
    random_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_labeled_shard(tmp_path / "a.parquet", {"CRS": 1})
    (tmp_path / "bad.parquet").write_text("no")
    result = CliRunner().invoke(main, [random_model, *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def _damage(shard: Path) -> None:
    """Its footer stays whole, so that it is found only when its rows are read."""
    content = bytearray(shard.read_bytes())
    content[4 : len(content) // 2] = bytes(len(content) // 2 - 4)
    shard.write_bytes(content)
