"""Which nodes read and decode for the workers that classify, and that it makes no difference to a catalog."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from hiwl_core.cutout_reader import CutoutReader
from hiwl_core.cutouts import ReadCutout
from hiwl_core.errors import UserError
from pipeline.catalog.ledger import LedgerEntry
from pipeline.classification.attempts import Attempts, start_attempts
from pipeline.classification.cascade_stage import entries_of
from pipeline.classification.classify import classify
from pipeline.classification.computing import Computing
from pipeline.classification.seen_rows import images_of, with_seen
from pipeline.classification.shard_classifier import read_bundle
from pipeline.classification.shard_stream import shard_stream
from pipeline.classification.stage_actors import StageActors
from pipeline.cluster import ClusterResources
from pipeline.cutouts.position_shards import Positions
from pipeline.shards.cutout_shards import Columns, iter_rows
from pipeline.shards.shard_groups import ShardToRead
from pipeline.shards.wanted_scale import AS_IT_IS, WantedScale
from tests.broken_inputs import fits_file
from tests.drawings import draw_galaxy
from tests.pipeline.test_shard_stream import FED, planned

# Two nodes with two GPUs and eight CPUs each, and twelve CPUs elsewhere: what the workers would leave idle.
MIXED = ClusterResources(cpus=28, gpus=4, cpus_a_gpu=4, cpus_without_gpu=12)


@pytest.mark.parametrize(
    ("cluster", "gpu", "decode_on", "fed", "cpus"),
    [
        (MIXED, None, "auto", True, 3),
        (MIXED, None, "gpu-nodes", False, 4),
        (MIXED, False, "auto", False, 2),
        (replace(MIXED, cpus_without_gpu=11), None, "auto", False, 4),
        (replace(MIXED, cpus_without_gpu=0), None, "all-nodes", True, 3),
        (replace(MIXED, cpus_a_gpu=1), None, "auto", False, 1),
        # More than a worker uses is there anyway.
        (ClusterResources(cpus=128, gpus=2, cpus_a_gpu=64), None, "all-nodes", True, 12),
        # Nothing yet: an autoscaled cluster starts what is asked for.
        (ClusterResources(cpus=0, gpus=0), True, "auto", False, 2),
        (ClusterResources(cpus=0, gpus=0), True, "all-nodes", True, 1),
    ],
)
def test_who_decodes(
    cluster: ClusterResources, gpu: bool | None, decode_on: str, fed: bool, cpus: int
) -> None:
    actors = StageActors.on(cluster, Computing(gpu=gpu, decode_on=decode_on))
    assert (actors.fed, actors.cpus) == (fed, cpus)
    # What reads for the workers of a node finds a CPU there whatever becomes of the other nodes.
    assert not fed or not cluster.gpus or actors.cpus < cluster.cpus_a_gpu


@pytest.mark.parametrize(
    ("cluster", "gpu", "said"),
    [
        (MIXED, False, "no worker takes a GPU, so that all nodes decode anyway"),
        (ClusterResources(cpus=8, gpus=0), None, "no worker takes a GPU"),
        (replace(MIXED, cpus_a_gpu=1), None, "has one CPU for each, and none to read with"),
    ],
)
def test_workers_that_could_wait_for_ever_are_refused(
    cluster: ClusterResources, gpu: bool | None, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        StageActors.on(cluster, Computing(gpu=gpu, decode_on="all-nodes"))


def test_who_cuts_from_tiles_is_not_fed(random_model: str, tmp_path: Path) -> None:
    tiles, catalog = str(tmp_path / "tiles"), str(tmp_path / "catalog")
    with pytest.raises(UserError, match="cuts from tiles itself, leave the option out"):
        classify(
            random_model,
            tiles,
            catalog,
            computing=Computing(decode_on="all-nodes"),
            positions=Positions("sky.parquet", ()),
        )
    assert not list(tmp_path.iterdir())


def test_tries_of_a_group_that_others_read_are_bounded() -> None:
    attempts = Attempts(fed=True)
    assert attempts.may_read(["a", "b"])
    assert attempts.any_begun() == (True, False)
    # The try that reading began, and one more of what was read.
    assert [attempts.may_classify(["a", "b"]) for _ in range(3)] == [True, True, False]
    assert attempts.any_begun() == (True, True)
    # What was lost with its node is read again, unless that too was tried before.
    assert [attempts.may_read(["c", "d"]) for _ in range(3)] == [True, True, False]
    attempts.forget(["a", "b"], any_done=True)
    assert attempts.may_read(["a", "b"])


def write_mixed_shard(path: Path) -> list[bytes | None]:
    """Images of all kinds, two of them broken."""
    random = np.random.default_rng(1)
    planes = random.normal(0, 1, (3, 70, 70)).astype(">f4")
    planes[:, 30:40, 30:40] += 20
    hole = planes.copy()
    hole[1, 5:20] = np.nan
    whole = fits_file(planes)
    images = [whole, draw_galaxy("EO", 1), fits_file(hole), whole[:3000], None, b"no image", whole]
    table = pa.table(
        {
            # The last is there twice.
            "object_id": pa.array([*range(1000, 1006), 1000], pa.int64()),
            "image": pa.array(images, pa.binary()),
            "pixel_scale": pa.array([0.4] * len(images), pa.float32()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return images


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("scale", [AS_IT_IS, WantedScale(0.3)])
def test_an_image_that_was_decoded_elsewhere_is_seen_as_any(
    random_model: str, tmp_path: Path, scale: WantedScale, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = write_mixed_shard(tmp_path / "mixed.parquet")
    (table,) = iter_rows(
        str(tmp_path / "mixed.parquet"), Columns(), ["object_id", "image", "pixel_scale"], []
    )
    reader = CutoutReader.of(read_bundle(random_model))
    expected = [reader.read(image) for image in scale.cutouts(table)]
    there = images_of(with_seen(table, ray.put(reader), scale), scale)
    # Plain pictures are as they were; of what is resampled none is plain.
    assert [isinstance(image, ReadCutout) for image in there] == [
        image is not None and (scale.asked or image not in images[1:2]) for image in images
    ]
    for image, wanted in zip(there, expected, strict=True):
        read = reader.read(image)
        assert (read.status, read.zoom, read.unobserved) == (wanted.status, wanted.zoom, wanted.unobserved)
        assert (read.pixels is None) == (wanted.pixels is None)
        assert all(map(np.array_equal, read.pixels or (), wanted.pixels or ()))
    # What has no room goes as it is.
    monkeypatch.setattr("pipeline.classification.seen_rows.MOST_SEEN_BYTES", 1)
    there = images_of(with_seen(table, ray.put(reader), scale), scale)
    assert sum(isinstance(image, ReadCutout) for image in there) == 1


@pytest.mark.usefixtures("ray_session")
def test_other_tasks_read_for_the_workers_and_the_catalog_is_the_same(
    random_model: str, tmp_path: Path
) -> None:
    write_mixed_shard(tmp_path / "sky" / "mixed.parquet")
    work, plan = planned(random_model, tmp_path, 4)
    work = work._replace(reader=CutoutReader.of(read_bundle(random_model)))
    shards = [ShardToRead(one.shard, one.size, one.rows, one.fingerprint) for one in plan.shards.values()]
    entries: dict[bool, dict[str, LedgerEntry]] = {}
    for fed in (False, True):
        folder = tmp_path / str(fed)
        folder.mkdir()
        attempts = start_attempts(fed)
        stream = shard_stream(work._replace(folder=str(folder)), shards, replace(FED, fed=fed), attempts)
        facts = list(stream.iter_batches(batch_size=None, batch_format="pyarrow"))
        assert ("->MapBatches(CascadeStage)" in stream.stats()) == (not fed)
        assert ("ReadShards->MapBatches(with_seen)" in stream.stats()) == fed
        entries[fed] = {entry.part: entry for table in facts for entry in entries_of(table)}
        ray.kill(attempts)
    assert list(entries[False]) == list(plan.shards)
    assert entries[True].keys() == entries[False].keys()
    for part, entry in entries[True].items():
        alone, together = (pq.read_table(tmp_path / str(fed) / part) for fed in (False, True))
        assert together.equals(alone, check_metadata=True)
        assert entry.content == entries[False][part].content


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("fed", [False, True])
def test_a_stream_for_workers_with_gpus_can_be_made(random_model: str, tmp_path: Path, fed: bool) -> None:
    work, plan = planned(random_model, tmp_path, 1)
    shards = [ShardToRead(one.shard, one.size, one.rows, one.fingerprint) for one in plan.shards.values()]
    # Ray Data looks at what is asked for, and raises, before there is a GPU.
    shard_stream(work, shards, StageActors(2, 1, 1, 1, fed=fed), None)
