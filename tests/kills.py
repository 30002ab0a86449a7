"""A classification on a cluster of two nodes whose driver, workers and nodes are killed again and again."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from tests.conftest import classifying, hiwl
from tests.drawings import CLASSES, write_labeled_shard

__all__ = ["KINDS", "PATIENCE", "Sky", "classify_under_fire", "expected_rows", "parts", "read", "write_sky"]

KINDS = ("worker", "node", "driver", "worker")
"""What is killed, in turn."""
PATIENCE = 180.0
"""Seconds in which there must be something new."""


class Sky(NamedTuple):
    """Shards that hold the same drawings, under ids of their own.

    Parameters
    ----------
    folder : Path
    drawn : Path
        A shard of the drawings alone.
    shards : int
    rows : int
        Of each shard.
    """

    folder: Path
    drawn: Path
    shards: int
    rows: int

    def ids(self, index: int) -> np.ndarray:
        """Of a shard."""
        return self.rows * index + np.arange(self.rows)

    @property
    def names(self) -> list[str]:
        """Of the shards, and of the parts of their catalog."""
        return [f"sky-{index:05d}-of-{self.shards:05d}.parquet" for index in range(self.shards)]


def write_sky(folder: Path, shards: int, copies: int) -> Sky:
    """Write shards of twenty drawings, each so many times."""
    drawn = write_labeled_shard(folder / "drawn.parquet", dict.fromkeys(CLASSES, 4))
    table = pa.concat_tables([pq.read_table(drawn)] * copies)
    sky = Sky(folder / "sky", drawn, shards, table.num_rows)
    sky.folder.mkdir()
    for index, name in enumerate(sky.names):
        pq.write_table(table.set_column(0, "object_id", pa.array(sky.ids(index))), sky.folder / name)
    return sky


def parts(catalog: Path) -> set[str]:
    """Names of the parts that are there."""
    return {path.name for path in catalog.glob("*.parquet")}


def read(catalog: Path) -> pd.DataFrame:
    """All rows of a catalog, in the order of its parts."""
    return pd.concat([pd.read_parquet(catalog / name) for name in sorted(parts(catalog))], ignore_index=True)


def expected_rows(sky: Sky, drawn: pd.DataFrame) -> pd.DataFrame:
    """The rows that a catalog of a sky must have, by those of the drawings."""
    ids = np.concatenate([sky.ids(index) for index in range(sky.shards)])
    rows = pd.concat([drawn] * (len(ids) // len(drawn)), ignore_index=True)
    return rows.assign(object_id=ids)


def classify_under_fire(
    model: str, sky: Sky, folder: Path, kinds: Sequence[str], rng: np.random.Generator
) -> list[Path]:
    """Classify a sky, killing what is named, each at a random moment in the midst of the work.

    Returns
    -------
    list of Path
        Catalogs below the folder. What is fast is done before all are killed, and goes on with another.

    Raises
    ------
    TimeoutError
        If for `PATIENCE` there was no new part, or no worker to kill.
    """
    catalogs, most = [folder / "catalog-0"], sky.shards * 2 // 3
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        victims = _Victims(cluster, ["classify", model, str(sky.folder), str(catalogs[0])])
        for kind in kinds:
            before, more = len(parts(catalogs[-1])), int(rng.integers(1, 6))
            until = time.monotonic() + PATIENCE
            while (done := len(parts(catalogs[-1]))) < before + more or done > most:
                if time.monotonic() > until:
                    raise TimeoutError(f"no new part in {catalogs[-1]}; a {kind} was to be killed next")
                if done > most:
                    victims.finish()
                    catalogs.append(folder / f"catalog-{len(catalogs)}")
                    victims.turn_to(catalogs[-1])
                    before, until = 0, time.monotonic() + PATIENCE
                victims.restart_if_ended()
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.3))
            victims.kill(kind, rng)
        victims.finish()
    finally:
        cluster.shutdown()
    return catalogs


class _Victims:
    """Two worker nodes of a cluster, a driver, and ways to kill each."""

    def __init__(self, cluster: Cluster, command: list[str]) -> None:
        self._cluster, self._command = cluster, command
        self._nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        self._driver = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return hiwl(*self._command, RAY_ADDRESS=self._cluster.address)

    def restart_if_ended(self) -> None:
        """Start the driver again if it ended since a shard was killed too often, and was set aside."""
        code = self._driver.poll()
        if code == 1:
            self._driver = self._start()
        elif code:
            raise RuntimeError(f"exit code {code}: {self._driver.communicate()[0]}")

    def finish(self) -> None:
        """Let the driver come to its end, and start it again as long as shards are set aside."""
        while self._driver.wait(timeout=PATIENCE):
            self.restart_if_ended()

    def turn_to(self, catalog: Path) -> None:
        """Begin another catalog, after the one that is whole."""
        self._command[-1] = str(catalog)
        self._driver = self._start()

    def kill(self, kind: str, rng: np.random.Generator) -> None:
        if kind == "driver":
            self._driver.kill()
            self._driver.wait()
            self._driver = self._start()
        elif kind == "node":
            node = self._nodes.pop(int(rng.integers(len(self._nodes))))
            self._cluster.remove_node(node, allow_graceful=False)
            self._nodes.append(self._cluster.add_node(num_cpus=2))
        else:
            # For a moment there may be none: a driver that was just started again has no worker yet.
            until = time.monotonic() + PATIENCE
            while not (workers := self._workers()):
                if time.monotonic() > until:
                    raise TimeoutError("no worker to kill")
                self.restart_if_ended()
                time.sleep(0.02)
            workers[int(rng.integers(len(workers)))].kill()

    def _workers(self) -> list[psutil.Process]:
        raylets = [node.all_processes["raylet"][0].process.pid for node in self._nodes]
        return [worker for raylet in raylets for worker in classifying(raylet)]
