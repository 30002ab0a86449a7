"""A user's mistake is one clear line and exit code 2, before any Ray work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hiwl_core.taxonomy import GALAXY_ZOO
from jobs.cli import VERBS, main
from tests.bundles import random_bundle
from tests.conftest import TinyData
from tests.drawings import write_labeled_shard

OWN_CLASSES = """
[taxonomy]
name = "bars"
classes = ["round", "bar", "ring"]
combined = ["bar", "ring"]
combined_name = "structure"
"""
# Runs command lines in one process, since imports take seconds, and says whether Ray was ever started.
RUNNER = """
import json, sys
from click.testing import CliRunner
import ray
from jobs.cli import main
results = {}
for name, arguments in json.load(sys.stdin).items():
    result = CliRunner().invoke(main, arguments)
    results[name] = [result.exit_code, result.stdout, result.stderr, ray.is_initialized()]
json.dump(results, sys.stdout)
"""


def test_each_mistake_is_one_line_and_exit_code_2(
    tiny_bundle: str, random_model: str, tiny_data: TinyData, tmp_path: Path
) -> None:
    changed = _changed(tiny_bundle, tmp_path / "changed", "stage1.safetensors")
    refitted = _changed(tiny_bundle, tmp_path / "refitted", "calibration.json")
    strange = str(write_labeled_shard(tmp_path / "strange.parquet", {"CRS": 2}))
    _relabel(Path(strange), "BAR")
    flat = random_bundle(tmp_path / "flat", taxonomy=GALAXY_ZOO.flat())
    own = tmp_path / "own.toml"
    own.write_text(Path("hiwl_core/recipes/demo.toml").read_text() + OWN_CLASSES)
    out, here = str(tmp_path / "out"), str(tmp_path)
    train = ["train", "--data", tiny_data.train, "--val", tiny_data.val, "--out", out, "--recipe"]
    cases = {
        "missing folder": (
            ["train", "--data", f"{here}/nowhere", "--val", here, "--recipe", "demo", "--out", out],
            "no file or folder",
        ),
        "missing shards": (["classify", tiny_bundle, f"{here}/nowhere", out], "no file or folder"),
        "missing bundle": (["classify", f"{here}/nowhere", tiny_data.val, out], "no model bundle at"),
        "missing shards to plan for": (["plan", tiny_bundle, f"{here}/nowhere"], "no file or folder"),
        "no catalog to verify": (["verify", here], "is not a catalog of `hiwl classify`"),
        "no catalog to look at": (["status", f"{here}/nowhere"], "is not a catalog of `hiwl classify`"),
        "no catalog to publish": (["publish", f"{here}/nowhere", out], "nowhere"),
        "no catalog to ask": (["query", f"{here}/nowhere"], "nowhere"),
        "no catalog to show": (["sample", f"{here}/nowhere", f"{out}.html"], "nowhere"),
        "two scales": (
            ["classify", tiny_bundle, tiny_data.val, out, "--scale", "0.4", "--scale-column", "r"],
            "--scale 0.4 and --scale-column r",
        ),
        "no run to report on": (["report", f"{here}/nowhere", "--out", out], "no training run at"),
        "nothing to reproduce": (
            ["reproduce", "table12", *train[1:], "demo"],
            "nothing to reproduce by the name 'table12': there are table3",
        ),
        "no weights for a training of a grid": (
            ["reproduce", "table7", *train[1:], "demo", "--set", f"stage1.init={here}/none.pth"],
            "no weights file",
        ),
        "seeds": (
            ["reproduce", "table4", *train[1:], "demo", "--seeds", "1,1"],
            "--seeds 1,1: give different",
        ),
        "missing source": (["ingest", f"{here}/nowhere", out], "nowhere"),
        "missing votes": (["select", f"{here}/nowhere.csv", f"{out}.csv"], "nowhere.csv"),
        "wrong column": ([*train, "demo", "--label-column", "klass"], "no column 'klass' in"),
        "wrong id column": (
            ["evaluate", tiny_bundle, tiny_data.val, "--id-column", "ID"],
            "no column 'ID' in",
        ),
        "unknown recipe": ([*train, "demos"], "no recipe 'demos': there are cpu, demo, galaxyzoo, paper"),
        "unknown recipe key": ([*train, "demo", "--set", "stage1.epocs=3"], "unknown key 'stage1.epocs'"),
        "unknown method": ([*train, "demo", "--method", "sota"], "no method 'sota': there are hiwl, slwslm"),
        "weight beyond 1": (
            [*train, "demo", "--method", "online", "--set", "stage1.online_alpha=2"],
            "stage1.online_alpha: Input should be less than or equal to 1, not 2",
        ),
        "no distances": ([*train, str(own), "--method", "similarity"], "no distance between round and bar"),
        "stage 2 of a flat model": (
            ["classify", flat, tiny_data.val, out, "--stage2", "always"],
            "--stage2 always: this model has no stage 2",
        ),
        "stage 2 of a flat model to plan for": (
            ["plan", flat, tiny_data.val, "--stage2", "always"],
            "--stage2 always: this model has no stage 2",
        ),
        "unknown backbone": (
            [*train, "demo", "--set", "stage1.backbone=vgg", "--set", "stage2.backbone=vgg"],
            "no backbone 'vgg'",
        ),
        "unknown class": (
            ["train", "--data", strange, "--val", strange, "--recipe", "demo", "--out", out],
            "unknown class 'BAR' in the labels",
        ),
        "unknown class to score": (["evaluate", tiny_bundle, strange], "unknown class 'BAR' in the labels"),
        "changed bundle": (["classify", changed, tiny_data.val, out], "stage1.safetensors has sha256"),
        "changed calibration": (["classify", refitted, tiny_data.val, out], "calibration.json has sha256"),
        "not in the box": (
            ["classify", "galaxyzo", tiny_data.val, out],
            "no model bundle at 'galaxyzo': bundle.json is missing; in the box: galaxyzoo",
        ),
        "shares that do not sum to 1": (
            ["classify", tiny_bundle, tiny_data.val, out, "--prior", "CRS=.3,IBS=.3,CSS=.1,EO=.1,SPI=.1"],
            "--prior",
        ),
        "shares of a class that is none": (
            ["classify", tiny_bundle, tiny_data.val, out, "--prior", "CRS=.3,IBS=.3,CSS=.1,EO=.1,BAR=.2"],
            "BAR",
        ),
        "shares without calibration": (
            ["classify", random_model, tiny_data.val, out, "--prior", "estimate"],
            "--prior: this model's probabilities are not calibrated",
        ),
        "adaptive views without a margin": (
            ["classify", random_model, tiny_data.val, out, "--views", "adaptive"],
            "--views adaptive: this model does not hold the margin",
        ),
        "int8 without its graphs": (
            ["classify", tiny_bundle, tiny_data.val, out, "--precision", "int8"],
            "--precision int8: this model has no int8 graphs",
        ),
        "coverage": (["classify", tiny_bundle, tiny_data.val, out, "--coverage", "1.2"], "--coverage 1.2"),
        "a bundle over a bundle": (
            ["optimize", tiny_bundle, *train[1:5], "--out", tiny_bundle],
            "holds a model bundle already",
        ),
        "count": (["simulate", out, "--count", "0"], "0"),
        "unknown verb on a cluster": (["submit", "--", "clasify"], "clasify"),
    }
    results = _run({name: arguments for name, (arguments, _) in cases.items()})
    for name, (_, message) in cases.items():
        code, stdout, stderr, ray_started = results[name]
        assert (code, stdout, ray_started) == (2, "", False), (name, results[name])
        assert message in stderr, (name, stderr)
        assert stderr.startswith("Error: "), (name, stderr)
        assert len(stderr.splitlines()) == 1, (name, stderr)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", [*VERBS, None])
def test_help_has_an_example(verb: str | None) -> None:
    result = CliRunner().invoke(main, [*([verb] if verb else []), "--help"])
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"hiwl {verb or 'train'}" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 110


def _changed(bundle: str, copy: Path, file: str) -> str:
    """A copy of a bundle, one file of which has another last byte."""
    shutil.copytree(bundle, copy)
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return str(copy)


def _relabel(path: Path, label: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    position = table.column_names.index("label")
    pq.write_table(table.set_column(position, "label", pa.array([label] * len(table))), path)


def _run(command_lines: dict[str, list[str]]) -> dict[str, list]:  # type: ignore[type-arg]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(command_lines),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return json.loads(done.stdout)
