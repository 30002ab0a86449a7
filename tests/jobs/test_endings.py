"""How verbs end that do not end well: a line that names the cause, and an exit code; no secret in it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from hiwl_core.errors import IncompleteError, UserError
from jobs.cli import main
from jobs.endings import Stopped, ending_of, one_line
from pipeline import storage
from pipeline.catalog.ledger import Ledger, LedgerEntry
from pipeline.storage.disk_faults import disk_fault
from pipeline.storage.secret_urls import without_secrets
from tests.catalogs import write_catalog
from tests.conftest import classifying
from tests.conftest import hiwl as started_hiwl
from tests.drawings import draw_galaxy, write_labeled_shard

PASSWORD = "hunter2"
SECRET_URLS = [
    f"http://ann:{PASSWORD}@host/s.parquet",
    f"https://host/s.parquet?X-Amz-Signature={PASSWORD}",
    f"https://account.blob.core.windows.net/c/s.parquet?sv=2021&sig={PASSWORD}",
    f"s3://ann:{PASSWORD}@bucket/sky",
    f"zip://0.jpg::https://host/a.zip?token={PASSWORD}",
]


# A process of its own: Ray, in that of the tests, has logs to write, and would end it.
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
from jobs.cli import main
main(sys.argv[1:])
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no filesystem can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def hiwl(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def limited_hiwl(*arguments: object) -> SimpleNamespace:
    """Where no file may have more than 2,000 bytes: EFBIG, where a full disk says ENOSPC."""
    command = [sys.executable, "-B", "-c", LIMITED, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return SimpleNamespace(
        exit_code=done.returncode, exception=None, stderr=done.stderr, output=done.stdout + done.stderr
    )


def ended_with(answer: Result | SimpleNamespace, code: int, *words: str) -> None:
    """The last line says it; nothing else but progress is there, and no traceback."""
    assert answer.exit_code == code, answer.output
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    for word in words:
        assert word in last
    assert "Traceback" not in answer.output


def test_publish_on_a_full_disk_says_where_and_goes_on(small_disk: Path, tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 2, 3000)
    out = small_disk / "published"
    ended_with(
        hiwl("publish", tmp_path / "catalog", out),
        1,
        "No space left on device",
        "kept",
        "start the same command again",
        f"MB at {out}, ",
    )
    assert not [name for _, _, names in os.walk(small_disk) for name in names if name.endswith(".partial")]
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    answer = hiwl("publish", tmp_path / "catalog", out)
    assert answer.exit_code == 0, answer.output
    assert sum(pq.read_metadata(leaf).num_rows for leaf in out.rglob("Npix=*.parquet")) == 6000


@pytest.mark.parametrize("verb", ["query", "publish", "ingest", "select"])
def test_each_verb_ends_with_a_line_where_no_more_can_be_written(verb: str, tmp_path: Path) -> None:
    """Anywhere, without a right to mount: by a limit on the size of files."""
    write_catalog(tmp_path / "catalog", 1, 3000)
    (tmp_path / "images").mkdir()
    for number in range(200):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(draw_galaxy("CRS", number, size=64))
    rows = [",".join([str(100000 + n), *["0.5"] * 37]) for n in range(400)]
    answers = ["3", "2", "2", "2", "4", "2", "3", "7", "3", "3", "6"]
    names = [f"Class{q}.{a}" for q, count in enumerate(answers, 1) for a in range(1, int(count) + 1)]
    (tmp_path / "votes.csv").write_text("\n".join([",".join(["GalaxyID", *names]), *rows, ""]))
    commands = {
        "query": ("query", tmp_path / "catalog", "SELECT * FROM catalog", "--out", tmp_path / "out.csv"),
        "publish": ("publish", tmp_path / "catalog", tmp_path / "out"),
        "ingest": ("ingest", tmp_path / "images", tmp_path / "out"),
        "select": ("select", tmp_path / "votes.csv", tmp_path / "out.csv"),
    }
    ended_with(limited_hiwl(*commands[verb]), 1, "File too large", "MB at ", "is kept")
    assert hiwl(*commands[verb]).exit_code == 0


def test_a_read_only_place_is_a_line(small_disk: Path, tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog", 1, 60)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ended_with(hiwl("publish", tmp_path / "catalog", small_disk / "out"), 1, "Read-only file system")


def test_a_catalog_on_a_read_only_disk_is_read(small_disk: Path) -> None:
    write_catalog(small_disk / "catalog", 1, 60)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    answer = hiwl("query", small_disk / "catalog", "SELECT count(*) AS n FROM catalog", "--format", "csv")
    assert answer.stdout.splitlines() == ['"n"', "60"]


def test_a_ledger_without_room_loses_no_summary(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Ledger(str(small_disk), 1) as ledger:
        ledger.add(LedgerEntry("a.parquet", "print", sha256="0" * 64))
        filled = subprocess.run(
            ["dd", "if=/dev/zero", f"of={small_disk}/filled", "bs=64k"], capture_output=True, check=False
        )
        assert b"No space left" in filled.stderr
    assert f"the ledger of {small_disk} could not be written ([Errno 28]" in capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG])
def test_each_fault_of_a_disk_is_known_by_number_and_by_words(number: int) -> None:
    fault = OSError(number, os.strerror(number), "/data/x")
    wrapped = RuntimeError("it failed")
    wrapped.__cause__ = fault
    remote = RuntimeError(f"task failed\nTraceback ...\nOSError: {fault}")
    for error in (fault, wrapped, remote):
        assert os.strerror(number) in disk_fault(error)
        ending = ending_of(error, {"out": "/data"})
        assert ending is not None
        assert ending.code == 1
        assert "MB at /data" in ending.words
    assert disk_fault(OSError(errno.ENOENT, "No such file")) == ""
    assert ending_of(RuntimeError("a fault of ours"), {}) is None


@pytest.mark.parametrize("url", SECRET_URLS)
def test_a_url_with_a_secret_is_refused_and_not_repeated(url: str, random_model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    commands = [
        ("classify", random_model, url, out),
        ("train", "--data", url, "--val", url, "--recipe", "demo", "--out", out),
        ("ingest", url, out),
        ("query", url, "SELECT 1"),
        ("evaluate", random_model, url, "--out", out),
    ]
    for command in commands:
        answer = hiwl(*command)
        ended_with(
            answer, 2, "which would be written into plans, names and logs: give credentials in the env"
        )
        assert PASSWORD not in answer.output
    assert not out.exists()


def test_only_what_is_secret_is_taken_from_a_text() -> None:
    kept = [
        "s3://bucket/sky-0000?.parquet has no rows",
        "https://host/file.parquet?download=1",
        "/data/ann:x@host/file",
        "s3://bucket/a@b/c",
        "no URL at all? key=value",
    ]
    for text in kept:
        assert without_secrets(text) == text
    for url in SECRET_URLS:
        assert PASSWORD not in without_secrets(f"cannot read {url!r}: 403")
    assert (
        without_secrets(f"cannot read {SECRET_URLS[0]!r}: 403") == "cannot read 'http://host/s.parquet': 403"
    )


def test_an_endpoint_with_a_password_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://ann:{PASSWORD}@127.0.0.1:9")
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL has a user or password in it") as refused:
        storage.exists("s3://bucket/key")
    assert PASSWORD not in str(refused.value)


def test_a_line_is_one_and_not_endless() -> None:
    assert one_line("plain words: /data/a b.parquet, 5 < 6 é") == "plain words: /data/a b.parquet, 5 < 6 é"
    names = ", ".join(f"column{number}" for number in range(100_000))
    line = one_line(f"no column 'x':\n\x1b[31m{names}")
    assert len(line) < 2100
    assert "\x1b" not in line
    assert "\n" not in line
    assert line.endswith(" more characters)")


def test_a_shard_of_100_000_columns_is_named_in_a_short_line(random_model: str, tmp_path: Path) -> None:
    table = pa.table({f"column{number}": [1] for number in range(5_000)})
    pq.write_table(table, tmp_path / "wide.parquet")
    answer = hiwl("classify", random_model, tmp_path / "wide.parquet", tmp_path / "out")
    ended_with(answer, 2, "object_id")
    assert len(answer.stderr) < 2200


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM"),
        (IncompleteError("2 of 3"), 1, "2 of 3"),
        (UserError("no such file"), 2, "no such file"),
        (storage.StoreError("gave up"), 1, "gave up"),
        (PermissionError(13, "Permission denied", "/x"), 2, "Permission denied"),
    ],
)
def test_each_cause_has_its_code(error: BaseException, code: int, words: str) -> None:
    ending = ending_of(error, {})
    assert ending is not None
    assert (ending.code, words in ending.words) == (code, True)


# In a process of its own: some kernels end one when a signal comes to a thread that has used the matrix
# registers of its CPU, as the main thread of the tests may have.
SIGNALED = """
import os, signal, sys
import click
from hiwl_core.errors import IncompleteError
from jobs.options import VerbCommand

number = int(sys.argv[1])
# One that is ignored, as in the background of a shell, would stay so.
signal.signal(number, signal.SIG_DFL)

@click.command("wait", cls=VerbCommand)
def wait():
    try:
        os.kill(os.getpid(), number)
        signal.pause()
    finally:
        print("in order")
        # As of a Ray that was sent the signal too.
        raise IncompleteError("the raylet died")

try:
    wait([])
finally:
    print(signal.getsignal(number) == signal.SIG_DFL)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_work_end_in_order(number: signal.Signals) -> None:
    command = [sys.executable, "-c", SIGNALED, str(int(number))]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 128 + number
    assert answer.stdout.split("\n")[:2] == ["in order", "True"]
    (line,) = answer.stderr.splitlines()
    assert line.startswith("Error: stopped by ")
    assert "start the same command again to go on" in line


@pytest.mark.slow
def test_sigterm_ends_a_classification_and_the_ray_that_it_started(random_model: str, tmp_path: Path) -> None:
    for index in range(40):
        write_labeled_shard(tmp_path / "sky" / f"{index:02d}.parquet", {"CRS": 2}, first_id=10 * index)
    command = ["classify", random_model, str(tmp_path / "sky"), str(tmp_path / "catalog"), "--workers", "1"]
    process = started_hiwl(*command)
    until = time.monotonic() + 600
    while not classifying(process.pid):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.1)
    started = psutil.Process(process.pid).children(recursive=True)
    # To all the group, as batch systems do. Ray's own processes are not of it: a call to a raylet that has
    # ended first would end the command with 1 and without a word.
    assert process.pid not in {os.getpgid(one.pid) for one in started}
    os.killpg(process.pid, signal.SIGTERM)
    said = process.communicate(timeout=180)[0]
    assert process.returncode == 128 + signal.SIGTERM, said
    last = said.splitlines()[-1]
    assert last.startswith("Error: stopped by SIGTERM; what was written whole is kept")
    assert last.endswith(f"to go on: hiwl {' '.join(command)}")
    assert "Traceback" not in said
    assert "SIGTERM received" not in said
    assert not psutil.wait_procs(started, timeout=180)[1]
