"""Class fractions and drift of catalogs, from files to verbs: tables, pictures, pages, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hiwl_core.class_prior import move_prior
from hiwl_core.errors import UserError
from hiwl_core.flags import FLAGS
from hiwl_core.reference import reference_histograms
from hiwl_core.taxonomy import GALAXY_ZOO, probability_column
from jobs.cli import main
from pipeline import storage
from pipeline.catalog.manifest import write_model_facts
from pipeline.drift import drift
from pipeline.fractions import fractions
from tests.object_store import ObjectStore
from tests.page_reader import Reader

CLASSES = GALAXY_ZOO.classes
COLUMNS = tuple(map(probability_column, CLASSES))
MODEL_ID = "fedcba9876543210"
CONFUSION = np.array(
    [[812, 26, 0, 1, 4], [16, 779, 3, 2, 7], [0, 3, 43, 11, 1], [0, 2, 5, 376, 7], [2, 5, 0, 6, 767]]
)
RATES = CONFUSION / CONFUSION.sum(axis=1, keepdims=True)
MIX = CONFUSION.sum(axis=1) / CONFUSION.sum()
TRIPLED = MIX * [1, 1, 3, 1, 1] / (MIX @ [1, 1, 3, 1, 1])
ROWS = 6000


def galaxies(rows: int, mix: np.ndarray, seed: int, prior: np.ndarray = MIX) -> pd.DataFrame:
    """Rows of a catalog whose probabilities are exact: those of a class given the label it was called."""
    rng = np.random.default_rng(seed)
    true = rng.choice(5, rows, p=mix)
    called = (RATES[true].cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(max=4)
    given_label = RATES * MIX[:, None] / (MIX @ RATES)
    exact = move_prior(given_label.T[called], MIX, prior)
    broken = rng.random(rows) < 0.02
    columns: dict[str, Any] = {
        "object_id": np.arange(rows) + 10**16 * (seed + 1),
        "label_map": np.array(CLASSES, dtype=object)[exact.argmax(axis=1)],
        **{name: exact[:, index].astype(np.float32) for index, name in enumerate(COLUMNS)},
        "confidence": exact.max(axis=1).astype(np.float32),
        "ood_score": rng.gamma(2, 1, rows).astype(np.float32),
        "flags": np.where(rng.random(rows) < 0.01, 1, 0).astype(np.int32),
        "z": rng.uniform(0.01, 0.3, rows),
        "field": np.where(rng.random(rows) < 0.5, "it's A", "B"),
        "ra": np.linspace(0, 359, rows),
        "dec": np.linspace(-89, 89, rows),
        "status": np.where(broken, "undecodable", "ok"),
        "model_id": MODEL_ID,
    }
    frame = pd.DataFrame(columns).astype({"flags": "Int32"})
    frame.loc[broken, ["label_map", *COLUMNS, "confidence", "ood_score", "flags"]] = None
    return frame


def write(folder: Path, frame: pd.DataFrame, prior: np.ndarray = MIX, facts: bool = True) -> str:
    """A catalog of two parts, with what it says of its model."""
    folder.mkdir(parents=True)
    for index, part in enumerate((frame[: len(frame) // 3], frame[len(frame) // 3 :])):
        table = pa.Table.from_pandas(part, preserve_index=False)
        pq.write_table(table, folder / f"sky-{index:05d}-of-00002.parquet")
    if facts:
        validation = galaxies(3000, MIX, seed=99)
        validation = validation[validation["status"] == "ok"]
        called = GALAXY_ZOO.encode(validation["label_map"].tolist())
        reference = reference_histograms(
            validation[list(COLUMNS)].to_numpy(dtype=np.float64),
            called,
            validation["ood_score"].to_numpy(dtype=np.float64),
            validation["flags"].to_numpy(dtype=np.int64),
            COLUMNS,
            CLASSES,
        )
        known = {"model_id": MODEL_ID, "classes": list(CLASSES), "prior": prior.tolist()}
        confusion = {"confusion": CONFUSION.tolist()}
        write_model_facts(str(folder), {**known, "validation": confusion, "reference": reference})
    return str(folder)


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another night of the sky that the model was validated on."""
    return write(tmp_path_factory.mktemp("same") / "catalog", galaxies(ROWS, MIX, 1))


@pytest.fixture(scope="module")
def tripled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sky with three times the cigar-shaped galaxies."""
    frame = galaxies(ROWS, TRIPLED, 2)
    frame.loc[frame.index[:50], "z"] = np.nan
    return write(tmp_path_factory.mktemp("tripled") / "catalog", frame)


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def covers(table: pd.DataFrame, name: str, truth: np.ndarray) -> list[bool]:
    return (table[f"{name}_low"].le(truth) & table[f"{name}_high"].ge(truth)).tolist()


def test_the_corrected_fractions_of_a_catalog_are_the_true_ones(tripled: str) -> None:
    result = fractions(tripled)
    frame = pq.read_table(tripled, filters=[("status", "=", "ok")]).to_pandas()
    table = result.table.set_index("class")
    assert table["rows"].to_dict() == frame["label_map"].value_counts().to_dict()
    assert table["rows"].sum() + result.unclassified == ROWS
    assert result.model_id == MODEL_ID
    assert all(covers(table, "adjusted", TRIPLED))
    assert all(covers(table, "em", TRIPLED))
    # Of the probabilities that tell no more than labels do, both estimates are the same.
    np.testing.assert_allclose(table["em"], table["adjusted"], atol=2e-3)
    assert not covers(table, "naive", TRIPLED)[CLASSES.index("CSS")]
    again = fractions(tripled).table
    pd.testing.assert_frame_equal(result.table, again, atol=1e-9)


def test_bins_of_equal_counts(tripled: str) -> None:
    result = fractions(tripled, by="z,4", where="z < 0.25 OR z IS NULL OR isnan(z) -- all near ones")
    frame = pq.read_table(tripled, filters=[("status", "=", "ok")]).to_pandas()
    near = frame["z"][frame["z"] < 0.25]
    assert result.ungrouped == frame["z"].isna().sum() > 0
    assert result.groups["rows"].sum() == len(near)
    assert result.groups["rows"].between(len(near) / 4 - 1, len(near) / 4 + 1).all()
    assert result.groups["low"].iloc[0] == near.min()
    assert result.groups["high"].iloc[-1] == near.max()
    assert (result.groups["mean"].diff().dropna() > 0.04).all()
    wide = result.with_bins()
    assert list(wide.columns[:5]) == ["group", "z_low", "z_mean", "z_high", "class"]
    assert len(wide) == 20


def test_values_that_are_equal_stay_in_one_bin(tmp_path: Path) -> None:
    frame = galaxies(400, MIX, 3)
    frame["z"] = np.where(np.arange(400) < 300, 1.0, 2.0)
    result = fractions(write(tmp_path / "catalog", frame), by="z,10")
    assert result.groups["group"].tolist() == ["1 to 1", "1 to 2"]
    assert result.groups["low"].tolist() == result.groups["high"].tolist() == [1, 2]


def test_groups_of_a_text_column(tripled: str) -> None:
    result = fractions(tripled, by="field")
    frame = pq.read_table(tripled, filters=[("status", "=", "ok")]).to_pandas()
    found = dict(zip(result.groups["group"], result.groups["rows"], strict=True))
    assert found == frame["field"].value_counts().to_dict()
    assert not result.binned


def test_many_galaxies_are_thinned_for_em_alone(tripled: str) -> None:
    whole, thinned = (fractions(tripled, by="field", most_galaxies=most) for most in (10**6, 1500))
    for name in ("rows", "naive"):
        assert whole.table[name].tolist() == thinned.table[name].tolist()
    assert 0 < np.abs(whole.table["em"] - thinned.table["em"]).max() < 0.05


def test_a_catalog_of_other_class_shares_is_corrected_alike(tmp_path: Path) -> None:
    shares = np.array([0.1, 0.1, 0.6, 0.1, 0.1])
    plain = fractions(write(tmp_path / "plain", galaxies(ROWS, TRIPLED, 4))).table
    moved = fractions(write(tmp_path / "moved", galaxies(ROWS, TRIPLED, 4, shares), shares)).table
    assert plain["rows"].tolist() != moved["rows"].tolist()
    np.testing.assert_allclose(moved["adjusted"], plain["adjusted"], atol=1e-9)
    np.testing.assert_allclose(moved["em"], plain["em"], atol=1e-4)
    # And they are no drift: what is compared are the probabilities as they were validated.
    result = drift(str(tmp_path / "moved"))
    assert not set(result.table["name"][result.table["drift"].isin(["moderate", "strong"])]) - {"undecodable"}


def test_the_verb_writes_a_table_and_a_picture(tripled: str, tmp_path: Path) -> None:
    out, picture = tmp_path / "fractions.csv", tmp_path / "fractions.png"
    words = ["fractions", tripled, "--by", "z,3", "--out", str(out), "--picture", str(picture)]
    code, stdout, stderr = run(*words)
    assert (code, stderr) == (0, "")
    assert stdout.splitlines()[0].split() == ["group", "class", "rows", "naive", "adjusted", "em"]
    assert "without z: 4" in stdout or "without z: 5" in stdout
    assert "not classified" in stdout
    written = pd.read_csv(out)
    assert len(written) == 15
    assert written["z_mean"].is_monotonic_increasing
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, _, stderr = run(*words)
    assert (code, "is there already" in stderr) == (2, True)
    svg = tmp_path / "fields.svg"
    assert run("fractions", tripled, "--by", "field", "--picture", str(svg))[0] == 0
    assert all(name in svg.read_text() for name in (*CLASSES, "adjusted", "counted"))


def without(column: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.drop(columns=column)


@pytest.mark.parametrize(
    ("words", "change", "message"),
    [
        (["--by", "mass"], None, "--by mass: no such column in {}; there are object_id, label_map, p_crs"),
        (["--by", "z,ten"], None, "'ten' bins; give a whole number from 1 to 200, such as z,10"),
        (["--by", "z,0"], None, "'0' bins"),
        (["--by", "z,2.5"], None, "'2.5' bins"),
        (["--by", "z"], None, "give the number of bins, as z,10"),
        (["--by", "field,3"], None, "field is no number"),
        (["--by", "object_id"], None, "more than 200 different values"),
        (["--by", "z,3", "--where", "z > 5"], None, "no classified galaxy that was asked for"),
        (["--where", "zz > 5"], None, "zz"),
        (["--where", "true); DROP VIEW catalog; SELECT (1"], None, "statements in the SQL"),
        ([], without("label_map"), "no column 'label_map' in {}: an older HIWL made it"),
        ([], without("p_css"), "no column 'p_css' in {}"),
        ([], lambda frame: frame.assign(model_id="other"), "rows of the model other, but {}/_model.json"),
        ([], lambda frame: frame.replace({"label_map": {"CSS": "BAR"}}), "'BAR', no class of"),
        (["--out", "table.txt"], None, "ends with .csv"),
        (["--picture", "a.jpg"], None, "ends with .png or .svg"),
    ],
)
def test_mistakes_are_one_line(
    same: str,
    tmp_path: Path,
    words: list[str],
    change: Callable[[pd.DataFrame], pd.DataFrame] | None,
    message: str,
) -> None:
    catalog = same if change is None else write(tmp_path / "catalog", change(galaxies(300, MIX, 5)))
    code, stdout, stderr = run("fractions", catalog, *words)
    assert (code, stdout) == (2, "")
    assert message.format(catalog) in stderr
    assert stderr.count("\n") == 1


def test_a_catalog_that_says_nothing_of_its_model_is_told_of_it(same: str, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare", galaxies(500, MIX, 6), facts=False)
    for verb in ("fractions", "drift"):
        code, _, stderr = run(verb, bare)
        assert code == 2
        assert f"no {bare}/_model.json" in stderr
        assert "--model" in stderr
        for model in (same, f"{same}/_model.json"):
            assert run(verb, bare, "--model", model)[0] == 0
        # A part, or some of them, are a catalog too.
        assert run(verb, f"{same}/sky-*.parquet", "--where", "z > 0.1")[0] == 0
        (tmp_path / "damaged.json").write_text(json.dumps({"classes": ["A"], "prior": [0.5, 0.5]}))
        code, _, stderr = run(verb, bare, "--model", str(tmp_path / "damaged.json"))
        assert (code, "damaged.json is damaged" in stderr) == (2, True)


def test_a_published_catalog_knows_its_model_too(same: str, tmp_path: Path) -> None:
    published = str(tmp_path / "published")
    assert run("publish", same, published)[0] == 0
    # The rows come in another order, and the intervals of EM draw from them.
    there, here = (
        fractions(catalog).table.drop(columns=["em_low", "em_high"]) for catalog in (published, same)
    )
    pd.testing.assert_frame_equal(there, here)
    assert run("drift", published)[0] == 0


def test_no_drift_on_another_night_of_the_same_sky(same: str, tmp_path: Path) -> None:
    page = tmp_path / "drift.html"
    code, stdout, stderr = run("drift", same, "--out", str(page))
    assert (code, stderr) == (0, "")
    assert "no drift above 0.1" in stdout
    table = drift(same).table
    assert table[table["kind"] == "column"]["name"].tolist() == [*COLUMNS, "confidence", "ood_score"]
    assert table[table["kind"] == "flag"]["name"].tolist() == list(FLAGS.values())
    assert table[table["kind"] == "label"]["name"].tolist() == list(CLASSES)
    read = Reader(page.read_text())
    assert read.headings == [1, 2, 2, 3, 3, 3, 3]
    assert read.tags.count("svg") == 7
    assert "http" not in page.read_text().replace("http-equiv", "")
    assert run("drift", same, "--out", str(page))[0] == 0
    page.write_text("mine")
    code, _, stderr = run("drift", same, "--out", str(page))
    assert (code, "is not a page of hiwl drift" in stderr, page.read_text()) == (2, True, "mine")


def test_drift_has_exit_code_3_and_is_named(tmp_path: Path) -> None:
    frame = galaxies(3000, MIX, 7)
    frame["ood_score"] *= 2.0
    frame.loc[frame.index[:600], "flags"] = 9
    catalog = write(tmp_path / "catalog", frame)
    page = tmp_path / "drift.html"
    code, stdout, _ = run("drift", catalog, "--out", str(page))
    assert code == 3
    verdict = next(line for line in stdout.splitlines() if line.startswith("strong drift"))
    assert verdict == "strong drift: column ood_score, flag unlike, flag saturated"
    assert "strong drift" in page.read_text()
    assert run("drift", catalog, "--limit", "50")[0] == 0
    code, _, stderr = run("drift", catalog, "--limit", "0")
    assert (code, "limit 0" in stderr) == (2, True)


def test_another_catalog_as_the_reference(same: str, tripled: str, tmp_path: Path) -> None:
    assert run("drift", tripled, "--reference", same)[0] == 0
    frame = galaxies(2000, MIX, 8)
    old = write(tmp_path / "old", frame.drop(columns=["ood_score", "flags"]), facts=False)
    result = drift(same, old)
    assert result.found == "no"
    assert set(result.table["kind"]) == {"column", "labels", "label", "status"}
    assert "flag unlike" in result.facts()[-1]
    failed = frame.assign(status="undecodable")
    night = write(tmp_path / "failed", failed, facts=False)
    code, stdout, _ = run("drift", night, "--reference", same)
    assert code == 3
    assert "strong drift: status undecodable" in stdout
    assert "no galaxy is classified" in stdout
    with pytest.raises(UserError, match="no rows in .* where z > 7"):
        drift(same, old, where="z > 7")


def test_both_verbs_in_object_storage(tripled: str, object_store: ObjectStore) -> None:
    url = f"{object_store.url}/watched/catalog"
    for path in Path(tripled).iterdir():
        storage.write_bytes(f"{url}/{path.name}", path.read_bytes())
    pd.testing.assert_frame_equal(
        fractions(url, "z,3").table, fractions(tripled, "z,3").table, check_exact=False, atol=1e-9
    )
    pd.testing.assert_frame_equal(drift(url).table, drift(tripled).table)


def test_neither_verb_waits_for_torch_or_ray(same: str) -> None:
    script = """
import sys
from jobs.cli import main
for verb in ("fractions", "drift"):
    main([verb, sys.argv[1]], standalone_mode=False)
print(sorted({"torch", "ray", "matplotlib", "torchvision"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script, same], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
