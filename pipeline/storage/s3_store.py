"""Requests to an S3 store: each is retried by itself, so a long listing or upload goes on where it was."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from fsspec.asyn import sync

from hiwl_core.errors import UserError
from pipeline.retry_policy import CONFLICT_ATTEMPTS
from pipeline.storage.retries import error_code, is_refusal, lacks_credentials, retried
from pipeline.storage.s3_client import s3_client
from pipeline.storage.secret_urls import check_no_secret

__all__ = ["SETTLE_SECONDS", "S3Store", "shared_store"]

MEBIBYTE = 2**20
NO_SIGN = "AWS_NO_SIGN_REQUEST"
# A request as a whole: what the slowest network worth waiting for needs.
REQUEST_SECONDS, BYTES_PER_SECOND = 60.0, MEBIBYTE
# Servers take 5 GB in one PUT; below this a lost connection costs little.
SINGLE_PUT_BYTES = 64 * MEBIBYTE
PART_BYTES = 32 * MEBIBYTE
PAGE_KEYS = 1000
# A PUT of a small object that began before ours is done by then.
SETTLE_SECONDS = 2.0
ALREADY_THERE = frozenset({"PreconditionFailed", "412"})
CONFLICT = frozenset({"ConditionalRequestConflict", "409"})
NO_CONDITIONS = frozenset({"NotImplemented", "501"})


def shared_store() -> S3Store:
    """The store that the environment names now, one for all threads of this process."""
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    # By process: a forked child has neither the threads nor the connections of its parent.
    key = (os.getpid(), hash(settings))
    with _making:
        if key not in _stores:
            _stores[key] = S3Store()
        return _stores[key]


def _after_fork() -> None:
    global _making
    # Another thread of the parent may have held it.
    _making = threading.Lock()


# A client costs a third of a second: the first reading threads wait for one rather than make one each.
_making = threading.Lock()
_stores: dict[tuple[int, int], S3Store] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class S3Store:
    """One S3 endpoint; safe to use from many threads.

    Paths are ``s3://bucket/key``. For errors see `pipeline.storage.retries.retried`; a missing key is a
    FileNotFoundError. `reads` and `bytes_read` count what was got, for estimates of traffic.

    A bucket may be public: requests are not signed where ``AWS_NO_SIGN_REQUEST`` says so, and where there are
    no credentials to sign them with.

    Attributes
    ----------
    unsigned : bool
        Whether requests are not signed.
    """

    def __init__(self) -> None:
        self.unsigned = self._public = os.environ.get(NO_SIGN, "").lower() in ("1", "true", "yes", "on")
        self._connect()
        self._answered = False
        self._knows_conditions: bool | None = None
        self.reads, self.bytes_read = 0, 0
        self._counting = threading.Lock()

    def _connect(self) -> None:
        self._filesystem = s3_client(self.unsigned)

    def split(self, path: str) -> tuple[str, str]:
        """Bucket and key of a path."""
        check_no_secret(path)
        bucket, key, _ = self._filesystem.split_path(path)
        if not bucket:
            raise UserError(f"no bucket in {path!r}: write s3://bucket/key")
        return bucket, key

    def pages(
        self, path: str, bucket: str, prefix: str, delimiter: str = "", limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Pages of a listing; each has its objects in ``Contents``."""
        request: dict[str, Any] = {
            "Bucket": bucket,
            "Prefix": prefix,
            "Delimiter": delimiter,
            "MaxKeys": limit or PAGE_KEYS,
        }
        while True:
            page = self._call(path, "list_objects_v2", **request)
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def head(self, path: str) -> dict[str, Any] | None:
        """Size (``ContentLength``) and ``ETag`` of an object; None if there is none."""
        bucket, key = self.split(path)
        if not key:
            return None
        try:
            return self._call(path, "head_object", Bucket=bucket, Key=key)
        except FileNotFoundError:
            return None

    def read(self, path: str, **conditions: str) -> tuple[bytes, dict[str, Any]]:
        """An object's content, all or a ``Range`` of it, with the answer's headers."""
        bucket, key = self.split(path)
        if not key:
            raise FileNotFoundError(path)

        def get() -> tuple[bytes, dict[str, Any]]:
            filesystem = self._filesystem
            answer = filesystem.call_s3(
                "get_object", Bucket=bucket, Key=key, timeout=REQUEST_SECONDS, **conditions
            )
            body, length = answer["Body"], int(answer["ContentLength"])
            try:
                content = sync(filesystem.loop, body.read, timeout=_allowed_seconds(length))
            finally:
                body.close()
            if len(content) != length:
                raise ConnectionError(f"{len(content)} of {length} bytes came")
            with self._counting:
                self.reads += 1
                self.bytes_read += length
            return content, answer

        try:
            found: tuple[bytes, dict[str, Any]] = self._retried(get, path)
        except FileNotFoundError:
            raise FileNotFoundError(f"no file {path!r}") from None
        return found

    def write(self, path: str, content: bytes) -> None:
        """Put an object whole or not at all; the server checks what arrives against its MD5."""
        bucket, key = self.split(path)
        if not key:
            raise UserError(f"no name in {path!r}: write s3://bucket/key")
        if len(content) <= SINGLE_PUT_BYTES:
            self._put(path, "put_object", content, Bucket=bucket, Key=key)
        else:
            self._write_parts(path, bucket, key, content)

    def create(self, path: str, content: bytes) -> bool:
        """Put a small object if there is none of its name; whether it is this call's.

        A store that knows conditions of a PUT decides. With one that does not, the last of several has it,
        and each looks after a pause whether that is he.

        Parameters
        ----------
        path : str
        content : bytes
            That nobody else would write.
        """
        if self.head(path) is not None or not self._put_if_none(path, content):
            return False
        # The same again tells whether the store knows conditions: it refuses what is there.
        if self._knows_conditions is None:
            self._knows_conditions = not self._put_if_none(path, content, again=True)
        if not self._knows_conditions:
            time.sleep(SETTLE_SECONDS)
        return self.read(path)[0] == content

    def _put_if_none(self, path: str, content: bytes, again: bool = False) -> bool:
        bucket, key = self.split(path)
        for _ in range(CONFLICT_ATTEMPTS):
            condition = {} if self._knows_conditions is False else {"IfNoneMatch": "*"}
            try:
                self._put(path, "put_object", content, Bucket=bucket, Key=key, **condition)
                return True
            except OSError as error:
                code = error_code(error)
                if code in ALREADY_THERE:
                    # It may be an attempt of this very call, whose answer was lost, that made it.
                    return not again and self.read(path)[0] == content
                if code in NO_CONDITIONS and condition:
                    self._knows_conditions = False
                elif code not in CONFLICT:
                    raise
        return False

    def delete(self, path: str) -> None:
        """Delete an object and everything in the folder of that name, if there is any."""
        bucket, key = self.split(path)
        if not key.strip("/"):
            raise ValueError(f"{path!r} is a whole bucket: not removed")
        self._call(path, "delete_object", Bucket=bucket, Key=key.rstrip("/"))
        for page in self.pages(path, bucket, key.rstrip("/") + "/"):
            keys = [{"Key": found["Key"]} for found in page.get("Contents", [])]
            if keys:
                answer = self._call(
                    path, "delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True}
                )
                if answer.get("Errors"):
                    first = answer["Errors"][0]
                    raise OSError(f"could not delete s3://{bucket}/{first['Key']}: {first.get('Code')}")

    def _write_parts(self, path: str, bucket: str, key: str, content: bytes) -> None:
        target: dict[str, Any] = {"Bucket": bucket, "Key": key}
        # Should its answer be lost, an empty upload stays behind: what a bucket's lifecycle rule clears.
        upload = self._call(path, "create_multipart_upload", **target)["UploadId"]
        try:
            parts, digests = [], b""
            for number, start in enumerate(range(0, len(content), PART_BYTES), start=1):
                piece = content[start : start + PART_BYTES]
                answer = self._put(path, "upload_part", piece, **target, PartNumber=number, UploadId=upload)
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
                digests += _md5(piece)
            try:
                self._call(
                    path,
                    "complete_multipart_upload",
                    **target,
                    UploadId=upload,
                    MultipartUpload={"Parts": parts},
                )
            except FileNotFoundError:
                # The upload is gone because an attempt whose answer was lost had completed it.
                there = self.head(path) or {}
                etag = f"{_md5(digests).hex()}-{len(parts)}"
                found = str(there.get("ETag", "")).strip('"')
                if there.get("ContentLength") != len(content) or found != etag:
                    raise
        except BaseException:
            with suppress(OSError, UserError):
                self._call(path, "abort_multipart_upload", **target, UploadId=upload)
            raise

    def _put(self, path: str, method: str, content: bytes, **request: Any) -> dict[str, Any]:
        return self._call(
            path,
            method,
            Body=content,
            ContentMD5=base64.b64encode(_md5(content)).decode(),
            timeout=_allowed_seconds(len(content)),
            **request,
        )

    def _call(
        self, path: str, method: str, timeout: float = REQUEST_SECONDS, **request: Any
    ) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            answer: dict[str, Any] = self._filesystem.call_s3(method, timeout=timeout, **request)
            return answer

        return self._retried(call, path)

    def _retried(self, request: Callable[[], Any], path: str) -> Any:
        def noticed() -> Any:
            try:
                answer = self._signed_or_not(request)
            except Exception as error:
                self._answered |= bool(error_code(error))
                if self.unsigned and not self._public and is_refusal(error):
                    raise UserError(
                        f"no credentials for {path}, which is not public: set AWS_ACCESS_KEY_ID and "
                        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                    ) from None
                raise
            self._answered = True
            return answer

        return retried(noticed, path, lambda: self._answered)

    def _signed_or_not(self, request: Callable[[], Any]) -> Any:
        """What a request answers; without a signature if there is nothing to sign it with."""
        try:
            return request()
        except Exception as error:
            if self.unsigned or not lacks_credentials(error):
                raise
        self.unsigned = True
        self._connect()
        return request()


def _md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


def _allowed_seconds(size: int) -> float:
    return REQUEST_SECONDS + size / BYTES_PER_SECOND
