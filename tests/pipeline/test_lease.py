"""One run at a time writes a folder: claims at the same moment, given back, and left by the dead."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from hiwl_core.errors import IncompleteError, UserError
from pipeline import lease as lease_module
from pipeline import storage
from pipeline.catalog.manifest import CatalogPlan, claim_catalog, read_plan
from pipeline.classification.catalog_contents import CatalogContents
from pipeline.classification.catalog_plan import plan_catalog
from pipeline.lease import LEASE_FOLDER, Lease
from pipeline.publication.publish import PublishSummary, publish
from pipeline.shards.cutout_shards import Columns
from pipeline.shards.inspection import WantedColumns
from tests.catalogs import write_catalog
from tests.drawings import write_labeled_shard
from tests.object_store import ObjectStore

WRITERS = 4


@pytest.fixture(params=["local", "without links", "s3", "s3 without conditions"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in each kind of store there is."""
    if request.param == "without links":

        def no_links(source: str, target: str) -> None:
            raise PermissionError(1, "no hard links here")

        monkeypatch.setattr("os.link", no_links)
    if not request.param.startswith("s3"):
        return str(tmp_path / "out")
    store: ObjectStore = request.getfixturevalue("object_store")
    if request.param == "s3 without conditions":
        monkeypatch.setattr(storage.shared_store(), "_knows_conditions", False)
        monkeypatch.setattr("pipeline.storage.s3_store.SETTLE_SECONDS", 0.5)
    return f"{store.url}/{tmp_path.name}"


def at_once(actions: Sequence[Callable[[], Any]], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What actions return or raise, all of which are about to make their claim."""
    barrier, create = threading.Barrier(len(actions)), storage.create_bytes

    def together(path: str, content: bytes) -> bool:
        # The first claims of all meet; who comes again is alone.
        if path.endswith("/000001.json"):
            barrier.wait(timeout=30)
        return create(path, content)

    def outcome(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except (UserError, IncompleteError) as error:
            return error

    monkeypatch.setattr(storage, "create_bytes", together)
    with ThreadPoolExecutor(len(actions)) as threads:
        outcomes = list(threads.map(outcome, actions))
    monkeypatch.setattr(storage, "create_bytes", create)
    return outcomes


def test_of_writers_who_claim_at_the_same_moment_one_has_the_folder(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for turn in range(3 if folder.startswith("s3") else 20):
        place = f"{folder}/{turn}"
        leases = [Lease(place, f"work {number}") for number in range(WRITERS)]
        outcomes = at_once([lease.__enter__ for lease in leases], monkeypatch)
        won = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
        refused = [str(outcome) for outcome in outcomes if isinstance(outcome, UserError)]
        assert (len(won), len(refused)) == (1, WRITERS - 1)
        owner = f"{place} is being written by work {outcomes.index(won[0])} of "
        assert all(line.startswith(owner) for line in refused)
        won[0].check()
        won[0].__exit__(None, None, None)
        with Lease(place, "the next"):
            pass


def claim_of(folder: Path, **changes: Any) -> None:
    """The claim of somebody else, who is not going to give it back."""
    with Lease(str(folder), "hiwl classify"):
        (path,) = (folder / LEASE_FOLDER).iterdir()
        claim = json.loads(path.read_bytes())
    path.write_text(json.dumps({**claim, "token": "other", "running": True, **changes}))


def test_a_live_owner_is_named_and_a_dead_one_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "SECONDS_OF_WATCH", 0.2)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    elsewhere = {"machine": "0123456789ab", "host": "node7", "user": "ann"}
    claim_of(tmp_path, **elsewhere, time=time.time() - 50)
    with pytest.raises(UserError, match=r"written by hiwl classify of ann on node7 .*sign of life 50 s ago"):
        Lease(str(tmp_path), "publish").__enter__()
    claim_of_dead: list[dict[str, Any]] = [
        {**elsewhere, "time": time.time() - 61},
        {**elsewhere, "time": time.time() + 3600},
        {"process": gone.pid},
    ]
    for changes in claim_of_dead:
        (path,) = (tmp_path / LEASE_FOLDER).iterdir()
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "time": 0.0}))
        claim_of(tmp_path, **changes)
        with Lease(str(tmp_path), "publish") as mine:
            mine.check()
        assert len(list((tmp_path / LEASE_FOLDER).iterdir())) == 1


@pytest.mark.parametrize("hours", [-1, 1])
def test_an_owner_with_another_time_of_day_is_alive_as_long_as_he_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its clock is an hour ahead or behind, and that of who starts beside it is right."""
    monkeypatch.setattr(lease_module, "SECONDS_OF_WATCH", 2.0)
    monkeypatch.setattr(lease_module, "SECONDS_BETWEEN_SIGNS", 0.2)
    clock = SimpleNamespace(
        **{name: getattr(time, name) for name in ("sleep", "monotonic", "strftime", "gmtime")}
    )
    clock.time = lambda: (
        time.time() + 3600 * hours * (threading.current_thread() is not threading.main_thread())
    )
    monkeypatch.setattr(lease_module, "time", clock)
    with Lease(str(tmp_path), "hiwl classify") as owner:
        time.sleep(0.5)
        with pytest.raises(UserError, match=r"is being written by hiwl classify .* 0 s ago"):
            Lease(str(tmp_path), "hiwl publish").__enter__()
        owner.check()
    said = capsys.readouterr().err
    assert ("s ago: waiting" if hours < 0 else "s in the time to come: waiting") in said


def test_who_was_taken_for_dead_stops_when_he_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Lease(str(tmp_path), "asleep"), Lease(str(tmp_path), "hiwl classify")
    with first:
        monkeypatch.setattr(lease_module, "SECONDS_TO_DEATH", 0.0)
        monkeypatch.setattr(lease_module, "SECONDS_OF_WATCH", 0.0)
        second.__enter__()
        monkeypatch.undo()
        first.sign()
        with pytest.raises(IncompleteError, match="was taken over by hiwl classify of .* same command"):
            first.check()
    # His end does not give back what is another's.
    with pytest.raises(UserError, match="is being written by hiwl classify"):
        Lease(str(tmp_path), "a third").__enter__()
    second.check()
    second.__exit__(None, None, None)
    with Lease(str(tmp_path), "a third"):
        pass


def test_of_two_plans_for_one_catalog_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models that are started together, each planned before either has written anything."""
    write_labeled_shard(tmp_path / "sky" / "a.parquet", {"CRS": 2})

    def plan(catalog: str, model: str, ends: ExitStack | None) -> CatalogPlan:
        with ExitStack() as stack:
            claim = partial((ends or stack).enter_context, Lease(catalog, model))
            return plan_catalog(
                catalog,
                str(tmp_path / "sky"),
                model,
                lambda stored, shards: CatalogContents().to_settings(Columns()),
                WantedColumns(Columns(), ("object_id", "image")),
                claim=claim,
            )

    for turn in range(20):
        catalog = str(tmp_path / f"catalog{turn}")
        with ExitStack() as later:
            # Of every other two the first has ended before the second looks.
            ends = later if turn % 2 else None
            plans = [partial(plan, catalog, model, ends) for model in ("model0", "model1")]
            outcomes = at_once(plans, monkeypatch)
            (made,) = (outcome for outcome in outcomes if isinstance(outcome, CatalogPlan))
            (refused,) = (str(outcome) for outcome in outcomes if isinstance(outcome, UserError))
            assert read_plan(catalog) == made
            assert f"is being written by {made.model_id}" in refused or "by another model" in refused


def test_a_plan_that_was_held_up_does_not_take_the_next_one_for_its_own(tmp_path: Path) -> None:
    """As of a run that slept between its look and its writing, and was taken for dead meanwhile."""
    first, second = (CatalogPlan(model, {}, {}) for model in ("model0", "model1"))
    claim_catalog(str(tmp_path), second, is_new=True)
    with pytest.raises(UserError, match="was planned by another run meanwhile: start the same command again"):
        claim_catalog(str(tmp_path), first, is_new=True)
    assert read_plan(str(tmp_path)) == second


def test_of_two_publications_into_one_folder_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other tiles each: both found the folder empty before either has written anything."""
    write_catalog(tmp_path / "catalog", 2, 60)
    for turn in range(2):
        out = tmp_path / f"out{turn}"
        runs = [partial(publish, str(tmp_path / "catalog"), str(out), max_rows=rows) for rows in (30, 40)]
        outcomes = at_once(runs, monkeypatch)
        (made,) = (outcome for outcome in outcomes if isinstance(outcome, PublishSummary))
        (refused,) = (str(outcome) for outcome in outcomes if isinstance(outcome, UserError))
        assert "is being written by hiwl publish of" in refused or "a publication with --max-rows" in refused
        most = (30, 40)[outcomes.index(made)]
        assert made.rows == 120
        assert sum(pq.read_metadata(leaf).num_rows for leaf in out.rglob("Npix=*.parquet")) == 120
        assert max(pq.read_metadata(leaf).num_rows for leaf in out.rglob("Npix=*.parquet")) <= most
        assert not (out / LEASE_FOLDER).exists()
