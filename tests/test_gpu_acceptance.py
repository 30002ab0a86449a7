"""The acceptance script for GPUs without one: its part for CPUs passes, and a GPU that is not there fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_acceptance.py"
SMALL = ("--galaxies", "40", "--backbone", "efficientnet_lite0", "--size", "32")


def accepted(folder: Path, *options: str, **variables: str) -> tuple[int, dict[tuple[str, str], str]]:
    """Exit code, and the verdict on each check."""
    out = folder / "checks.json"
    command = [sys.executable, str(SCRIPT), *SMALL, "--json", str(out), *options]
    environment = os.environ | variables
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert out.exists(), done.stderr
    rows = json.loads(out.read_text())["checks"]
    assert all(f"| {row['section']} | {row['check']} | {row['verdict']} |" in done.stdout for row in rows)
    return done.returncode, {(row["section"], row["check"]): row["verdict"] for row in rows}


@pytest.mark.slow
@pytest.mark.nightly
def test_its_part_for_cpus_passes(ray_address: str, tmp_path: Path) -> None:
    sections = "environment,agreement,training,memory,classify,several"
    code, verdicts = accepted(tmp_path, "--device", "cpu", "--only", sections, RAY_ADDRESS=ray_address)
    assert code == 0, verdicts
    assert {section for section, _ in verdicts} == set(sections.split(","))
    assert verdicts["agreement", "openvino as PyTorch on a CPU"] == "PASS"
    assert verdicts["training", "it learns a batch by heart"] == "PASS"
    assert verdicts["classify", "the device made the parts"] == "PASS"
    assert verdicts["classify", "hiwl verify"] == "PASS"
    assert verdicts["memory", "all"] == verdicts["several", "all"] == "SKIP"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_fails(tmp_path: Path) -> None:
    code, verdicts = accepted(tmp_path, "--only", "environment,training")
    assert code == 1
    assert verdicts == {("environment", "runs to its end"): "FAIL", ("training", "all"): "SKIP"}
