"""The stream of Ray Data that classifies: who takes part, what it does when its workers fail."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray

from hiwl_core.errors import IncompleteError
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.manifest import CatalogPlan
from pipeline.classification.attempts import Attempts, Verdict, start_attempts
from pipeline.classification.cascade_stage import entries_of
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.catalog_plan import plan_catalog
from pipeline.classification.computing import Computing
from pipeline.classification.shard_classifier import read_bundle
from pipeline.classification.shard_stream import classify_shards, shard_stream, waited_for
from pipeline.classification.shard_work import CatalogWork
from pipeline.classification.stage_actors import StageActors
from pipeline.cluster import ClusterResources, ordered_streams
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.inspection import WantedColumns
from pipeline.shards.shard_groups import ShardToRead
from pipeline.waiting import waiting_lines
from tests.drawings import write_labeled_shard
from tests.stand_in_stages import HopelessStage, PoisonedStage, SickStage

ONE, TWO = StageActors(2, 0, 1, 1), StageActors(1, 0, 2, 2)
# A CPU beside the worker's, for a task that reads.
FED = StageActors(2, 0, 1, 1, fed=True)


@pytest.mark.parametrize(
    ("cluster", "gpu", "taken"),
    [
        (ClusterResources(cpus=8, gpus=0), None, (2, 0, 4)),
        (ClusterResources(cpus=1, gpus=0), None, (1, 0, 1)),
        # One GPU's images are decoded by its share of the cores, up to as many as it can use.
        (ClusterResources(cpus=24, gpus=2, cpus_a_gpu=4), None, (4, 1, 2)),
        (ClusterResources(cpus=128, gpus=2, cpus_a_gpu=64), None, (12, 1, 2)),
        (ClusterResources(cpus=24, gpus=2, cpus_a_gpu=4), False, (2, 0, 12)),
        # Nothing yet: an autoscaled cluster.
        (ClusterResources(cpus=0, gpus=0), True, (2, 1, 0)),
    ],
)
def test_what_an_actor_takes(
    cluster: ClusterResources, gpu: bool | None, taken: tuple[int, int, int]
) -> None:
    actors = StageActors.on(cluster, Computing(gpu=gpu))
    assert (actors.cpus, actors.gpus, actors.room) == taken


def test_tries_of_a_shard_are_bounded() -> None:
    attempts = Attempts()
    # Two deaths of a group, then four of each shard by itself.
    assert [attempts.may_read(["a", "b"]) for _ in range(3)] == [True, True, False]
    assert [attempts.begin("a") for _ in range(4)] == [Verdict()] * 4
    assert "died 4 times" in attempts.begin("a").give_up
    assert attempts.begin("b") == Verdict()
    done = LedgerEntry("b.parquet", "")
    attempts.end("b", done)
    assert attempts.begin("b") == Verdict(done)
    attempts.forget(["a", "b"], any_done=True)
    assert attempts.may_read(["a", "b"])
    # A shard by itself has four in all, however it is read.
    assert [attempts.may_read(["c"]) for _ in range(3)] == [True, True, False]
    assert [bool(attempts.begin("c").give_up) for _ in range(3)] == [False, False, True]


def test_what_raises_in_two_processes_is_given_up_and_if_nothing_else_comes_so_is_all() -> None:
    attempts = Attempts()
    for shard in "abc":
        attempts.may_read([shard])
        attempts.raised([shard], "CUDA error")
        assert attempts.begin(shard) == Verdict()
        attempts.raised([shard], "CUDA error")
    assert attempts.begin("a") == attempts.begin("b") == Verdict(give_up="CUDA error")
    assert attempts.begin("c") == Verdict(hopeless="CUDA error")
    attempts.end("d", LedgerEntry("d.parquet", ""))
    assert attempts.begin("c") == Verdict(give_up="CUDA error")


def planned(bundle: str, folder: Path, shards: int, model_id: str = "") -> tuple[CatalogWork, CatalogPlan]:
    """The plan of a catalog of so many small shards."""
    for index in range(shards):
        write_labeled_shard(folder / "sky" / f"{index:02d}.parquet", {"CRS": 2, "EO": 1}, first_id=10 * index)
    catalog, model_id = str(folder / "catalog"), model_id or read_bundle(bundle).model_id
    settings = CatalogContents().to_settings(Columns())
    wanted = WantedColumns(Columns(), ["object_id"])
    plan = plan_catalog(catalog, str(folder / "sky"), model_id, lambda *_: settings, wanted)
    return CatalogWork(bundle, model_id, plan.settings, catalog), plan


@pytest.mark.usefixtures("ray_session")
def test_one_operator_reads_and_classifies_in_a_context_of_its_own(random_model: str, tmp_path: Path) -> None:
    work, plan = planned(random_model, tmp_path, 3)
    shards = [ShardToRead(one.shard, one.size, one.rows, one.fingerprint) for one in plan.shards.values()]
    attempts = start_attempts()
    ordered = ordered_streams()
    with ray.data.DataContext.current(ordered):
        stream = shard_stream(work, shards, ONE, attempts)
    facts = list(stream.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert [entry.part for table in facts for entry in entries_of(table)] == list(plan.shards)
    assert "ReadShards->MapBatches(CascadeStage)" in stream.stats()
    assert not stream.context.execution_options.preserve_order
    assert ordered.execution_options.preserve_order
    assert ordered.target_max_block_size is not None
    ray.kill(attempts)


@pytest.mark.usefixtures("ray_session")
def test_who_waits_for_a_node_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.waiting.SECONDS_BETWEEN_LINES", 0.05)
    attempts = start_attempts()
    with waiting_lines(partial(waited_for, attempts, StageActors(12, 1, 0, None, fed=True))):
        while not (said := capsys.readouterr().err):
            time.sleep(0.05)
        ray.get(attempts.may_classify.remote(["a"]))
        # The line that it may be about to say now is the last.
        time.sleep(1)
        capsys.readouterr()
        time.sleep(0.5)
    assert "each wants 12 CPUs and 1 GPU of a node" in said
    assert "nothing is read yet: that wants 1 CPU of a node" in said
    assert capsys.readouterr().err == ""
    ray.kill(attempts)


@pytest.mark.usefixtures("ray_session")
def test_actors_that_cannot_begin_end_the_classification(
    random_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each loads PyTorch before it finds that it cannot.
    monkeypatch.setattr("pipeline.classification.shard_stream.MAX_DEATHS", 1)
    # As if the bundle had been changed since the catalog was planned.
    work, plan = planned(random_model, tmp_path, 1, "another")
    with pytest.raises(IncompleteError, match=r"broke off .* not another.*start the same command again"):
        list(classify_shards(work, list(plan.shards.values()), TWO))
    assert not list((tmp_path / "catalog").glob("*.parquet"))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_very_many_full_shards_share_tasks_and_each_has_its_part(random_model: str, tmp_path: Path) -> None:
    work, plan = planned(random_model, tmp_path, 41)
    full = [replace(shard, rows=4096) for shard in plan.shards.values()]
    entries = list(classify_shards(work, full, ONE))
    assert sorted(entry.part for entry in entries) == list(plan.shards)
    for shard in full:
        ids = pq.read_table(tmp_path / "catalog" / shard.part, columns=["object_id"])
        assert ids.equals(pq.read_table(shard.shard, columns=["object_id"]))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_process_that_raises_for_ever_costs_no_shard(random_model: str, tmp_path: Path) -> None:
    work, plan = planned(random_model, tmp_path, 16)
    entries = list(classify_shards(work, list(plan.shards.values()), TWO, SickStage))
    assert sorted(entry.part for entry in entries) == list(plan.shards)
    assert not any(entry.failed for entry in entries)
    for entry in entries:
        assert pq.read_metadata(tmp_path / "catalog" / entry.part).num_rows == 3
    # It raised once and was gone.
    assert len((tmp_path / "sickness.log").read_text().split()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("actors", [TWO, FED], ids=["alone", "fed"])
def test_a_shard_over_which_workers_die_is_named_after_four_deaths(
    random_model: str, tmp_path: Path, actors: StageActors
) -> None:
    work, plan = planned(random_model, tmp_path, 3)
    entries = {e.part: e for e in classify_shards(work, list(plan.shards.values()), actors, PoisonedStage)}
    assert sorted(entries) == list(plan.shards)
    failed = {part: entry.failed for part, entry in entries.items() if entry.failed}
    died = f"{tmp_path}/sky/01.parquet: its worker died 4 times, for lack of memory perhaps"
    assert failed == {"01.parquet": died}
    deaths = (tmp_path / "deaths").read_text().split()
    assert len(deaths) == len(set(deaths)) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_if_nothing_can_be_classified_anywhere_that_is_one_line(random_model: str, tmp_path: Path) -> None:
    work, plan = planned(random_model, tmp_path, 8)
    with pytest.raises(IncompleteError, match=r"no shard can be classified.*illegal memory access") as raised:
        list(classify_shards(work, list(plan.shards.values()), TWO, HopelessStage))
    assert "\n" not in str(raised.value)
    processes = (tmp_path / "sickness.log").read_text().split()
    assert 6 <= len(processes) == len(set(processes)) <= 12
