"""What a catalog is worth when things die: the driver, a worker, a whole node, again and again."""

import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from pipeline.catalog.verify import verify
from tests.conftest import classifying, hiwl
from tests.drawings import CLASSES, write_labeled_shard

KILLS = 20
SHARDS = 300
# Parts that must be missing for a kill to come in the midst of the work.
ENOUGH_TO_KILL = 100
PATIENCE = 180.0


def parts(catalog: Path) -> set[str]:
    return {path.name for path in catalog.glob("*.parquet")}


def read(catalog: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(catalog / name) for name in sorted(parts(catalog))], ignore_index=True)


def shard_name(index: int) -> str:
    return f"sky-{index:05d}-of-{SHARDS:05d}.parquet"


class Victims:
    """A Ray cluster of two worker nodes, a driver, and ways to kill each."""

    def __init__(self, cluster: Cluster, command: list[str]) -> None:
        self.cluster, self.command = cluster, command
        self.nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
        self.driver = self.start()

    def start(self) -> subprocess.Popen[str]:
        return hiwl(*self.command, RAY_ADDRESS=self.cluster.address)

    def restart_if_ended(self) -> None:
        # A driver may end by itself, with exit code 1: a shard was killed too often and was set aside.
        if self.driver.poll() is not None:
            assert self.driver.returncode == 1, self.driver.communicate()[0]
            self.driver = self.start()

    def finish(self) -> None:
        """Let the driver come to its end, and start it again as long as shards are set aside."""
        while (code := self.driver.wait(timeout=PATIENCE)) != 0:
            assert code == 1
            self.driver = self.start()

    def turn_to(self, catalog: Path) -> None:
        """Begin another catalog, after the one that is whole."""
        self.finish()
        self.command[-1] = str(catalog)
        self.driver = self.start()

    def kill(self, victim: str, rng: np.random.Generator) -> None:
        if victim == "driver":
            self.driver.kill()
            self.driver.wait()
            self.driver = self.start()
        elif victim == "node":
            node = self.nodes.pop(int(rng.integers(len(self.nodes))))
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=2))
        else:
            # For a moment there may be none: a driver that was just started again has no worker yet.
            until = time.monotonic() + PATIENCE
            while not (workers := self.workers()):
                assert time.monotonic() < until, "no worker to kill"
                self.restart_if_ended()
                time.sleep(0.02)
            workers[int(rng.integers(len(workers)))].kill()

    def workers(self) -> list[psutil.Process]:
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.nodes]
        return [worker for raylet in raylets for worker in classifying(raylet)]


@pytest.mark.slow
def test_a_shard_that_kills_its_worker_is_set_aside_and_named(random_model: str, tmp_path: Path) -> None:
    write_labeled_shard(tmp_path / "sky" / "a.parquet", {"CRS": 5})
    # Too large to be sent to a worker together with the other, which must not share its fate.
    large = pa.concat_tables([pq.read_table(tmp_path / "sky" / "a.parquet")] * 1600)
    ids = pa.array(np.arange(100, 100 + large.num_rows))
    pq.write_table(large.set_column(0, "object_id", ids), tmp_path / "sky" / "b.parquet")
    catalog = tmp_path / "catalog"
    process = hiwl("classify", random_model, str(tmp_path / "sky"), str(catalog))
    killed: set[int] = set()
    first_seen: dict[int, float] = {}
    until = time.monotonic() + PATIENCE
    while process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.05)
        for worker in classifying(process.pid) if parts(catalog) == {"a.parquet"} else []:
            # Ray names a process by what it does: one that has begun is soon at work on the shard.
            if worker.pid not in killed and "__init__" not in " ".join(worker.cmdline()):
                now = time.monotonic()
                if now - first_seen.setdefault(worker.pid, now) > 0.5:
                    worker.kill()
                    killed.add(worker.pid)
    output = process.communicate()[0]
    assert process.returncode == 1
    assert f"{tmp_path}/sky/b.parquet: its worker died 4 times" in output
    assert "1 of 2 shards are not in the catalog" in output
    # A try begins a moment after its worker: one that died before is not counted.
    assert 4 <= len(killed) <= 6
    assert parts(catalog) == {"a.parquet"}
    assert hiwl("classify", random_model, str(tmp_path / "sky"), str(catalog)).wait(timeout=PATIENCE) == 0
    assert verify(str(catalog)).passed


@pytest.mark.slow
def test_twenty_kills_of_drivers_workers_and_nodes_change_nothing(random_model: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(20)
    write_labeled_shard(tmp_path / "drawn.parquet", dict.fromkeys(CLASSES, 4))
    drawn = pq.read_table(tmp_path / "drawn.parquet")
    (tmp_path / "sky").mkdir()
    for index in range(SHARDS):
        ids = pa.array(1000 * index + np.arange(drawn.num_rows))
        pq.write_table(drawn.set_column(0, "object_id", ids), tmp_path / "sky" / shard_name(index))
    catalog = tmp_path / "catalog"
    catalogs = [catalog]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    killed: Counter[str] = Counter()
    try:
        victims = Victims(cluster, ["classify", random_model, str(tmp_path / "sky"), str(catalog)])
        for number in range(KILLS):
            victim = ("worker", "node", "driver", "worker")[number % 4]
            more = int(rng.integers(1, 6))
            before, until = len(parts(catalog)), time.monotonic() + PATIENCE
            while len(parts(catalog)) < before + more:
                assert time.monotonic() < until, f"no progress after {dict(killed)}"
                if len(parts(catalog)) > SHARDS - ENOUGH_TO_KILL:
                    # A fast machine is done before all are killed: it goes on with another catalog.
                    catalogs.append(catalog := tmp_path / f"catalog-{len(catalogs)}")
                    victims.turn_to(catalog)
                    before = 0
                victims.restart_if_ended()
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.3))
            assert len(parts(catalog)) < SHARDS, "too few shards for so many kills"
            victims.kill(victim, rng)
            killed[victim] += 1
        victims.finish()
    finally:
        cluster.shutdown()
    assert killed == {"worker": 10, "node": 5, "driver": 5}
    # The shards hold the same galaxies under ids of their own: what one gives undisturbed, all must give.
    alone = tmp_path / "alone"
    assert hiwl("classify", random_model, str(tmp_path / "drawn.parquet"), str(alone)).wait(PATIENCE) == 0
    of_one = read(alone)
    ids = [1000 * index + np.arange(len(of_one)) for index in range(SHARDS)]
    expected = pd.concat([of_one] * SHARDS, ignore_index=True).assign(object_id=np.concatenate(ids))
    for catalog in catalogs:
        result = verify(str(catalog))
        assert result.passed, result.findings
        assert result.rows == SHARDS * 20
        assert parts(catalog) == {shard_name(index) for index in range(SHARDS)}
        # Not bit by bit: the networks' last digits depend on how many threads they were granted.
        pd.testing.assert_frame_equal(read(catalog), expected, rtol=1e-4, atol=1e-5)
