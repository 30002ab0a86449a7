"""What ``hiwl evaluate`` prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.cli import main
from tests.conftest import TinyData

pytestmark = pytest.mark.usefixtures("ray_session")


def evaluate(bundle: str, shards: str, out: Path) -> list[str]:
    done = CliRunner().invoke(main, ["evaluate", bundle, shards, "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    return done.stdout.splitlines()


def test_both_accuracies_the_probabilities_and_the_coverage_are_printed(
    tiny_bundle: str, tiny_data: TinyData, tmp_path: Path
) -> None:
    lines = evaluate(tiny_bundle, tiny_data.val, tmp_path)
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    assert f"Probabilities. {scores['calibration']['words']}" in lines
    table = {line.split()[0]: line.split()[1:] for line in lines if line[:3] in ("nll", "ece", "bri")}
    metrics = {row["metric"]: row for row in scores["probabilities"]}
    assert set(table) == set(metrics) - {"accuracy"}
    assert [table["nll"][place] for place in (0, 3)] == [
        f"{metrics['nll'][side]:.4f}" for side in ("before", "after")
    ]
    start = lines.index("Coverage of class_set, of which 0.95 is promised for each class")
    covered = [line.split() for line in lines[start + 2 : start + 8]]
    assert [(row[0], row[1], row[-1]) for row in covered] == [
        (row["class"], f"{row['coverage']:.4f}", str(row["count"])) for row in scores["coverage"]
    ]
    for name, words in (("metrics", "on 50 galaxies"), ("metrics_label_map", "by label_map")):
        accuracy = scores[name][-1]
        expected = f"accuracy {accuracy['value']:.4f} [{accuracy['low']:.4f}, {accuracy['high']:.4f}] {words}"
        assert any(line.startswith(expected) for line in lines), expected


def test_a_model_that_is_not_calibrated_is_said_to_be_so(
    random_model: str, tiny_data: TinyData, tmp_path: Path
) -> None:
    lines = evaluate(random_model, tiny_data.val, tmp_path)
    assert any(line.startswith("Probabilities. This model is not calibrated") for line in lines)
    assert any(line.split() == ["before", "calibration"] for line in lines)
    assert not [line for line in lines if line.startswith("Coverage")]
    assert not (tmp_path / "coverage.csv").exists()
    assert (tmp_path / "evaluation.html").exists()
