"""The stored plan of an ingest: from a stream in any order, kept across kills, refused for another source."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.ingestion.folder import IngestFolder
from pipeline.ingestion.ingest import ingest
from pipeline.ingestion.ingest_options import IngestOptions
from pipeline.ingestion.ingest_plan import make_plan
from pipeline.ingestion.shard_plan import IngestPlan, read_objects
from pipeline.ingestion.source import Listing
from pipeline.shards.cutout_shards import Columns
from pipeline.storage import Entry
from tests.conftest import kill_driver
from tests.drawings import draw_galaxy
from tests.object_store import ObjectStore

JPEG = draw_galaxy("EO", 0, size=16)


class ShuffledListing(Listing):
    """A source whose storage lists it in another order each time."""

    def __init__(self, place: str, out: str, seed: int) -> None:
        super().__init__(place, out)
        self._seed = seed

    def _entries(self) -> Iterator[Entry]:
        entries = list(super()._entries())
        random.Random(self._seed).shuffle(entries)
        yield from entries


def images_in(folder: Path, count: int, content: bytes = JPEG) -> Path:
    folder.mkdir(parents=True)
    for name in range(count):
        (folder / f"{1000 + name}.jpg").write_bytes(content)
    return folder


def plan_of(
    listing: Listing, out: Path, labels: str | None = None, rows: int = 7
) -> tuple[IngestPlan, list[pa.Table]]:
    options = IngestOptions(labels=labels, shard_rows=rows)
    plan, _ = make_plan(listing, options, IngestFolder(str(out)))
    return plan, [read_objects(f"{out}/_ingest/{plan.objects}", shard.number) for shard in plan.shards()]


def test_the_order_of_the_listing_does_not_matter(tmp_path: Path) -> None:
    source = images_in(tmp_path / "images" / "b", 150).parent
    images_in(source / "a", 0)
    (source / "a" / "7.png").write_bytes(JPEG)
    table = tmp_path / "labels.csv"
    rows = [f"{name},{'EO,val' if name % 3 else 'CSS,train'},{name}.5" for name in range(1000, 1140)]
    table.write_text("\n".join(["id,class,split,ra", *rows]))
    listed = [ShuffledListing(str(source), "/elsewhere", seed) for seed in range(3)]
    plans = [plan_of(one, tmp_path / str(seed), str(table)) for seed, one in enumerate(listed)]
    assert plans[0] == plans[1] == plans[2]
    plan, shards = plans[0]
    # More than one segment of the plan, and the last of each series is what is left.
    assert plan.series == {"train": [7] * 6 + [4], "val": [7] * 13 + [3], "unlabeled": [7, 4]}
    assert [shard.name for shard in plan.shards()][7] == "val-00000-of-00014.parquet"
    objects = pa.concat_tables(shards)
    assert objects["object_id"].to_pylist()[:2] == [1002, 1005]
    assert objects["ra"].to_pylist()[:2] == [1002.5, 1005.5]
    files = objects["file"].to_pylist()
    assert files[-11:] == [f"{source}/a/7.png", *(f"{source}/b/{name}.jpg" for name in range(1140, 1150))]
    state = os.stat(files[0])
    assert objects["mark"][0].as_py() == f"{state.st_size:x}-{state.st_mtime_ns:x}"
    assert objects["size"][0].as_py() == len(JPEG)


def test_a_changed_source_is_refused(tmp_path: Path) -> None:
    source, out = images_in(tmp_path / "images", 3), tmp_path / "out"
    plan_of(Listing(str(source), str(out)), out, rows=4096)
    content = (out / "_ingest" / "plan.json").read_bytes()
    one = source / "1001.jpg"
    state = os.stat(one)

    def refused(match: str, **options: object) -> None:
        with pytest.raises(UserError, match=match) as caught:
            ingest(str(source), str(out), IngestOptions(**options))  # type: ignore[arg-type]
        assert "another plan" in str(caught.value)
        assert "choose another folder" in str(caught.value)
        assert "\n" not in str(caught.value)

    one.write_bytes(JPEG + b"x")
    os.utime(one, ns=(state.st_atime_ns, state.st_mtime_ns))
    refused("have changed .other names, sizes or dates")
    one.write_bytes(JPEG)
    refused("have changed")
    one.rename(source / "1009.jpg")
    refused("have changed")
    (source / "1009.jpg").rename(one)
    os.utime(one, ns=(state.st_atime_ns, state.st_mtime_ns))
    (source / "1004.jpg").write_bytes(JPEG)
    refused("3 images then, 4 now")
    (source / "1004.jpg").unlink()
    refused("--name is not the same .'cutouts' there, now 'other'", name="other")
    refused("column of image is not the same", columns=Columns(image="jpeg"))
    table = tmp_path / "labels.csv"
    table.write_text("id,class\n1000,EO\n")
    refused("--labels is not the same", labels=str(table))
    images_in(tmp_path / "others", 3)
    with pytest.raises(UserError, match="it is from .*images, not from .*others"):
        ingest(str(tmp_path / "others"), str(out))
    assert (out / "_ingest" / "plan.json").read_bytes() == content
    assert not list(out.glob("*.parquet"))


def test_what_ingest_did_not_make_is_not_overwritten(tmp_path: Path, object_store: ObjectStore) -> None:
    source = images_in(tmp_path / "images", 1)
    for place in (str(tmp_path / "out"), f"{object_store.url}/foreign"):
        for name in ("rejects.csv", "deep/table.parquet", "_catalog.json", "_ingest/plan.json"):
            storage.write_bytes(f"{place}/{name}", b"mine")
            with pytest.raises(UserError, match="choose another folder, or remove"):
                ingest(str(source), place)
            assert storage.read_bytes(f"{place}/{name}") == b"mine"
            storage.remove(f"{place}/{name}")
        assert not storage.list_files(place)
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    for place in (str(file), f"file://{file}"):
        with pytest.raises(UserError, match="is a file: choose a folder"):
            ingest(str(source), place)
    assert file.read_bytes() == b"mine"


@pytest.mark.usefixtures("ray_session")
def test_from_s3_to_s3_on_ray(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ingestion.ingest.FEW_IMAGES", 0)
    source, out = f"{object_store.url}/sky", f"{object_store.url}/packed"
    for name in range(20):
        storage.write_bytes(f"{source}/{name % 3}/{name}.jpg", JPEG if name else b"text")
    first = ingest(source, out, IngestOptions(shard_rows=4))
    assert (first.rows, first.shards, first.unreadable) == (19, 5, 1)
    assert storage.read_bytes(f"{out}/rejects.csv").decode().splitlines() == [
        "object_id,file,reason",
        f'0,{source}/0/0.jpg,"not a JPEG, PNG or FITS image"',
    ]
    storage.remove(f"{out}/cutouts-00002-of-00005.parquet")
    again = ingest(source, out, IngestOptions(shard_rows=4))
    assert (again.rows, again.resumed) == (19, 4)
    storage.write_bytes(f"{source}/2/2.jpg", JPEG + b"x")
    with pytest.raises(UserError, match="have changed"):
        ingest(source, out, IngestOptions(shard_rows=4))


def test_rejects_are_gathered_from_the_shards(tmp_path: Path) -> None:
    source, out = images_in(tmp_path / "images", 40, b"text"), tmp_path / "out"
    (source / "1020.jpg").write_bytes(JPEG)
    (source / 'odd "name", with\nlines.jpg').write_bytes(b"")
    table = tmp_path / "labels.csv"
    table.write_text("id,class\n1020,EO\n77,EO\n")
    summary = ingest(str(source), str(out), IngestOptions(str(table), shard_rows=9))
    with (out / "rejects.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["object_id", "file", "reason"]
    assert summary.rejects == rows[1:11]
    assert (summary.unreadable, summary.without_image) == (40, 1)
    names = [str(name) for name in range(1000, 1040) if name != 1020]
    assert [row[0] for row in rows[1:]] == [*names, 'odd "name", with\nlines', "77"]
    assert rows[-2][1] == f'{source}/odd "name", with\nlines.jpg'
    # The records, which the driver reads, only count them.
    records = [json.loads(path.read_text()) for path in out.glob("_ingest/unlabeled-*.json")]
    assert sorted(record["rejects"] for record in records) == [4, 9, 9, 9, 9]


INGEST = """
import sys
from pipeline.ingestion.ingest import ingest
from pipeline.ingestion.ingest_options import IngestOptions

ingest(*sys.argv[1:3], IngestOptions(shard_rows=2))
"""


@pytest.mark.slow
def test_a_killed_ingest_goes_on_with_its_plan(ray_session: None, tmp_path: Path) -> None:
    source, out = images_in(tmp_path / "images", 1000), tmp_path / "out"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(
        [sys.executable, "-c", INGEST, str(source), str(out)],
        env=environment,
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
    ) as first:
        deadline = time.monotonic() + 400
        while not list(out.glob("*.parquet")):
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        kill_driver(first)
    kept = [*out.glob("*.parquet"), *out.glob("_ingest/plan-*/*"), out / "_ingest" / "plan.json"]
    times = {path: path.stat().st_mtime_ns for path in kept}
    done = len(list(out.glob("*.parquet")))
    assert 1 <= done < 500
    summary = ingest(str(source), str(out), IngestOptions(shard_rows=2))
    assert (summary.rows, summary.shards, summary.resumed) == (1000, 500, done)
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    ids = [
        name
        for path in sorted(out.glob("*.parquet"))
        for name in pq.read_table(path)["object_id"].to_pylist()
    ]
    assert ids == list(range(1000, 2000))


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    source = images_in(tmp_path / "images", 2)
    (source / os.fsdecode(b"\xff\n.jpg")).write_bytes(JPEG)
    with pytest.raises(UserError, match=r"the name of the file '.*udcff.n.jpg' is not UTF-8"):
        plan_of(Listing(str(source), ""), tmp_path / "out")


def test_a_plan_that_was_not_finished_is_made_anew(tmp_path: Path) -> None:
    source, out = images_in(tmp_path / "images", 40), tmp_path / "out"
    plan_of(Listing(str(source), str(out)), out, rows=1)
    (out / "_ingest" / "plan.json").unlink()
    assert len(list(out.glob("_ingest/plan-*/*.parquet"))) == 3
    assert IngestFolder(str(out)).read_plan() is None
    plan, shards = plan_of(Listing(str(source), str(out)), out, rows=20)
    assert plan.series == {"cutouts": [20, 20]}
    # What was planned before is gone.
    assert [len(list(one.glob("*.parquet"))) for one in out.glob("_ingest/plan-*")] == [1]
    assert [len(shard) for shard in shards] == [20, 20]


def test_packing_does_not_load_the_networks() -> None:
    # PyTorch takes 600 MB and seconds, in the driver and in each worker.
    code = "import sys, pipeline.ingestion.ingest; print('torch' in sys.modules, 'astropy' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.split() == ["False", "False"]
