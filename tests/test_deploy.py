"""Clusters elsewhere: KubeRay's files agree with what is tested, the Slurm script gives a verb's result."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

from tests.conftest import TinyData
from tests.test_docs_commands import check_hiwl, options

DEPLOY = Path(__file__).parents[1] / "deploy"

# For what Slurm's does here: a task of each node, all ended when one fails, its code.
SRUN = """#!/bin/bash
set -u
for word in "$@"; do
    case $word in --ntasks=*) tasks=${word#*=} ;; esac
done
while [[ $1 == --* ]]; do shift; done
for ((task = 0; task < tasks; task++)); do
    SLURM_PROCID=$task SLURM_NODEID=$task "$@" &
done
code=0
for ((task = 0; task < tasks; task++)); do
    wait -n || { code=$?; kill $(jobs -p) 2>/dev/null; }
done
exit $code
"""


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "kuberay" / "raycluster.yaml").read_text())
    return loaded


def test_kuberay_s_pools_grow_from_nothing_and_one_has_gpus(cluster: dict[str, Any]) -> None:
    spec = cluster["spec"]
    assert (cluster["kind"], spec["rayVersion"]) == ("RayCluster", version("ray"))
    assert spec["enableInTreeAutoscaling"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    gpus = {}
    for pool in spec["workerGroupSpecs"]:
        assert (pool["minReplicas"], pool["maxReplicas"] > 0) == (0, True)
        (container,) = pool["template"]["spec"]["containers"]
        gpus[pool["groupName"]] = container["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus == {"cpu": None, "gpu": "1"}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert {f"--{name}" for name in group["rayStartParams"]} <= options(ray_cli.commands["start"])
        (container,) = group["template"]["spec"]["containers"]
        spill = group["rayStartParams"]["object-spilling-directory"]
        assert spill in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_job_is_a_verb_on_the_same_cluster(cluster: dict[str, Any]) -> None:
    job = yaml.safe_load((DEPLOY / "kuberay" / "rayjob.yaml").read_text())
    assert (job["kind"], job["spec"]["rayClusterSpec"]) == ("RayJob", cluster["spec"])
    program, *words = job["spec"]["entrypoint"].split()
    assert program == "hiwl"
    check_hiwl(words, job["spec"]["entrypoint"])


@pytest.mark.parametrize(("kind", "suffix"), [("cpu", ""), ("cuda", "-gpu")])
def test_the_images_are_those_of_the_cluster(cluster: dict[str, Any], kind: str, suffix: str) -> None:
    lines = (DEPLOY / f"Dockerfile.{kind}").read_text()
    assert re.search(r"^FROM (\S+)$", lines, re.MULTILINE)[1] == (  # type: ignore[index]
        f"rayproject/ray:{version('ray')}-py311{suffix}"
    )
    assert "--constraint deploy/constraints.txt" in lines
    assert f"/hiwl:{kind}" in str(cluster)


@pytest.mark.slow
@pytest.mark.nightly
def test_a_slurm_job_classifies_on_two_nodes(random_model: str, tiny_data: TinyData, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="hiwl-", dir="/tmp") as home:
        programs = Path(home, "bin")
        programs.mkdir()
        (programs / "srun").write_text(SRUN)
        (programs / "hiwl").write_text(f'#!/bin/sh\nexec {sys.executable} -m jobs.cli "$@"\n')
        for program in programs.iterdir():
            program.chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment |= {
            "HOME": home,
            "PATH": f"{programs}:{Path(sys.executable).parent}:{environment['PATH']}",
            "PYTHONPATH": str(DEPLOY.parent),
            # Longer than the paths of sockets may be, as on many machines of that kind.
            "TMPDIR": str(tmp_path / ("long" * 25)),
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "2",
        }
        Path(environment["TMPDIR"]).mkdir()
        script = DEPLOY / "slurm" / "hiwl.sbatch"
        job = subprocess.run(
            ["bash", script, "classify", random_model, tiny_data.val, tmp_path / "c", "--engine", "torch"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert job.returncode == 0, job.stdout + job.stderr
        assert "catalog: 50 rows in 1 parts" in job.stdout
        assert list((tmp_path / "c").glob("*.parquet"))
        # Nothing stays: no process, no folder of Ray, no rendezvous.
        assert not Path(f"/tmp/hiwl-{os.getpid()}").exists()
        assert not list(tmp_path.glob(".hiwl-*"))
