"""`hiwl submit`: what it refuses without a cluster, and jobs on a real head node that asks for a token."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from ray.job_submission import JobStatus

import pipeline.cluster_jobs
from hiwl_core.bundle import load_bundle
from hiwl_core.errors import UserError
from jobs.submit import main
from pipeline import storage
from pipeline.catalog.parts import read_part
from pipeline.cluster_jobs import ClusterJob
from pipeline.job_client import dashboard_url
from pipeline.own_ray import OWN_RAY
from tests.conftest import TINY, WORKERS_AT_ONCE, TinyData
from tests.drawings import write_labeled_shard
from tests.object_store import ObjectStore

ROOT = Path(__file__).parents[2]

# Stands for the verbs in an uploaded folder: it does what no verb does on demand.
STAND_IN = """
import os, signal, sys, time
_, what, *rest = sys.argv[1:]
print("COLOR is", os.environ.get("COLOR"), "and", rest, flush=True)
if what == "exit": sys.exit(int(rest[0]))
if what == "die": os.kill(os.getpid(), signal.SIGKILL)
if what == "wait": time.sleep(300)
"""


def clean_env(**more: str) -> dict[str, str]:
    """This environment without what says which Ray to use, or how."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return env | {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}"} | more


# ---- without a cluster ---------------------------------------------------------------------------------


@pytest.fixture
def no_ray_env(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "no verb to submit"),
        (["--", "clasify", "a"], "no verb 'clasify'"),
        (["--", "submit", "--", "train"], "'submit' cannot run inside a job"),
        (["--detach", "--notify", "true", "--", "train"], "--notify waits for the job's end"),
        (["--env", "NOVALUE", "train"], "--env takes KEY=VALUE"),
        (["--env", "2=3", "train"], "its name was '2'"),
        (["--working-dir", "no/such", "train"], "no folder 'no/such'"),
        (["--job-id", "a/b", "train"], "job id 'a/b'"),
        (["--address", "http://127.0.0.1:1", "train"], "no Ray dashboard answers at http://127.0.0.1:1"),
        (["--address", "127.0.0.1:1", "train"], "no Ray dashboard answers at http://127.0.0.1:1"),
        (
            ["--address", "http://me:secret@127.0.0.1:1", "train"],
            "no Ray dashboard answers at http://127.0.0.1:1",
        ),
        (["--address", "nonsense://x", "train"], "--address 'nonsense://x': give the dashboard's URL"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], told: str, no_ray_env: None) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert told in result.stderr
    assert "secret" not in result.output
    assert result.stdout == ""


def test_a_token_file_that_is_not_there_is_named(no_ray_env: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/no/such/token")
    result = CliRunner().invoke(main, ["train"])
    assert result.exit_code == 2
    assert "RAY_AUTH_TOKEN_PATH='/no/such/token' is no file" in result.stderr


def test_the_address_is_found_in_ray_s_own_order(no_ray_env: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dashboard_url() == "http://127.0.0.1:8265"
    monkeypatch.setenv("RAY_ADDRESS", "https://b:1/")
    assert dashboard_url() == "https://b:1"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://a:1")
    assert dashboard_url() == "http://a:1"
    assert dashboard_url("c:1") == "http://c:1"
    with pytest.raises(UserError, match="give the dashboard's URL"):
        dashboard_url("file:///etc/passwd")


def test_an_address_for_programs_is_not_one_for_jobs(
    no_ray_env: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(UserError, match=r"RAY_ADDRESS='10\.0\.0\.1:6379'.*--address"):
        dashboard_url()


class BreakingClient:
    """Its connection breaks in the middle of a line, then ends before the last lines."""

    log = "first\nsecond\nthird\n"

    def __init__(self, status: JobStatus, exit_code: int | None) -> None:
        self.tails = 0
        self.end = SimpleNamespace(status=status, driver_exit_code=exit_code, message="no\nroom")

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        self.tails += 1
        yield self.log[:6]
        yield self.log[6:9]
        if self.tails == 1:
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        yield self.log[9:14]

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        return SimpleNamespace(status=JobStatus.RUNNING) if self.tails == 1 else self.end

    def get_job_logs(self, job_id: str) -> str:
        return self.log


@pytest.mark.parametrize(
    ("status", "exit_code", "passed_on"),
    [
        (JobStatus.SUCCEEDED, 0, (0, "")),
        (JobStatus.FAILED, 2, (2, "")),
        (JobStatus.FAILED, -9, (137, "signal 9 ended it")),
        (JobStatus.FAILED, None, (1, "no room")),
        (JobStatus.STOPPED, None, (130, "it was stopped")),
    ],
)
def test_a_broken_connection_loses_no_line_and_repeats_none(
    status: JobStatus, exit_code: int | None, passed_on: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.cluster_jobs, "HEAD_RETRY_SECONDS", 0.0)
    written: list[str] = []
    job = ClusterJob(BreakingClient(status, exit_code), "job", "http://head:8265")
    assert job.follow(written.append) == passed_on
    assert "".join(written) == BreakingClient.log


def test_a_cluster_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class GoneClient(BreakingClient):
        def get_job_info(self, job_id: str) -> SimpleNamespace:
            raise ConnectionRefusedError("refused")

    monkeypatch.setattr(pipeline.cluster_jobs, "HEAD_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(pipeline.cluster_jobs, "HEAD_PATIENCE_SECONDS", 0.05)
    job = ClusterJob(GoneClient(JobStatus.RUNNING, None), "job", "http://head:8265")
    with pytest.raises(ConnectionError, match="'job' may still be running"):
        job.follow(lambda text: None)


# ---- on a head node ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    url: str
    env: dict[str, str]
    stand_in: str

    def start(self, *arguments: str, verb: str = "submit", **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", *verb.split(), "--address", self.url, *arguments],
            cwd=ROOT,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background of a shell ignores Ctrl-C, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def submit(self, *arguments: str, verb: str = "submit", **env: str) -> tuple[int, str, str]:
        process = self.start(*arguments, verb=verb, **env)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        return error.code == 401  # it asks for the token: it is up
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def head(object_store_port: int) -> Iterator[Head]:
    """A head node that asks for a token and sees a store, in a process group of its own."""
    # Not pytest's folder: Ray's sockets lie below it, and their paths may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="hiwl-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        stand_in = Path(folder, "code")
        (stand_in / "jobs").mkdir(parents=True)
        (stand_in / "jobs" / "__init__.py").touch()
        (stand_in / "jobs" / "cli.py").write_text(STAND_IN)
        token = secrets.token_hex(32)
        # As for the session's Ray: nice workers would wait for whatever else runs here.
        light = {name: os.environ[name] for name in WORKERS_AT_ONCE}
        light |= {f"RAY_{name}": str(value).lower() for name, value in OWN_RAY.items()}
        env = clean_env(HOME=folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token, **light)
        url = f"http://127.0.0.1:{(port := free_port())}"
        command = ["ray", "start", "--head", "--block", "--num-cpus=2"]
        command += [
            "--include-dashboard=true",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={port}",
            f"--port={free_port()}",
        ]
        command += [f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}"]
        command += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
        command += ["--temp-dir", f"{folder}/r", "--disable-usage-stats"]
        with open(f"{folder}/head.log", "w") as log:
            process = subprocess.Popen(
                command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            deadline = time.monotonic() + 400
            while not answers(f"{url}/api/version"):
                assert process.poll() is None, Path(folder, "head.log").read_text()
                assert time.monotonic() < deadline, Path(folder, "head.log").read_text()
                time.sleep(0.5)
            # Who submits has no key of the store.
            outside = {n: value for n, value in env.items() if not n.startswith("AWS_") and n not in light}
            yield Head(url, outside, str(stand_in))
        finally:
            # `ray stop` would end every Ray on the machine, and `ray start` takes its time for its own.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_a_verb_runs_and_its_log_is_followed(head: Head) -> None:
    code, out, err = head.submit("--", "simulate", "--help")
    assert code == 0, err
    assert "Usage: python -m jobs.cli simulate" in out
    assert head.env["RAY_AUTH_TOKEN"] not in out + err


@pytest.mark.slow
def test_a_shipped_model_classifies_a_bucket_from_where_nothing_is(
    head: Head, object_store: ObjectStore, tmp_path: Path
) -> None:
    write_labeled_shard(tmp_path / "sky.parquet", {"CRS": 3, "SPI": 3}, first_id=1, size=200)
    storage.write_bytes(f"{object_store.url}/night/sky.parquet", (tmp_path / "sky.parquet").read_bytes())
    catalog = f"{object_store.url}/catalog"
    told = tmp_path / "told"
    code, out, err = head.submit(
        "--job-id",
        "night",
        "--notify",
        f"echo $HIWL_VERB $HIWL_JOB $HIWL_EXIT_CODE $HIWL_PLACE > {told}; exit 9",
        "--",
        *("classify", "galaxyzoo", f"{object_store.url}/night", catalog),
    )
    assert code == 0, out + err
    assert out.splitlines()[-1].startswith(f"next: hiwl verify {catalog}, ")
    assert told.read_text() == f"submit night 0 {catalog}\n"
    assert "ended with exit code 9" in err
    assert read_part(f"{catalog}/sky.parquet").num_rows == 6

    code, out, err = head.submit(verb="jobs list")
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("night ")]
    assert "SUCCEEDED" in line
    assert line.endswith(f"classify galaxyzoo {object_store.url}/night {catalog}")
    code, log, err = head.submit("night", verb="jobs logs")
    assert (code, err) == (0, "")
    assert log.splitlines()[-1].startswith(f"next: hiwl verify {catalog}, ")
    assert head.submit("night", verb="jobs stop") == (0, "job night had ended already\n", "")


@pytest.mark.slow
def test_a_job_that_waits_is_stopped_and_one_that_is_not_there_is_said(head: Head) -> None:
    assert (
        head.submit("--detach", "--working-dir", head.stand_in, "--job-id", "idle", "train", "wait")[0] == 0
    )
    code, out, _ = head.submit("idle", verb="jobs stop")
    assert (code, out.split(";")[0]) == (0, "job idle has ended")
    code, out, err = head.submit("nobody", verb="jobs logs")
    assert (code, out) == (2, "")
    assert err == f"Error: no job 'nobody' on {head.url}: `hiwl jobs list` names those there are\n"
    code, out, err = head.submit(verb="jobs list", RAY_AUTH_TOKEN="0" * 64)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "refused the token" in err


@pytest.mark.slow
def test_a_training_runs_as_a_job(head: Head, tiny_data: TinyData, tmp_path: Path) -> None:
    # Of the only stage of a flat model.
    settings = [word for key in (*TINY, "stage1.epochs=1") for word in ("--set", key)]
    data = ["--data", tiny_data.train, "--val", tiny_data.val]
    arguments = [*data, "--recipe", "demo", "--method", "slwslm", *settings]
    code, out, err = head.submit("--", "train", *arguments, "--out", str(tmp_path / "run"))
    assert code == 0, out + err
    assert "stage1 epoch 1/1: train loss" in out
    assert f"bundle: {tmp_path}/run/bundle" in out
    assert load_bundle(tmp_path / "run" / "bundle").model_id


@pytest.mark.slow
def test_the_exit_code_of_a_user_s_mistake_is_passed_on(head: Head, tmp_path: Path) -> None:
    code, out, err = head.submit("--", "simulate", str(tmp_path / "out"), "--count", "0")
    assert code == 2, err
    assert "Error" in out


@pytest.mark.slow
def test_arguments_and_variables_arrive_as_they_are(head: Head) -> None:
    odd = "a b; $HOME 'c'"
    code, out, err = head.submit(
        "--working-dir",
        head.stand_in,
        "--env",
        "COLOR=deep red",
        "--job-id",
        "odd",
        "train",
        "exit",
        "7",
        odd,
    )
    assert code == 7, err
    assert f"COLOR is deep red and {['7', odd]}" in out
    assert "Job odd runs on" in err

    code, out, err = head.submit("--job-id", "odd", "train")
    assert (code, out) == (2, "")
    assert "job 'odd' already exists" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_the_typed_address_wins_over_ray_s_variables(head: Head) -> None:
    elsewhere = {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:1", "RAY_ADDRESS": "127.0.0.1:1"}
    code, out, err = head.submit(
        "--working-dir", head.stand_in, "--detach", "train", "exit", "0", **elsewhere
    )
    assert code == 0, err
    assert out.startswith("raysubmit_")
    assert out.count("\n") == 1


@pytest.mark.slow
def test_ctrl_c_stops_the_job(head: Head) -> None:
    process = head.start("--working-dir", head.stand_in, "--job-id", "waits", "train", "wait")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("COLOR is"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "Asked job waits to stop" in err
    assert "it was stopped" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    "token",
    [
        {"RAY_AUTH_TOKEN": "0" * 64},
        {"RAY_AUTH_TOKEN": ""},
        {"RAY_AUTH_TOKEN": "", "RAY_AUTH_MODE": "disabled"},
    ],
    ids=["wrong", "none", "mode disabled"],
)
def test_without_the_right_token_it_says_what_to_set(head: Head, token: dict[str, str]) -> None:
    code, out, err = head.submit("--", "simulate", "--help", **token)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "RAY_AUTH_MODE=token and the same RAY_AUTH_TOKEN" in err
