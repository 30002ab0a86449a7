"""A GPU that Ray hands out and PyTorch cannot use ends a verb in one line: it is not replaced by the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from pipeline.own_ray import OWN_RAY, bare_node
from tests.conftest import TINY, TinyData, hiwl

# A guard against a hang: it takes some ten seconds where nothing else runs.
LONGEST = 180.0


@pytest.fixture(scope="module")
def told_of_a_gpu() -> Iterator[str]:
    """Address of a Ray that was told of a GPU which is not there."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU, which would be used")
    with bare_node():
        head = {"num_cpus": 3, "num_gpus": 1, "_system_config": OWN_RAY}
        cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["classify", "train"])
def test_a_gpu_that_is_not_there_is_one_line_and_exit_code_2(
    told_of_a_gpu: str, verb: str, random_model: str, tiny_data: TinyData, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    data = ["--data", tiny_data.train, "--val", tiny_data.val, "--out", out, "--recipe", "demo"]
    settings = [word for key in TINY for word in ("--set", key)]
    arguments = {"classify": [random_model, tiny_data.val, out], "train": [*data, *settings]}
    process = hiwl(verb, *arguments[verb], RAY_ADDRESS=told_of_a_gpu)
    said, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert "was given a GPU that PyTorch cannot use: " in line
    assert line.endswith("or compute on CPUs with --no-gpu")
    assert not list(tmp_path.rglob("*.parquet"))
    assert "NCCL" not in said
