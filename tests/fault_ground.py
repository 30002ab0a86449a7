"""Where the rounds of `tests.faults` are played: a survey, a cluster, a store and its network, a disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from pipeline import storage
from tests.conftest import classifying
from tests.drawings import write_labeled_shard
from tests.fault_runs import Run, ready, small_disk
from tests.flaky_store import FlakyStore, flaky
from tests.object_store import free_ports, serve, store_environment

__all__ = ["PATIENCE", "SHARDS", "Ground", "content", "make_ground"]

SHARDS, ROWS = 12, 6
DISK = "4m"
PATIENCE = 180.0
"""Seconds in which a run must end."""
# Of nodes that are gone.
QUICK_TO_NOTICE = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}


@dataclass
class Ground:
    """Where all rounds are played.

    Parameters
    ----------
    work : Path
    disk : Path or None
        A small filesystem of its own; None where none can be mounted.
    store : str
        Prefix of paths in the store.
    network : FlakyStore
        Between the runs, with their workers, and the store.
    restart : callable
        Kills the store and starts it again.
    cluster : ray.cluster_utils.Cluster
    model : str

    Attributes
    ----------
    sky : Path
        The shards.
    expected : dict
        The parts of the undisturbed catalog.
    seconds : float
        That an undisturbed run takes.
    """

    work: Path
    disk: Path | None
    store: str
    network: FlakyStore
    restart: Callable[[], None]
    cluster: Cluster
    model: str
    sky: Path = field(init=False)
    expected: dict[str, pa.Table] = field(init=False)
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        self.sky = self.work / "sky"
        for number in range(SHARDS):
            per_class = dict.fromkeys(("CRS", "EO"), ROWS // 2)
            write_labeled_shard(self.sky / f"sky-{number:02d}.parquet", per_class, first_id=100 * number)
        started, calm = time.monotonic(), self.work / "calm"
        run = self.start(str(calm))
        if run.wait(PATIENCE):
            raise RuntimeError(f"it does not work undisturbed: {run.said}")
        self.seconds = time.monotonic() - started
        self.expected = content(str(calm))

    def start(self, out: str, workers: int = 1) -> Run:
        """Begin to classify the sky, or go on."""
        environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        there = {"RAY_ADDRESS": self.cluster.address, "AWS_ENDPOINT_URL": self.network.endpoint}
        command = ["classify", self.model, str(self.sky), out, "--precision", "float32"]
        return Run([*command, "--workers", str(workers)], self.work, environment | there)

    def workers(self) -> list[psutil.Process]:
        """Processes that classify for any run."""
        nodes = [self.cluster.head_node, *self.cluster.worker_nodes]
        return [one for node in nodes for one in classifying(node.all_processes["raylet"][0].process.pid)]


@contextmanager
def make_ground(work: Path, model: str) -> Iterator[Ground]:
    """A cluster, a store, a network between them and a small disk, for the length of a ``with`` block.

    Parameters
    ----------
    work : Path
        An empty folder.
    model : str
        A bundle.
    """
    (port,) = free_ports(1)
    with ExitStack() as stack, ExitStack() as stores:
        stack.enter_context(ready())
        stack.enter_context(patch.dict("os.environ", store_environment(port)))

        def restart() -> None:
            stores.close()
            stores.enter_context(serve(work / "store", port))

        store = stores.enter_context(serve(work / "store", port))
        network = stack.enter_context(flaky(store.endpoint, seed=0))
        disk = stack.enter_context(small_disk(work / "disk", DISK))
        # Workers have the environment of their node.
        with patch.dict("os.environ", {"AWS_ENDPOINT_URL": network.endpoint}):
            head = {"num_cpus": 0, "include_dashboard": False, "_system_config": QUICK_TO_NOTICE}
            cluster = Cluster(initialize_head=True, head_node_args=head)
            stack.callback(cluster.shutdown)
            for _ in range(2):
                cluster.add_node(num_cpus=2)
        yield Ground(work, disk, store.url, network, restart, cluster, model)


def content(catalog: str) -> dict[str, pa.Table]:
    """The tables of a catalog's parts, by name."""
    tables = {}
    for path, _ in storage.list_files(catalog):
        with storage.open_input(path) as file:
            tables[path.rsplit("/", 1)[-1]] = pq.ParquetFile(file).read()
    return tables
