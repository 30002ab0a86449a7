"""A time by which a catalog is wanted."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from hiwl_core.errors import IncompleteError, UserError
from pipeline.catalog.ledger import LedgerEntry
from pipeline.catalog.verify import verify
from pipeline.classification import small_work
from pipeline.classification.classify import classify
from pipeline.classification.deadline import Deadline, Forecast, in_time, workers_needed
from pipeline.cluster import ClusterResources, connected
from tests.drawings import write_labeled_shard

EVENING = datetime(2027, 3, 1, 22, 0)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("06:00", datetime(2027, 3, 2, 6, 0)),
        ("23:30", datetime(2027, 3, 1, 23, 30)),
        ("2027-03-05T06:00", datetime(2027, 3, 5, 6, 0)),
        ("2027-03-05 06:00", datetime(2027, 3, 5, 6, 0)),
    ],
)
def test_a_clock_means_its_next_time(text: str, at: datetime) -> None:
    assert Deadline.parse(text, stop=False, now=EVENING).at == at


@pytest.mark.parametrize(
    ("text", "message"), [("soon", "a time such as 06:00"), ("2027-03-01T21:00", "that was 1:00:00 ago")]
)
def test_what_is_no_time_to_come_is_a_mistake(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Deadline.parse(text, stop=False, now=EVENING)


def test_workers_needed_grow_with_the_work_and_shrink_with_the_time() -> None:
    # A thousand a second of two workers: each does 1.8 million in an hour.
    assert workers_needed(3_600_000, 1000, 2, 3600) == 2
    assert workers_needed(3_600_001, 1000, 2, 3600) == 3
    assert workers_needed(3_600_000, 1000, 2, 1800) == 4
    assert workers_needed(1, 1000, 2, 3600) == 1
    assert workers_needed(1, 1000, 2, 0) is None


@pytest.mark.parametrize(
    ("hours", "most", "said"),
    [
        (10, None, ""),
        (0.5, None, "5 workers are needed, there are 2; more are used as soon as nodes join"),
        (0.5, 3, "5 workers are needed, --workers allows 3"),
        (-1, None, "it is over"),
    ],
)
def test_what_will_be_late_is_said_with_what_is_needed(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    hours: float,
    most: int | None,
    said: str,
) -> None:
    forecast = Forecast(Deadline(datetime.now() + timedelta(hours=hours)), 3_700_000, lambda: 2, most)
    began = time.time()
    forecast.look(0)
    forecast.look(1000)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(time, "time", lambda: began + 100)
    forecast.look(101_000)
    line = capsys.readouterr().err.strip()
    assert "at 1,000 galaxies/s all are classified at" in line
    assert line.endswith(said)
    forecast.look(102_000)
    assert capsys.readouterr().err == ""


def test_it_stops_while_it_waits() -> None:
    def entries() -> Iterator[LedgerEntry]:
        yield LedgerEntry("a.parquet", "")
        time.sleep(60)

    deadline = Deadline(datetime.now() + timedelta(seconds=2), stop=True)
    got = in_time(entries(), Forecast(deadline, None, lambda: 1, None))
    assert next(got).part == "a.parquet"
    started = time.monotonic()
    with pytest.raises(IncompleteError, match="stopped at the deadline .* same command again"):
        next(got)
    assert time.monotonic() - started < 10


@pytest.mark.usefixtures("ray_session")
def test_what_was_stopped_goes_on(random_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by: list[threading.Thread] = []

    def noted() -> AbstractContextManager[ClusterResources]:
        by.append(threading.current_thread())
        return connected()

    monkeypatch.setattr(small_work, "connected", noted)
    write_labeled_shard(tmp_path / "sky" / "a.parquet", {"CRS": 3})
    arguments = (random_model, str(tmp_path / "sky"), str(tmp_path / "catalog"))
    over = Deadline(datetime.now() - timedelta(seconds=1), stop=True)
    with pytest.raises(IncompleteError, match="stopped at the deadline"):
        classify(*arguments, deadline=over)
    summary = classify(*arguments, deadline=Deadline(datetime.now() + timedelta(hours=1), stop=True))
    assert summary.rows == 3
    assert verify(arguments[-1]).passed
    # Whom signals reach, so that a start of Ray can be stopped, and not the thread that waits for entries.
    assert by == [threading.main_thread()] * 2
