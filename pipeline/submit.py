"""A command as a job on a running Ray cluster: sent over HTTP, its log followed, its exit code passed on.

Ray itself finds the cluster's token: ``RAY_AUTH_MODE=token`` and ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``
or the file ``~/.ray/auth_token``. It is never read here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from hiwl_core.errors import UserError

__all__ = ["STOPPED_EXIT_CODE", "ClusterJob", "dashboard_url", "submit"]

# What a shell reports for a program that Ctrl-C ended.
STOPPED_EXIT_CODE = 130

# Where `ray dashboard cluster.yaml` forwards the head's dashboard to.
DEFAULT_URL = "http://127.0.0.1:8265"
CONNECT_SECONDS = 10.0
# Connections that pass through a tunnel or a firewall can die without a word: after so long a silence, look.
SILENCE_SECONDS = 300.0
RETRY_SECONDS = 2.0
PATIENCE_SECONDS = 300.0

# These speak of sockets and addresses at INFO; what matters to the user is said below.
for _name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def dashboard_url(address: str | None = None) -> str:
    """Find the URL that jobs are sent to, by the order that Ray's own ``ray job submit`` uses.

    Parameters
    ----------
    address : str, optional
        The dashboard's URL; ``http://`` may be left out. Without it ``RAY_API_SERVER_ADDRESS``, then
        ``RAY_ADDRESS``, then ``http://127.0.0.1:8265``.

    Returns
    -------
    str
        A URL without a slash at its end.

    Raises
    ------
    UserError
        If ``RAY_ADDRESS`` is the one to use and is no HTTP address.
    """
    chosen = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not chosen:
        chosen = os.environ.get("RAY_ADDRESS") or DEFAULT_URL
        if chosen in ("auto", "local"):
            chosen = DEFAULT_URL
        elif not chosen.startswith(("http://", "https://")):
            raise UserError(
                f"RAY_ADDRESS={_without_password(chosen)!r} is where programs connect to Ray, jobs go to the "
                "dashboard of the head node: give its URL, such as --address http://HEAD:8265"
            )
    return (chosen if "://" in chosen else f"http://{chosen}").rstrip("/")


def submit(
    command: Sequence[str],
    *,
    address: str | None = None,
    env: Mapping[str, str] | None = None,
    working_dir: str | None = None,
    job_id: str | None = None,
) -> ClusterJob:
    """Start a command as a job on a Ray cluster.

    The command runs on the head node and reserves no CPU there, since a head node often offers none; its
    tasks and actors run where the cluster has room for them.

    Parameters
    ----------
    command : sequence of str
        The program and its arguments; quoted for the shell here.
    address : str, optional
        See `dashboard_url`.
    env : mapping of str to str, optional
        Environment variables of the command and of its workers. Ray's dashboard shows them.
    working_dir : str, optional
        A folder to upload and run in, without what ``.gitignore`` and ``.rayignore`` name, or the URL of a
        zip file. By default the command finds only what is installed on the cluster.
    job_id : str, optional
        A name for the job, new to this cluster. By default Ray makes one.

    Returns
    -------
    ClusterJob

    Raises
    ------
    UserError
        If an argument is bad, the cluster cannot be reached, it refuses the token, or it refuses the job.
    """
    if working_dir is not None and "://" not in working_dir and not Path(working_dir).is_dir():
        raise UserError(f"no folder {working_dir!r} to upload: give --working-dir an existing folder")
    if job_id is not None and not re.fullmatch(r"[A-Za-z0-9_.-]+", job_id):
        raise UserError(f"job id {job_id!r} may only hold letters, digits, '_', '.' and '-'")
    url = dashboard_url(address)
    shown = _without_password(url)
    runtime_env: dict[str, Any] = {"env_vars": dict(env)} if env else {}
    if working_dir is not None:
        runtime_env["working_dir"] = working_dir
    try:
        client = _connect(url)
        name = client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=job_id,
            runtime_env=runtime_env,
            entrypoint_num_cpus=0,
        )
    except UserError:
        raise
    except AuthenticationError:
        raise UserError(
            f"the Ray cluster at {shown} refused the token, or got none: RAY_AUTH_MODE=token and the same "
            "RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) must be set both here and on the cluster"
        ) from None
    except (RuntimeError, ValueError, OSError) as error:
        if "already exists" in str(error):
            raise UserError(f"job {job_id!r} already exists on {shown}: choose another --job-id") from None
        # Ray answers with the server's whole traceback; its last line is the reason.
        reason = (str(error).replace("\\n", "\n").strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"the Ray cluster at {shown} did not take the job: {reason}") from error
    return ClusterJob(client, name, shown)


class ClusterJob:
    """A job that was submitted: follow it, or ask it to stop. It runs on without either."""

    def __init__(self, client: JobSubmissionClient, job_id: str, url: str) -> None:
        self.id = job_id
        self.url = url
        self._client = client
        self._printed = 0

    def stop(self) -> None:
        """Ask the job to end; `follow` then sees it end.

        Raises
        ------
        ConnectionError
            If the cluster does not answer.
        """
        try:
            self._client.stop_job(self.id)
        except (RuntimeError, OSError, AuthenticationError) as error:
            message = f"could not ask {self.url} to stop job {self.id!r}: {_one_line(error)}"
            raise ConnectionError(message) from error

    def follow(self, write: Callable[[str], None]) -> tuple[int, str]:
        """Pass on the job's log until the job ends.

        Parameters
        ----------
        write : callable
            Takes each new piece of the log, once.

        Returns
        -------
        exit_code : int
            The command's own; 128 + n if signal n ended it, 130 if the job was stopped, 1 if it failed
            before the command could run.
        reason : str
            One line why there is no exit code of the command's own; empty if there is one.

        Raises
        ------
        ConnectionError
            If the cluster does not answer for five minutes. The job may still be running.
        """
        details = asyncio.run(self._follow(write))
        code = details.driver_exit_code
        if details.status == JobStatus.STOPPED:
            return STOPPED_EXIT_CODE, "it was stopped"
        if details.status == JobStatus.SUCCEEDED:
            return 0, ""
        if code is None:
            return 1, _one_line(details.message or "it failed before it started")
        return (code, "") if code >= 0 else (128 - code, f"signal {-code} ended it")

    async def _follow(self, write: Callable[[str], None]) -> Any:
        lost_at: float | None = None
        while True:
            # The job does not depend on this connection: if it breaks, see how the job is and listen again.
            with suppress(RuntimeError, OSError, aiohttp.ClientError):
                await self._tail(write)
            try:
                details = await asyncio.to_thread(self._client.get_job_info, self.id)
                if details.status.is_terminal():
                    # A connection that broke near the end has missed the last lines.
                    log = await asyncio.to_thread(self._client.get_job_logs, self.id)
                    self._write_new(write, log, 0)
                    return details
                lost_at = None
            except (RuntimeError, OSError, AuthenticationError) as error:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > PATIENCE_SECONDS:
                    raise ConnectionError(
                        f"{self.url} has not answered for {PATIENCE_SECONDS:.0f} s ({_one_line(error)}); "
                        f"job {self.id!r} may still be running"
                    ) from error
            await asyncio.sleep(RETRY_SECONDS)

    async def _tail(self, write: Callable[[str], None]) -> None:
        start = 0
        async with aclosing(self._client.tail_job_logs(self.id)) as pieces:
            while True:
                try:
                    piece = await asyncio.wait_for(anext(pieces), SILENCE_SECONDS)
                except StopAsyncIteration:
                    return
                self._write_new(write, piece, start)
                start += len(piece)

    def _write_new(self, write: Callable[[str], None], text: str, start: int) -> None:
        # Ray sends the log from its beginning to each new connection.
        new = text[max(0, self._printed - start) :]
        if new:
            write(new)
            self._printed = start + len(text)


def _connect(url: str) -> JobSubmissionClient:
    token_path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token_path and not os.environ.get("RAY_AUTH_TOKEN") and not Path(token_path).is_file():
        # Ray ends the whole process over this.
        raise UserError(f"RAY_AUTH_TOKEN_PATH={token_path!r} is no file: name the file that holds the token")
    # Ray's client waits as long as the operating system does, minutes, for a host that drops packets.
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # Something answers; Ray's client, which knows the token, finds out what.
    except (OSError, ValueError, HTTPException) as error:
        reason = _one_line(getattr(error, "reason", error))
        raise UserError(
            f"no Ray dashboard answers at {_without_password(url)} ({reason}): check --address, and that the "
            "cluster, or the tunnel to it, is up"
        ) from None
    # Ray lets these variables override the address that it is given; what the user typed must win.
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    try:
        return JobSubmissionClient(url)
    finally:
        os.environ.pop("RAY_API_SERVER_ADDRESS")
        if before is not None:
            os.environ["RAY_API_SERVER_ADDRESS"] = before


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
