"""No verb writes over what it did not make."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jobs.cli import VERBS, main
from tests.catalogs import write_catalog
from tests.conftest import TinyData
from tests.drawings import write_labeled_shard

MINE = b"mine"
# For each verb that writes: its arguments, with what a user has at the place where it would write.
OCCUPIED = {
    "simulate": (["{out}", "--count", "4"], "out/cutouts/sky-00000-of-00001.parquet"),
    "select": (["{votes}", "{out}/classes.csv"], "out/classes.csv"),
    "ingest": (["{images}", "{out}"], "out/cutouts-00000-of-00001.parquet"),
    "taxonomy": (["new", "{images}", "--out", "{out}/own.toml"], "out/own.toml"),
    "cutouts": (["{images}", "{votes}", "{out}"], "out/cutouts-00000-of-00001.parquet"),
    "train": (["--data", "{train}", "--val", "{val}", "--recipe", "demo", "--out", "{out}"], "out/pairs.csv"),
    "optimize": (
        ["{bundle}", "--data", "{train}", "--val", "{val}", "--out", "{out}"],
        "out/bundle.json",
    ),
    "push": (["{bundle}", "{out}"], "out/stage1.safetensors"),
    "evaluate": (["{bundle}", "{val}", "--out", "{out}"], "out/metrics.csv"),
    "report": (["{bundle}", "--val", "{val}", "--out", "{out}"], "out/report.html"),
    "reproduce": (
        ["table4", "--data", "{train}", "--val", "{val}", "--recipe", "demo", "--out", "{out}"],
        "out/table4.csv",
    ),
    "classify": (["{bundle}", "{val}", "{out}"], "out/val-00000-of-00001.parquet"),
    "publish": (["{catalog}", "{out}"], "out/hiwl/hats.properties"),
    "query": (["{catalog}", "--format", "csv", "--out", "{out}/rows.csv"], "out/rows.csv"),
    "fractions": (["{catalog}", "--out", "{out}/rows.csv"], "out/rows.csv"),
    "drift": (["{catalog}", "--out", "{out}/page.html"], "out/page.html"),
    "sample": (["{catalog}", "{out}/page.html"], "out/page.html"),
    "explore": (["{catalog}", "--export", "{out}/labels.csv"], "out/labels.csv"),
}
READ_ONLY = {"models", "plan", "status", "verify", "submit", "doctor", "jobs"}


def test_each_verb_either_reads_or_is_tested_here() -> None:
    assert set(OCCUPIED) | READ_ONLY == set(VERBS)


@pytest.mark.parametrize("verb", OCCUPIED)
def test_a_file_of_the_users_stays_as_it_is(
    verb: str, random_model: str, tiny_data: TinyData, tmp_path: Path
) -> None:
    arguments, occupied = OCCUPIED[verb]
    (tmp_path / occupied).parent.mkdir(parents=True)
    (tmp_path / occupied).write_bytes(MINE)
    shard = pq.read_table(write_labeled_shard(tmp_path / "one.parquet", {"CRS": 1}))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(shard["image"][0].as_py())
    write_catalog(tmp_path / "catalog", 1, 20)
    places = {
        "out": tmp_path / "out",
        "votes": _write_votes(tmp_path / "votes.csv"),
        "images": tmp_path / "images",
        "catalog": tmp_path / "catalog",
        "train": tiny_data.train,
        "val": tiny_data.val,
        "bundle": random_model,
    }
    result = CliRunner().invoke(main, [verb, *(word.format(**places) for word in arguments)])
    assert result.exit_code == 2, result.output
    assert str(tmp_path / "out") in result.stderr
    assert (tmp_path / occupied).read_bytes() == MINE
    left = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == {tmp_path / occupied}


def _write_votes(path: Path) -> Path:
    from hiwl_core.simulated_votes import VOTE_COLUMNS

    path.write_text(
        ",".join(["GalaxyID", *VOTE_COLUMNS]) + "\n" + ",".join(["1", *["0"] * len(VOTE_COLUMNS)])
    )
    return path
