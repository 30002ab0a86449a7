"""Simulation: the same sky whatever the shards and whoever renders, and reruns that make what is missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hiwl_core.errors import UserError
from hiwl_core.simulation import object_id
from jobs.simulate import main
from pipeline.shards.cutout_shards import SHARD_SCHEMA, Columns, list_shards, read_columns
from pipeline.simulate import simulate

pytest.importorskip("galsim")

COUNT, SEED = 10, 4


def run(out, **changes):
    return simulate(str(out), **{"count": COUNT, "seed": SEED, "size": 64, "shard_rows": 4, **changes})


def read_sky(out):
    return pa.concat_tables(
        read_columns(shard, Columns(), SHARD_SCHEMA.names, ["truth", "axis_ratio"])
        for shard in list_shards(f"{out}/cutouts")
    )


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulate") / "sky"
    return out, run(out)


def test_shards_keep_the_contract(sky):
    out, summary = sky
    names = sorted(path.name for path in (out / "cutouts").iterdir())
    assert names == [f"sky-{index:05d}-of-00003.parquet" for index in range(3)]
    schema = pq.read_schema(out / "cutouts" / names[0])
    assert schema.names == [*SHARD_SCHEMA.names, "truth", "axis_ratio"]
    assert [schema.field(name).type for name in SHARD_SCHEMA.names] == SHARD_SCHEMA.types
    assert schema.metadata[b"hiwl.source"] == b"hiwl simulate"
    table = read_sky(out)
    assert table["object_id"].to_pylist() == [object_id(SEED, index) for index in range(COUNT)]
    assert table["label"].null_count == COUNT
    assert summary.objects == summary.rendered == COUNT
    assert sum(summary.classes.values()) + summary.ambiguous == COUNT


def test_the_sky_does_not_depend_on_the_shards_nor_on_who_renders(sky, ray_address, monkeypatch, tmp_path):
    out, _ = sky
    monkeypatch.setenv("RAY_ADDRESS", ray_address)
    assert run(tmp_path / "other", shard_rows=10).rendered == COUNT
    assert read_sky(tmp_path / "other").equals(read_sky(out))
    assert (tmp_path / "other" / "votes.csv").read_bytes() == (out / "votes.csv").read_bytes()


def test_votes_keep_all_digits_of_the_ids(sky):
    out, _ = sky
    votes = pd.read_csv(out / "votes.csv", dtype=str)
    assert votes["GalaxyID"].tolist() == [str(object_id(SEED, index)) for index in range(COUNT)]
    assert list(votes.columns)[1:4] == ["Class1.1", "Class1.2", "Class1.3"]
    assert votes.shape == (COUNT, 38)


def test_a_rerun_makes_only_what_is_missing(sky):
    out, _ = sky
    shards = sorted(Path(out, "cutouts").iterdir())
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in shards]
    assert run(out).rendered == 0
    shards[1].unlink()
    assert run(out).rendered == 3
    after = [(path.read_bytes(), path.stat().st_mtime_ns) for path in shards]
    assert [content for content, _ in after] == [content for content, _ in before]
    assert (after[0], after[2]) == (before[0], before[2])


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"count": 11}, {"size": 65}, {"ambiguous": 0.5}, {"shard_rows": 5}]
)
def test_other_parameters_are_refused(sky, change):
    out, _ = sky
    with pytest.raises(UserError, match=f"with {next(iter(change))} .*choose another OUT"):
        run(out, **change)


def test_cutouts_of_others_are_not_touched(tmp_path):
    (tmp_path / "cutouts").mkdir()
    with pytest.raises(UserError, match="not made by"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--count", "0"], "count 0"),
        (["--count", "5", "--size", "32"], "size 32"),
        (["--count", "5", "--ambiguous", "1"], "ambiguous 1.0"),
        (["--count", "5", "--shard-rows", "0"], "shard-rows 0"),
    ],
)
def test_a_bad_value_is_one_line_and_exit_code_2(tmp_path, options, named):
    result = CliRunner().invoke(main, [str(tmp_path / "sky"), *options])
    assert result.exit_code == 2
    assert named in result.output
    assert result.output.count("\n") == 1
    assert not (tmp_path / "sky").exists()


def test_the_verb_says_what_it_made_and_what_comes_next(sky):
    out, _ = sky
    options = ["--count", str(COUNT), "--seed", str(SEED), "--size", "64", "--shard-rows", "4"]
    result = CliRunner().invoke(main, [str(out), *options])
    assert result.exit_code == 0, result.output
    assert f"objects  {COUNT}" in result.output
    assert f"hiwl select {out}/votes.csv {out}/classes.csv" in result.output
