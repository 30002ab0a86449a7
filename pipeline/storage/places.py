"""Where a path lies: on a local disk, in S3, or behind another of fsspec's filesystems."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from hiwl_core.errors import UserError
from pipeline.retry_policy import STORE_ATTEMPTS
from pipeline.storage.s3_client import CONNECT_SECONDS, READ_SECONDS
from pipeline.storage.s3_store import shared_store
from pipeline.storage.secret_urls import check_no_secret

__all__ = ["absolute", "arrow_path", "filesystem_of", "full_name", "in_s3"]

GLOB_CHARACTERS = frozenset("*?[")
EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""By scheme, what brings the package that fsspec reads it with."""


def absolute(path: str) -> str:
    """The path in a form that any worker on any node understands: a URL unchanged, a local path absolute.

    Raises
    ------
    UserError
        If it is a URL with a password or a signature, which would be written down.
    """
    check_no_secret(path)
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def in_s3(path: str) -> bool:
    """Whether a path is a place in S3."""
    return path.startswith(("s3://", "s3a://"))


def filesystem_of(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a path outside S3, and the path's name in it.

    Raises
    ------
    UserError
        If the URL's scheme is unknown, or its package is missing.
    """
    # A listing must show what other processes wrote since. Chained URLs (a::b) take no options of one link.
    options = {} if "::" in path else {"use_listings_cache": False}
    try:
        filesystem, place = fsspec.core.url_to_fs(absolute(path), **options)
    except (ImportError, ValueError) as error:
        extra = EXTRAS.get(path.split("://")[0]) if isinstance(error, ImportError) else None
        hint = f": pip install 'hiwl[{extra}]'" if extra else ""
        raise UserError(f"cannot use the path {path!r}: {error}{hint}") from None
    return filesystem, place


def full_name(filesystem: fsspec.AbstractFileSystem, name: str, path: str) -> str:
    """A filesystem's own name of a file, found by a path, as a path or URL."""
    if isinstance(filesystem, LocalFileSystem):
        return name
    full = str(filesystem.unstrip_protocol(name))
    # One that has several schemes says its first: abfs of what was asked for as az.
    return full if "::" in path else path.split("://")[0] + full[full.index("://") :]


def arrow_path(path: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """A path for pyarrow: its filesystem, and the path's name in it.

    S3 is pyarrow's own client with the endpoint of the environment, which retries by itself; local paths are
    its local filesystem; all else is fsspec's filesystem, wrapped. It can be pickled: credentials of the
    environment are not in it, so each worker uses its own.
    """
    if in_s3(path):
        # Checks that there are an S3 client and a bucket's name.
        store = shared_store()
        bucket, key = store.split(path)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
        return _arrow_s3(
            os.getpid(), hash(settings), endpoint, region, store.unsigned
        ), f"{bucket}/{key}".rstrip("/")
    filesystem, place = filesystem_of(path)
    if isinstance(filesystem, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem(), place
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem)), place


class _PatientS3(pyarrow.fs.S3FileSystem):
    """pyarrow's S3 with our bounds on waiting, which its own pickling would lose on the way to a worker."""

    def __init__(self, endpoint: str | None, region: str | None, unsigned: bool = False) -> None:
        self._place = (endpoint, region, unsigned)
        super().__init__(
            anonymous=unsigned,
            endpoint_override=endpoint.split("://")[-1].rstrip("/") if endpoint else None,
            # A bare host would be asked by https.
            scheme=urlsplit(endpoint).scheme if endpoint and "://" in endpoint else None,
            region=region,
            connect_timeout=CONNECT_SECONDS,
            request_timeout=READ_SECONDS,
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=STORE_ATTEMPTS),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _PatientS3, self._place


@lru_cache(maxsize=8)
def _arrow_s3(
    process: int, settings: int, endpoint: str | None, region: str | None, unsigned: bool
) -> _PatientS3:
    return _PatientS3(endpoint, region, unsigned)
