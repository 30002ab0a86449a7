"""The dashboard of a running Ray cluster, to which jobs go: where it is, how to reach it, what it refuses.

Ray itself finds the cluster's token: ``RAY_AUTH_MODE=token`` and ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``
or the file ``~/.ray/auth_token``. It is never read here.
"""

from __future__ import annotations

import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from hiwl_core.errors import UserError, words_of
from pipeline.named_cluster import named_cluster

__all__ = ["connect_head", "dashboard_url", "refusals_in_words", "without_password"]

# Where `ray dashboard cluster.yaml` forwards the head's dashboard to.
DEFAULT_URL = "http://127.0.0.1:8265"
CONNECT_SECONDS = 10.0

# These speak of sockets and addresses at INFO; what matters to the user is said here.
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
        chosen = named_cluster() or DEFAULT_URL
        if chosen in ("auto", "local"):
            chosen = DEFAULT_URL
        elif not chosen.startswith(("http://", "https://")):
            raise UserError(
                f"RAY_ADDRESS={without_password(chosen)!r} is where programs connect to Ray, jobs go to the "
                "dashboard of the head node: give its URL, such as --address http://HEAD:8265"
            )
    url = (chosen if "://" in chosen else f"http://{chosen}").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--address {without_password(url)!r}: give the dashboard's URL, http://HEAD:8265")
    return url


def connect_head(url: str) -> JobSubmissionClient:
    """Ray's client of a dashboard that answers; call it within `refusals_in_words`.

    Parameters
    ----------
    url : str
        From `dashboard_url`.

    Raises
    ------
    UserError
        If nobody answers within ten seconds, or the file of the token is not there.
    """
    token_path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if token_path and not os.environ.get("RAY_AUTH_TOKEN") and not Path(token_path).is_file():
        # Ray ends the whole process over this.
        raise UserError(f"RAY_AUTH_TOKEN_PATH={token_path!r} is no file: name the file that holds the token")
    # Ray's client waits as long as the operating system does, minutes, for a host that drops packets.
    try:
        urllib.request.urlopen(f"{url}/api/version", timeout=CONNECT_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        pass  # Something answers; Ray's client, which knows the token, finds out what.
    except (OSError, ValueError, HTTPException) as error:
        reason = words_of(getattr(error, "reason", error), 300)
        raise UserError(
            f"no Ray dashboard answers at {without_password(url)} ({reason}): check --address, and that the "
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


@contextmanager
def refusals_in_words(url: str, job_id: str | None, refused: str) -> Iterator[None]:
    """Give what a cluster refuses, for the length of a ``with`` block, in one line.

    Parameters
    ----------
    url : str
    job_id : str or None
        The job that is asked for, if there is one.
    refused : str
        What did not happen, such as ``"did not take the job"``.

    Raises
    ------
    UserError
        For a wrong token, an id that is taken or unknown, or with the last line of what the cluster says.
    """
    shown = without_password(url)
    try:
        yield
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
        if job_id is not None and "does not exist" in str(error):
            raise UserError(f"no job {job_id!r} on {shown}: `hiwl jobs list` names those there are") from None
        # Ray answers with the server's whole traceback; its last line is the reason.
        reason = (str(error).replace("\\n", "\n").strip().splitlines() or [type(error).__name__])[-1]
        raise UserError(f"the Ray cluster at {shown} {refused}: {reason}") from error


def without_password(url: str) -> str:
    """A URL that may be shown."""
    return re.sub(r"//[^/@]*@", "//", url)
