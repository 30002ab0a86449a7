"""A cluster that starts nodes while a classification runs, and ends them after it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.autoscaled import autoscaled_ray
from tests.drawings import write_labeled_shard
from tests.stand_in_stages import NODES


@pytest.mark.slow
@pytest.mark.nightly
def test_a_warm_cluster_grows_with_the_work_and_shrinks_after_it(tmp_path: Path) -> None:
    shards = [
        str(write_labeled_shard(tmp_path / f"{index:02d}.parquet", {"CRS": 2, "EO": 1}))
        for index in range(30)
    ]
    with autoscaled_ray(tmp_path, warm=1, most=NODES) as environment:
        run = subprocess.run(
            [sys.executable, "-m", "tests.growing_run", *shards],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout.strip().splitlines()[-1])
    assert said["before"] == said["after"] == 1
    # The node that was there, and two that came: each had its part of the shards.
    assert len(said["shards"]) == NODES
    assert sum(said["shards"]) == 30
