"""A Ray that a verb starts by itself: who can reach it, and what becomes of the verb when it dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray._private.ray_constants import DEFAULT_DASHBOARD_AGENT_LISTEN_PORT

from tests.conftest import at_work, without_cluster

# As verbs work: one that waits for a task, and one that trains with two workers which have met.
WAITING = """
import time
import click, ray, torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from jobs.options import VerbCommand
from pipeline.cluster import connected
from pipeline.training.stage_fit import CheckedTorchConfig

def wait(up):
    open(up, "w").close()
    time.sleep(600)

def train(config):
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    if ray.train.get_context().get_world_rank() == 0 and total == 2:
        wait(config["up"])
    time.sleep(600)

@click.command("wait", cls=VerbCommand)
@click.argument("kind")
@click.argument("up")
def main(kind, up):
    with connected(min_cpus=3):
        if kind == "task":
            ray.get(ray.remote(wait).remote(up))
        else:
            TorchTrainer(
                train,
                train_loop_config={"up": up},
                torch_config=CheckedTorchConfig(backend="gloo"),
                scaling_config=ScalingConfig(num_workers=2),
            ).fit()
main()
"""


def open_doors(processes: Iterable[psutil.Process]) -> list[str]:
    """Ports that others than this machine can reach."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            for one in process.net_connections("inet"):
                away = one.laddr and one.laddr.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")
                if away and one.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                    found.append(f"{one.laddr} of {process.name()}")
    return found


def ports_listened_to(processes: Iterable[psutil.Process]) -> set[int]:
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            listened = (one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN)
            found.update(one.laddr.port for one in listened)
    return found


@pytest.mark.parametrize(
    ("kind", "victim"),
    [
        pytest.param("task", "gcs_server", marks=pytest.mark.slow),
        pytest.param("training", "raylet", marks=pytest.mark.nightly),
    ],
)
def test_a_ray_that_dies_ends_its_verb_with_a_line_and_nobody_else_could_reach_it(
    kind: str, victim: str, tmp_path: Path
) -> None:
    (tmp_path / "verb.py").write_text(WAITING)
    up = tmp_path / "up"
    verb = subprocess.Popen(
        [sys.executable, str(tmp_path / "verb.py"), kind, str(up)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=without_cluster() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 400
        while not up.exists():
            assert verb.poll() is None, verb.communicate()
            assert time.monotonic() < until
            time.sleep(0.1)
        started = psutil.Process(verb.pid).children(recursive=True)
        assert open_doors([psutil.Process(verb.pid), *started]) == []
        # A second Ray on this machine would wait for it.
        assert DEFAULT_DASHBOARD_AGENT_LISTEN_PORT not in ports_listened_to(started)
        (killed,) = (one for one in started if one.name() == victim)
        killed.kill()
        said = verb.communicate(timeout=120)[1]
    finally:
        verb.kill()
    name = {"raylet": "raylet", "gcs_server": "head (gcs_server)"}[victim]
    last = said.splitlines()[-1]
    assert last.startswith(f"Error: Ray's {name} on this machine died")
    assert last.endswith("what was written whole is kept: start the same command again to go on")
    assert "Traceback" not in said
    assert verb.returncode == 1
    # Those that Ray's own end would leave running for a minute, too.
    assert psutil.wait_procs(started, timeout=5)[1] == []


STARTING = """
import signal
from pipeline.own_ray import start_ray
signal.signal(signal.SIGINT, signal.default_int_handler)
start_ray(1)
"""


def test_what_is_interrupted_while_ray_begins_leaves_nothing_running() -> None:
    process = subprocess.Popen([sys.executable, "-c", STARTING], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (agents := at_work(process.pid, "ray::DashboardAgent")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)
    started = psutil.Process(process.pid).children(recursive=True)
    assert {one.pid for one in agents} <= {one.pid for one in started}
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=120)[1]
    # Ray's agents by themselves would notice after a minute that their raylet is gone.
    assert not psutil.wait_procs(started, timeout=20)[1]
