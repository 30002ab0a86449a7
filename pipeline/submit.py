"""A command as a job on a running Ray cluster: sent over HTTP, to be followed as a `ClusterJob`.

Nothing that the command is to read or write is looked for here: it is on the cluster, or in a store that the
cluster sees.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hiwl_core.errors import UserError
from pipeline.cluster_jobs import ClusterJob
from pipeline.job_client import connect_head, dashboard_url, refusals_in_words, without_password

__all__ = ["submit"]


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
        See `pipeline.job_client.dashboard_url`.
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
    runtime_env: dict[str, Any] = {"env_vars": dict(env)} if env else {}
    if working_dir is not None:
        runtime_env["working_dir"] = working_dir
    with refusals_in_words(url, job_id, "did not take the job"):
        client = connect_head(url)
        name = client.submit_job(
            entrypoint=shlex.join(command),
            submission_id=job_id,
            runtime_env=runtime_env,
            entrypoint_num_cpus=0,
        )
    return ClusterJob(client, name, without_password(url))
