"""Jobs on a running Ray cluster: followed, asked to stop, listed. They run on without either.

`pipeline.submit` sends them. All of it goes over HTTP, so that only the dashboard need be reached.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient, JobType

from hiwl_core.errors import words_of
from pipeline.job_client import connect_head, dashboard_url, refusals_in_words, without_password
from pipeline.notify import STOPPED_EXIT_CODE
from pipeline.retry_policy import HEAD_PATIENCE_SECONDS, HEAD_RETRY_SECONDS

__all__ = ["PROGRAM", "ClusterJob", "JobFacts", "find_job", "list_jobs"]

PROGRAM = ("python", "-m", "jobs.cli")
"""What a verb follows on the cluster."""

# Connections that pass through a tunnel or a firewall can die without a word: after so long a silence, look.
SILENCE_SECONDS = 300.0


@dataclass(frozen=True)
class JobFacts:
    """A line of a list of jobs.

    Parameters
    ----------
    id : str
    status : str
        As Ray calls it: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
    started : float or None
        Seconds since the epoch; None if it has not begun.
    seconds : float or None
        How long it ran, or has run so far.
    command : str
        The verb and its arguments, or another command.
    """

    id: str
    status: str
    started: float | None
    seconds: float | None
    command: str


def list_jobs(address: str | None = None) -> list[JobFacts]:
    """The jobs that were sent to a cluster since its head started, oldest first.

    Parameters
    ----------
    address : str, optional
        See `pipeline.job_client.dashboard_url`.

    Raises
    ------
    UserError
        If the cluster cannot be reached, or refuses the token.
    """
    url = dashboard_url(address)
    with refusals_in_words(url, None, "did not list its jobs"):
        found = connect_head(url).list_jobs()
    facts = [_facts(details) for details in found if details.type == JobType.SUBMISSION]
    return sorted(facts, key=lambda job: job.started or float("inf"))


def find_job(job_id: str, address: str | None = None) -> ClusterJob:
    """A job by its id.

    Parameters
    ----------
    job_id : str
    address : str, optional
        See `pipeline.job_client.dashboard_url`.

    Raises
    ------
    UserError
        If there is no such job, the cluster cannot be reached, or it refuses the token.
    """
    url = dashboard_url(address)
    with refusals_in_words(url, job_id, "did not say how the job is"):
        client = connect_head(url)
        client.get_job_info(job_id)
    return ClusterJob(client, job_id, without_password(url))


def _facts(details: Any) -> JobFacts:
    started = details.start_time / 1000 if details.start_time else None
    ended = details.end_time / 1000 if details.end_time else time.time()
    command, prefix = details.entrypoint, shlex.join(PROGRAM) + " "
    return JobFacts(
        details.submission_id,
        str(details.status.value),
        started,
        None if started is None else max(0.0, ended - started),
        command.removeprefix(prefix),
    )


class ClusterJob:
    """A job that was submitted: follow it, read its log, or ask it to stop. It runs on without either."""

    def __init__(self, client: JobSubmissionClient, job_id: str, url: str) -> None:
        self.id = job_id
        self.url = url
        self._client = client
        self._printed = 0

    def log(self) -> str:
        """What the job has written so far.

        Raises
        ------
        UserError
            If the cluster does not give it.
        """
        with refusals_in_words(self.url, self.id, "did not give the log"):
            return str(self._client.get_job_logs(self.id))

    def stop(self) -> bool:
        """Ask the job to end; `follow` then sees it end.

        Returns
        -------
        bool
            Whether it was running.

        Raises
        ------
        ConnectionError
            If the cluster does not answer.
        """
        try:
            return bool(self._client.stop_job(self.id))
        except (RuntimeError, OSError, AuthenticationError) as error:
            message = f"could not ask {self.url} to stop job {self.id!r}: {words_of(error, 300)}"
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
            return 1, words_of(details.message or "it failed before it started", 300)
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
                if time.monotonic() - lost_at > HEAD_PATIENCE_SECONDS:
                    raise ConnectionError(
                        f"{self.url} has not answered for {HEAD_PATIENCE_SECONDS:.0f} s "
                        f"({words_of(error, 300)}); job {self.id!r} may still be running"
                    ) from error
            await asyncio.sleep(HEAD_RETRY_SECONDS)

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
