"""Shared by the tests: one local Ray, one small data set and one small trained bundle for the session."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from filelock import FileLock

from hiwl_core.recipe import Recipe, load_recipe
from pipeline.own_ray import OWN_RAY, bare_node
from tests.drawings import write_labeled_shard
from tests.object_store import ObjectStore, free_ports, serve, store_environment

# The demo recipe made small: seconds to train on the drawings of `tests.drawings`.
TINY = (
    "stage1.input_size=32",
    "later.input_size=32",
    "stage1.center_crop=64",
    "later.center_crop=64",
    "stage1.augmentation.center_crop=72",
    "later.augmentation.center_crop=72",
    "stage1.batch_size=16",
    "later.batch_size=16",
    "stage1.epochs=4",
    "later.epochs=4",
    "stage1.optimizer.lr=3e-3",
    "later.optimizer.lr=2e-3",
    "stage1.ema_memory=0",
    "later.ema_memory=0",
    "finish=none",
)


@dataclass(frozen=True)
class TinyData:
    """Shards of drawings: 140 to train on, in two files, and 50 to validate on."""

    train: str
    val: str


# Files of half a minute and more under the load of the whole suite, the longest first.
LONGEST = (
    "jobs/test_submit.py",
    "pipeline/test_train.py",
    "pipeline/test_reproduce.py",
    "pipeline/test_shard_stream.py",
    "pipeline/test_faults.py",
    "test_notebooks.py",
    "pipeline/test_verbs_on_s3.py",
    "pipeline/test_report.py",
    "pipeline/test_publish.py",
    "pipeline/test_calibrated_catalog.py",
    "jobs/test_gpus.py",
    "pipeline/test_survey.py",
    "pipeline/test_classify.py",
    "core/test_engines.py",
    "core/test_backbone_networks.py",
)

# Settings of each Ray that tests start.
WORKERS_AT_ONCE = {
    # Ray's workers are nice by default, and would wait for the other process's tests until these give up.
    "RAY_worker_niceness": "0",
    # A process less for each stage of a training: no node is taken away here.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # At each look Ray Train takes one report of a worker, and an epoch is over in less than a second here.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A process less for each Ray that is told of, as clusters are by default.
    "RAY_USAGE_STATS_ENABLED": "0",
}


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Begin with the longest files, then others with slow tests: lest one process ends with them alone."""
    place = {Path(__file__).parent / name: number for number, name in enumerate(LONGEST)}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (place.get(item.path, len(place)), item.path not in slow))


@pytest.fixture(scope="session", autouse=True)
def _workers_take_their_turn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WORKERS_AT_ONCE.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all processes that share the tests."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    (folder / "shared").mkdir(exist_ok=True)
    return folder / "shared"


@pytest.fixture(scope="session", autouse=True)
def _engine_cache(shared_folder: Path) -> Iterator[None]:
    """Exported graphs of the tests' models stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HIWL_CACHE", str(shared_folder / "engines"))
        yield


@pytest.fixture(scope="session")
def object_store_port() -> Iterator[int]:
    """Where the object store will be, for all S3 clients of the session and of its Ray workers."""
    (port,) = free_ports(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        for name, value in store_environment(port).items():
            patch.setenv(name, value)
        yield port


@pytest.fixture(scope="session")
def object_store(object_store_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real S3 server with an empty bucket; ``object_store.url`` is the prefix of its paths."""
    with serve(tmp_path_factory.mktemp("object_store"), object_store_port) as store:
        yield store


@pytest.fixture(scope="session")
def ray_session(object_store_port: int) -> Iterator[None]:
    """A local Ray with room for a task and for one actor that classifies, which takes seconds to start."""
    with bare_node():
        ray.init(
            # Or a Ray that another process of this machine started would be joined.
            address="local",
            num_cpus=3,
            include_dashboard=False,
            logging_level="WARNING",
            _system_config=OWN_RAY,
        )
    yield
    ray.shutdown()


@pytest.fixture
def ray_address(ray_session: None) -> str:
    """The session's Ray for `hiwl` processes, of which starting and ending a Ray is not what is tested."""
    return str(ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="session")
def tiny_data(shared_folder: Path) -> TinyData:
    data = TinyData(str(shared_folder / "data" / "train"), str(shared_folder / "data" / "val"))
    with FileLock(shared_folder / "data.lock"):
        if not (shared_folder / "data").exists():
            counts = {"CRS": 18, "IBS": 18, "CSS": 6, "EO": 12, "SPI": 16}
            for index in range(2):
                name = f"train-{index:05d}-of-00002.parquet"
                write_labeled_shard(Path(data.train, name), counts, first_id=1000 * index)
            per_class = dict.fromkeys(counts, 10)
            write_labeled_shard(Path(data.val, "val-00000-of-00001.parquet"), per_class, first_id=9000)
    return data


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    return load_recipe("demo", [*TINY, "finish=calibration"])


def trained(data: TinyData, recipe: Recipe, shared: Path, own: Path) -> Path:
    """A copy of a run that one of the processes which share the tests has trained."""
    from pipeline.training.train import train

    with FileLock(f"{shared}.lock"):
        train(data.train, data.val, recipe, str(shared))
    return Path(shutil.copytree(shared, own))


@pytest.fixture(scope="session")
def tiny_run(
    tiny_data: TinyData,
    tiny_recipe: Recipe,
    shared_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished run folder, with its calibrated bundle."""
    own = tmp_path_factory.mktemp("runs") / "tiny"
    return trained(tiny_data, tiny_recipe, shared_folder / "tiny", own)


@pytest.fixture(scope="session")
def flat_run(tiny_data: TinyData, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one network for all classes, online smoothed."""
    from hiwl_core.methods import method_overrides

    changes = [*method_overrides("slwslm"), *TINY, "stage1.epochs=3", "stage1.smoothing=online"]
    own = tmp_path_factory.mktemp("runs") / "flat"
    return trained(tiny_data, load_recipe("demo", changes), shared_folder / "flat", own)


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path) -> str:
    return str(tiny_run / "bundle")


@pytest.fixture(scope="session")
def random_model(shared_folder: Path) -> str:
    """A bundle that need not be trained: for what does not depend on how good it is."""
    from tests.bundles import random_bundle

    with FileLock(shared_folder / "random.lock"):
        made = shared_folder / "random"
        return str(made) if made.exists() else random_bundle(made)


@pytest.fixture(scope="session")
def calibrated_model(random_model: str, shared_folder: Path) -> str:
    """The same with adaptive views, calibrated on drawings."""
    from tests.bundles import calibrated_bundle

    with FileLock(shared_folder / "calibrated.lock"):
        made = shared_folder / "calibrated"
        return str(made) if made.exists() else calibrated_bundle(made, random_model)


def without_cluster() -> dict[str, str]:
    """The environment, where no Ray is named."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def hiwl(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """The command line in a process and a process group of its own; with a Ray of its own, unless told."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=without_cluster() | variables,
        start_new_session=True,
        cwd=Path(__file__).parents[1],
    )


def classifying(pid: int) -> list[psutil.Process]:
    """The processes below one that hold the networks; none if it has just ended."""
    return at_work(pid, "CascadeStage")


def at_work(pid: int, title: str) -> list[psutil.Process]:
    """The processes below one that have a word in their command line; none if it has just ended."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if title in " ".join(child.cmdline()):
                    found.append(child)
    return found


def kill_driver(process: subprocess.Popen[Any]) -> None:
    """End a process by SIGKILL, and wait until those of the Ray that it started have noticed and are gone.

    But for Ray's agents, which have nothing to do any more and take a minute longer.
    """
    of_its_ray = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "Agent" not in child.name():
                of_its_ray.append(child)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not psutil.wait_procs(of_its_ray, timeout=180)[1]
