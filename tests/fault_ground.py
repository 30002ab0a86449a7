"""Where the rounds of `tests.faults` are played: a survey, a cluster, a store and its network, a disk.

On a cluster whose GPUs are only on paper all nodes read for the workers that take one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from pipeline import storage
from pipeline.own_ray import bare_node
from tests.conftest import at_work
from tests.drawings import write_labeled_shard
from tests.fault_runs import Run, ready, small_disk
from tests.flaky_store import FlakyStore, flaky
from tests.object_store import free_ports, serve, store_environment

__all__ = ["PATIENCE", "SHARDS", "WAYS", "Ground", "content", "make_ground"]

SHARDS, ROWS = 12, 6
DISK = "4m"
PATIENCE = 180.0
"""Seconds in which a run must end."""
WAYS = {
    "fused": ([{"num_cpus": 2}, {"num_cpus": 2}], []),
    "separate": (
        [{"num_cpus": 2, "num_gpus": 1}, {"num_cpus": 2, "num_gpus": 1}, {"num_cpus": 2}],
        ["--decode-on", "all-nodes"],
    ),
}
"""Whether who classifies reads too, or other tasks do: the nodes beside the head, and words of a command."""
STARTS_OF_A_NODE = 3
# Nodes that are gone are soon noticed, and no process is started that nobody asked for.
CLUSTER = {
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
    "prestart_worker_first_driver": False,
    "enable_metrics_collection": False,
}


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
    way : str
        A key of `WAYS`.

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
    way: str
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
        if self.way == "separate" and "all nodes read and decode for the GPU workers" not in run.said:
            raise RuntimeError(f"nobody else read: {run.said}")
        self.seconds = time.monotonic() - started
        self.expected = content(str(calm))

    def start(self, out: str, workers: int = 1) -> Run:
        """Begin to classify the sky, or go on."""
        environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        there = {"RAY_ADDRESS": self.cluster.address, "AWS_ENDPOINT_URL": self.network.endpoint}
        command = ["classify", self.model, str(self.sky), out, "--precision", "float32", *WAYS[self.way][1]]
        return Run([*command, "--workers", str(workers)], self.work, environment | there)

    def workers(self) -> list[psutil.Process]:
        """Processes that classify for any run."""
        return self._at_work("CascadeStage")

    def readers(self) -> list[psutil.Process]:
        """Processes that read for those that classify."""
        return [one for one in self._at_work("ReadShards") if one not in self.workers()]

    def _at_work(self, title: str) -> list[psutil.Process]:
        nodes = [self.cluster.head_node, *self.cluster.worker_nodes]
        return [one for node in nodes for one in at_work(node.all_processes["raylet"][0].process.pid, title)]

    def kill_node(self, number: int) -> None:
        """End a node as if its power failed, and start another like it; `number` may be any."""
        nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)
        lost = nodes[number % len(nodes)]
        has = lost.get_resource_and_label_spec()
        self.cluster.remove_node(lost, allow_graceful=False)
        for attempt in range(STARTS_OF_A_NODE):
            # On a machine with much to do Ray's half minute for it is not enough.
            with suppress(*[Exception] * (attempt < STARTS_OF_A_NODE - 1)):
                self.cluster.add_node(num_cpus=has.num_cpus, num_gpus=has.num_gpus)
                return


@contextmanager
def make_ground(work: Path, model: str, way: str = "fused") -> Iterator[Ground]:
    """A cluster, a store, a network between them and a small disk, for the length of a ``with`` block.

    Parameters
    ----------
    work : Path
        An empty folder.
    model : str
        A bundle.
    way : str
        A key of `WAYS`.
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
        # Those that are started later too.
        stack.enter_context(bare_node())
        # Workers have the environment of their node.
        with patch.dict("os.environ", {"AWS_ENDPOINT_URL": network.endpoint}):
            head = {"num_cpus": 0, "include_dashboard": False, "_system_config": CLUSTER}
            cluster = Cluster(initialize_head=True, head_node_args=head)
            stack.callback(cluster.shutdown)
            for node in WAYS[way][0]:
                cluster.add_node(**node)
        yield Ground(work, disk, store.url, network, restart, cluster, model, way)


def content(catalog: str) -> dict[str, pa.Table]:
    """The tables of a catalog's parts, by name."""
    tables = {}
    for path, _ in storage.list_files(catalog):
        with storage.open_input(path) as file:
            tables[path.rsplit("/", 1)[-1]] = pq.ParquetFile(file).read()
    return tables
