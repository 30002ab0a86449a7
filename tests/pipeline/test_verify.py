import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import pipeline.catalog.doubles
import pipeline.catalog.verify
from hiwl_core.cascade import CascadePrediction
from hiwl_core.errors import UserError
from hiwl_core.taxonomy import GALAXY_ZOO
from jobs.cli import main
from pipeline.catalog.ledger import read_ledger
from pipeline.catalog.manifest import read_making
from pipeline.catalog.parts import RECORD_KEY, PartRecord, encode_part, part_table, unsound_rows
from pipeline.catalog.status import catalog_status
from pipeline.catalog.verify import verify
from pipeline.classification.classify import classify
from pipeline.classification.computing import Computing
from pipeline.publication.publish import publish
from pipeline.querying.cone import Cone
from pipeline.querying.query import query
from tests.drawings import CLASSES, write_labeled_shard


@pytest.fixture(scope="module")
def made(random_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three shards of five galaxies, ``sky``, and their catalog, ``catalog``."""
    folder = tmp_path_factory.mktemp("made")
    for index in range(3):
        path = folder / "sky" / f"sky-{index:05d}-of-00003.parquet"
        write_labeled_shard(path, dict.fromkeys(CLASSES, 1), first_id=1000 * index)
    classify(random_model, str(folder / "sky"), str(folder / "catalog"))
    return folder


@pytest.fixture
def catalog(made: Path, tmp_path: Path) -> Path:
    """A copy of the catalog, to damage."""
    return shutil.copytree(made / "catalog", tmp_path / "catalog")


def rewrite(part: Path, table: pa.Table) -> None:
    pq.write_table(table, part)


def test_a_whole_catalog_passes(made: Path) -> None:
    result = verify(str(made / "catalog"))
    assert result.passed
    assert (result.parts, result.rows, result.statuses) == (3, 15, {"ok": 15})
    answer = CliRunner().invoke(main, ["verify", str(made / "catalog")])
    assert answer.exit_code == 0
    assert "the catalog is whole" in answer.output


def test_each_kind_of_damage_is_found(catalog: Path, made: Path) -> None:
    parts = sorted(catalog.glob("*.parquet"))
    tables = [pq.read_table(part) for part in parts]

    def counts() -> dict[str, int]:
        return dict(verify(str(catalog)).counts)

    parts[0].unlink()
    assert counts() == {"parts": 1}
    rewrite(parts[0], tables[0].slice(0, 4))
    # The two checks on rows are of the plan's count and of the shard's own.
    assert counts() == {"checksums": 1, "rows": 2, "ids": 1}
    rewrite(parts[0], tables[0].take(pa.array([1, 0, 2, 3, 4])))
    assert counts() == {"checksums": 1, "ids": 1}
    # A row lost and another twice: the count is right, and nothing else is.
    rewrite(parts[0], tables[0].take(pa.array([0, 0, 2, 3, 4])))
    assert counts() == {"checksums": 1, "ids": 1, "doubles": 1}
    rewrite(parts[0], tables[1])
    assert counts() == {"checksums": 1, "models": 1, "ids": 1, "doubles": 5}
    models = pa.array(["another"] * 5)
    column = tables[0].column_names.index("model_id")
    rewrite(parts[0], tables[0].set_column(column, "model_id", models))
    assert counts() == {"checksums": 1, "models": 1}
    parts[0].write_bytes(b"PAR1")
    assert counts() == {"checksums": 1, "models": 1}
    shutil.copy(made / "catalog" / parts[0].name, parts[0])
    shutil.copy(parts[0], catalog / "stray.parquet")
    assert counts() == {"parts": 1}
    (catalog / "stray.parquet").unlink()
    assert counts() == {}
    # A file of a part's name that lies deeper is not the part.
    (catalog / "copy").mkdir()
    parts[0].rename(catalog / "copy" / parts[0].name)
    assert counts() == {"parts": 2}
    assert catalog_status(str(catalog)).parts_done == 2


def test_changed_and_lost_shards_are_found(made: Path, catalog: Path) -> None:
    shard = made / "sky" / "sky-00002-of-00003.parquet"
    # Moved, not copied: its time of change is looked at too.
    kept = shard.rename(shard.with_suffix(".kept"))
    try:
        write_labeled_shard(shard, dict.fromkeys(CLASSES, 1), first_id=5000)
        assert verify(str(catalog)).counts == {"shards": 1}
        shard.unlink()
        assert verify(str(catalog)).counts == {"shards": 1}
        answer = CliRunner().invoke(main, ["verify", str(catalog)])
        assert answer.exit_code == 1
        assert "start the `hiwl classify` that made it again" in answer.output
        assert verify(str(catalog), with_shards=False).passed
    finally:
        kept.rename(shard)


def change_ledger(catalog: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    for segment in (catalog / "_ledger").glob("*.jsonl"):
        lines = [change(json.loads(line)) for line in segment.read_text().splitlines()]
        segment.write_text("".join(json.dumps(line) + "\n" for line in lines))


def without_digests(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in ("making", "content")}


def made_by(part: Path, **settings: object) -> PartRecord:
    """What a part's footer says, with other settings."""
    note = json.loads(pq.read_schema(part).metadata[RECORD_KEY])
    return PartRecord(
        note["shard"], note["shard_fingerprint"], note["model_id"], {**note["settings"], **settings}
    )


@pytest.mark.parametrize("ledger_says", [True, False])
def test_a_part_of_another_making_is_refused_by_all_who_read_it(
    catalog: Path, made: Path, random_model: str, tmp_path: Path, ledger_says: bool
) -> None:
    """As when two runs with other settings wrote into one folder, each with a ledger of its own."""
    part = sorted(catalog.glob("*.parquet"))[0]
    record = made_by(part, stage2="always")
    content = encode_part(pq.read_table(part), record)
    part.write_bytes(content)
    sha = hashlib.sha256(content).hexdigest()
    says = {"size": len(content), "sha256": sha, "making": record.making if ledger_says else ""}
    change_ledger(catalog, lambda line: line | says if line["part"] == part.name else line)
    assert verify(str(catalog)).counts["models"] == 1
    with pytest.raises(UserError, match=f"{part.name} (was made by another model|is not a part of this)"):
        classify(random_model, str(made / "sky"), str(catalog))
    (catalog / "_statistics.arrow").unlink(missing_ok=True)
    with pytest.raises(UserError, match=f"{part.name} was made by another model or with other settings"):
        query(str(catalog))
    with pytest.raises(UserError, match=f"{part.name} was made by another model or with other settings"):
        publish(str(catalog), str(tmp_path / "published"))


def test_a_catalog_of_before_is_read_and_then_says_what_made_it(
    catalog: Path, made: Path, random_model: str, tmp_path: Path
) -> None:
    """Footers and ledger had no digests of making and content."""
    for part in catalog.glob("*.parquet"):
        table = pq.read_table(part)
        note = without_digests(json.loads(table.schema.metadata[RECORD_KEY]))
        rewrite(part, table.replace_schema_metadata({RECORD_KEY: json.dumps(note)}))

    def of_before(line: dict[str, Any]) -> dict[str, Any]:
        content = (catalog / line["part"]).read_bytes()
        sha = hashlib.sha256(content).hexdigest()
        return {**without_digests(line), "size": len(content), "sha256": sha}

    change_ledger(catalog, of_before)
    (catalog / "_lease" / "000001.json").unlink()
    assert query(str(catalog)).table().num_rows == 15
    assert publish(str(catalog), str(tmp_path / "published")).rows == 15
    assert verify(str(catalog)).passed
    for _ in range(2):
        assert classify(random_model, str(made / "sky"), str(catalog)).skipped_parts == 3
    assert {versions[-1].making for versions in read_ledger(str(catalog)).values()} == {
        read_making(str(catalog))
    }
    assert verify(str(catalog)).passed


def test_an_id_in_two_shards_is_found(random_model: str, ray_session: None, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_labeled_shard(tmp_path / "sky" / f"{name}.parquet", {"CRS": 2}, first_id=10)
    classify(random_model, str(tmp_path / "sky"), str(tmp_path / "catalog"))
    result = verify(str(tmp_path / "catalog"))
    assert result.counts == {"doubles": 2}
    assert result.findings["doubles"] == ["id 10 has 2 rows", "id 11 has 2 rows"]


def test_many_parts_are_compared_by_ray_tasks_alike(
    catalog: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = sorted(catalog.glob("*.parquet"))
    table = pq.read_table(parts[0])
    rewrite(parts[0], table.take(pa.array([0, 0, 2, 3, 3])))
    alone = verify(str(catalog))
    monkeypatch.setattr(pipeline.catalog.verify, "MANY_PARTS", 1)
    monkeypatch.setattr(pipeline.catalog.verify, "PARTS_A_TASK", 2)
    monkeypatch.setattr(pipeline.catalog.doubles, "ROWS_A_BUCKET", 4)
    assert verify(str(catalog)) == alone
    assert alone.counts == {"checksums": 1, "ids": 1, "doubles": 2}
    monkeypatch.setattr(pipeline.catalog.doubles, "IDS_READ_AGAIN", 1)
    assert verify(str(catalog)).counts == alone.counts


def test_what_was_seen_of_a_part_holds_while_it_is_as_it_was(catalog: Path) -> None:
    first, second, _ = sorted(catalog.glob("*.parquet"))
    cone = Cone(11.002, -5.0, 0.1)
    ids = "SELECT object_id FROM catalog ORDER BY object_id"
    everything = query(str(catalog), ids).table()
    assert verify(str(catalog)).passed
    assert query(str(catalog), ids).table().equals(everything)

    # A part that the cone does not touch is not even opened, though there is nothing in it to read.
    content, state = first.read_bytes(), first.stat()
    first.write_bytes(bytes(len(content)))
    os.utime(first, ns=(state.st_atime_ns, state.st_mtime_ns))
    found = query(str(catalog), ids, cone).table()["object_id"].to_pylist()
    assert found == list(range(1000, 1005))
    # As soon as it is another, it is.
    os.utime(first)
    with pytest.raises(UserError, match="is not a Parquet file"):
        query(str(catalog), ids, cone)

    first.write_bytes(content)
    rewrite(second, pq.read_table(second).slice(0, 2))
    assert query(str(catalog), ids, cone).table()["object_id"].to_pylist() == [1000, 1001]
    second.unlink()
    assert query(str(catalog), ids).table().num_rows == 10
    (catalog / "_statistics.arrow").write_bytes(b"nothing")
    assert query(str(catalog), ids).table().num_rows == 10


def test_what_is_no_catalog_is_said(tmp_path: Path) -> None:
    for verb in (verify, catalog_status):
        with pytest.raises(UserError, match="is not a catalog of `hiwl classify`"):
            verb(str(tmp_path))


def test_status_tells_a_running_job_from_a_dead_and_a_finished_one(catalog: Path) -> None:
    status = catalog_status(str(catalog))
    assert (status.state, status.parts_done, status.rows_done, status.rows) == ("complete", 3, 15, 15)
    assert sum(status.classes.values()) == 15

    next(catalog.glob("*.parquet")).unlink()
    status = catalog_status(str(catalog))
    assert (status.state, status.parts_done, status.rows_done, status.rows) == ("stopped", 2, 10, 15)
    assert status.seconds_left is None
    sign = catalog / "_ledger" / "_heartbeat.json"
    told = json.loads(sign.read_text())
    sign.write_text(json.dumps({**told, "running": True, "time": time.time() - 5}))
    status = catalog_status(str(catalog))
    assert status.state == "running"
    assert status.rate > 0
    assert status.seconds_left == pytest.approx(5 / status.rate)
    sign.write_text(json.dumps({**told, "running": True, "time": time.time() - 3600}))
    assert catalog_status(str(catalog)).state == "stopped"
    answer = CliRunner().invoke(main, ["status", str(catalog)])
    assert "stopped: 2 of 3 parts, 10 of 15 rows" in answer.output
    assert "last sign 1.0 h ago" in answer.output


def test_an_unfinished_catalog_is_not_published(catalog: Path, tmp_path: Path) -> None:
    next(catalog.glob("*.parquet")).unlink()
    with pytest.raises(UserError, match="1 of the 3 parts of .* are not there yet"):
        publish(str(catalog), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_lines_of_the_ledger_that_cannot_be_read_are_left_out(
    catalog: Path, made: Path, random_model: str
) -> None:
    (segment,) = (catalog / "_ledger").glob("*.jsonl")
    lines = segment.read_bytes().splitlines()
    of_later = json.dumps({**json.loads(lines[1]), "of_a_later_version": [1]}).encode()
    other = [b"5", b"null", b"[" * 10**5, b"\xff\xfe", json.dumps({"part": 3, "fingerprint": ""}).encode()]
    counts = json.dumps({**json.loads(lines[1]), "statuses": {"ok": "many"}}).encode()
    segment.write_bytes(b"\n".join([*other, counts, of_later, lines[2], lines[0][:40]]))
    ledger = read_ledger(str(catalog))
    assert sorted(ledger) == sorted(json.loads(line)["part"] for line in lines[1:])
    (catalog / "_ledger" / "_heartbeat.json").write_bytes(b'{"run": ')
    assert catalog_status(str(catalog)).state == "complete"
    assert verify(str(catalog)).counts == {"checksums": 1}
    # A resume adopts the part whose line was torn.
    assert (
        classify(random_model, str(made / "sky"), str(catalog), computing=Computing(workers=1)).skipped_parts
        == 3
    )
    assert verify(str(catalog)).passed


@pytest.mark.parametrize(
    ("column", "value"),
    [("label", None), ("p_crs", float("nan")), ("p_spi", None), ("p_eo", 7.0), ("p_css", float("inf"))],
)
def test_a_row_that_is_called_ok_without_an_answer_is_found(
    catalog: Path, column: str, value: float | None
) -> None:
    part = sorted(catalog.glob("*.parquet"))[1]
    table = pq.read_table(part)
    assert unsound_rows(table) == 0
    values = [*table[column].to_pylist()[:-1], value]
    index = table.column_names.index(column)
    changed = table.set_column(index, table.field(index), pa.array(values, table.field(index).type))
    rewrite(part, changed)
    sha = hashlib.sha256(part.read_bytes()).hexdigest()
    change_ledger(catalog, lambda line: line | {"sha256": sha} if line["part"] == part.name else line)
    result = verify(str(catalog), with_shards=False)
    assert result.counts == {"answers": 1}
    assert f"{part} has 1 rows that are called ok without a label and prob" in result.findings["answers"][0]
    # Where the row says so itself there is nothing to find.
    statuses = [*table["status"].to_pylist()[:-1], "undecodable"]
    index = table.column_names.index("status")
    assert unsound_rows(changed.set_column(index, "status", pa.array(statuses))) == 0


def test_rows_without_sound_probabilities_are_not_ok() -> None:
    """Whatever goes wrong before: this is where rows become a part."""
    probabilities = np.full((4, 5), 0.2, np.float32)
    probabilities[1, 2], probabilities[2] = np.nan, 0.5
    rows = pa.table({"object_id": range(5), "ra": [0.0] * 5, "dec": [0.0] * 5})
    nothing = {
        stage: np.full((4, len(GALAXY_ZOO.stage_classes(stage))), np.nan) for stage in GALAXY_ZOO.stages
    }
    seen = CascadePrediction(np.arange(4), probabilities, nothing)
    table = part_table(rows, ["ok", "missing", "ok", "ok", "ok"], seen, GALAXY_ZOO, "model")
    assert table["status"].to_pylist() == ["ok", "missing", "not_finite", "not_finite", "ok"]
    assert table["label"].to_pylist() == ["CRS", None, None, None, "EO"]
    assert table["p_crs"].null_count == 3
