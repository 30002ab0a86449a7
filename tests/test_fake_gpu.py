"""Each verb that computes asks Ray for GPUs in a way that Ray takes, and makes what it makes on CPUs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.conftest import TinyData, without_cluster


@pytest.mark.nightly
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which would be used")
def test_all_that_computes_runs_with_gpus(random_model: str, tiny_data: TinyData, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fake_gpu", random_model, tiny_data.train, tiny_data.val]
    place = Path(__file__).parents[1]
    done = subprocess.run(
        [*command, str(tmp_path)],
        cwd=place,
        env=without_cluster(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    on_cpus, by_gpus, for_gpus, streamed = (
        pd.concat(map(pd.read_parquet, (tmp_path / name).glob("*.parquet"))).sort_values("object_id")
        for name in ("cpu", "gpu-nodes", "all-nodes", "dataset")
    )
    assert len(on_cpus) == 140
    for others in (by_gpus, for_gpus):
        pd.testing.assert_frame_equal(
            others.reset_index(drop=True), on_cpus.reset_index(drop=True), rtol=1e-4, atol=1e-5
        )
    assert len(streamed) == 50
    for name in ("run/bundle", "optimized"):
        assert (tmp_path / name / "bundle.json").exists()
