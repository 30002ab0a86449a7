"""The client of an S3 store: made with one layer of retries, which is ours, and listings that are quick."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import fsspec

from hiwl_core.errors import UserError, if_missing
from pipeline.storage.secret_urls import USER

__all__ = ["CONNECT_SECONDS", "READ_SECONDS", "s3_client"]

ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
CONNECT_SECONDS, READ_SECONDS = 10, 30
CONNECTIONS = 32


def s3_client(unsigned: bool) -> Any:
    """A filesystem of s3fs that is nobody else's, for the store that the environment names.

    Parameters
    ----------
    unsigned : bool
        Whether requests are not signed, as of public buckets.

    Raises
    ------
    UserError
        If s3fs is not installed, or an endpoint has a password in it.
    """
    for name in ENDPOINTS:
        if USER.search(os.environ.get(name, "")):
            # It would not help either: requests to stores are signed.
            raise UserError(
                f"{name} has a user or password in it: give credentials as AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or as AWS_PROFILE"
            )
    with if_missing("paths such as s3://bucket/key need s3fs: pip install 'hiwl[s3]'"):
        import aiobotocore.session

        session = aiobotocore.session.get_session()
        parsers = session.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=_moment)
        filesystem = fsspec.filesystem(
            "s3",
            session=session,
            anon=unsigned,
            # fsspec would make one client a thread.
            skip_instance_cache=True,
            # A listing must show what other processes wrote since.
            use_listings_cache=False,
            config_kwargs={
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "max_pool_connections": CONNECTIONS,
                # One layer tries again: `pipeline.storage.retries`.
                "retries": {"mode": "standard", "total_max_attempts": 1},
            },
        )
    filesystem.retries = 1
    return filesystem


def _moment(text: Any) -> datetime:
    """A time in an answer; botocore's own way to read one, of any form, is most of the work of a listing."""
    from botocore.utils import parse_timestamp

    is_utc = isinstance(text, str) and text.endswith("Z")
    moment: datetime = datetime.fromisoformat(text) if is_utc else parse_timestamp(text)
    return moment
