"""What is tried again when a file's store fails, how often, and what is said when that did not help.

A request that failed by a fault on the way is sent again after a wait that doubles and is jittered, so that
many workers that were told to slow down do not return at once. A refusal is an answer: it is not asked again.
The clients' own retries are switched off, or 8 attempts of ours would be 8 x 5 x 5 of theirs.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from hiwl_core.errors import UserError, words_of
from pipeline.retry_policy import (
    FIRST_CONTACT_ATTEMPTS,
    FIRST_WAIT_SECONDS,
    LONGEST_WAIT_SECONDS,
    STORE_ATTEMPTS,
    STORE_PATIENCE_SECONDS,
)

__all__ = ["StoreError", "error_code", "is_refusal", "is_transient", "lacks_credentials", "retried"]

TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
TRANSIENT_CODES = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "InternalServerError",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
    }
)
# By name, since the clients are optional: of botocore, aiohttp, http.client, fsspec, gcsfs and Azure.
TRANSIENT_CLASSES = frozenset(
    {
        "ChecksumError",
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionClosedError",
        "ConnectTimeoutError",
        "EndpointConnectionError",
        "FSTimeoutError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "ProxyError",
        "ReadTimeoutError",
        "ResponseParserError",
        "ResponseStreamingError",
        "ServiceRequestError",
        "ServiceResponseError",
    }
)
# pyarrow's S3 client says what went wrong in the text of an OSError only; Ray Data goes by the same strings.
TRANSIENT_WORDS = (
    "AWS Error INTERNAL_FAILURE",
    "AWS Error NETWORK_CONNECTION",
    "AWS Error REQUEST_TIMEOUT",
    "AWS Error SERVICE_UNAVAILABLE",
    "AWS Error SLOW_DOWN",
    "AWS Error UNKNOWN (HTTP status 503)",
)
NO_CREDENTIALS = frozenset(
    {
        "CredentialRetrievalError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "TokenRetrievalError",
    }
)
# With a status of their own: Azure's and gcsfs's.
ANSWERS = frozenset({"HttpError", "HttpResponseError"})
NO_BUCKET_CODES = frozenset({"ContainerNotFound", "NoSuchBucket"})
REFUSED_CODES = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})
CLOCK_CODES = frozenset({"RequestTimeTooSkewed"})
# S3's own bound. An answer without a body, as to HEAD, does not say that it is refused for this.
MOST_SECONDS_OFF = 15 * 60.0
WRONG_REGION_CODES = frozenset(
    {
        "301",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "Redirect",
    }
)

Result = TypeVar("Result")


class StoreError(OSError):
    """A store that failed as often as it was asked: a fault of the machine, not of a file or its reader."""


def retried(action: Callable[[], Result], path: str, answered: Callable[[], bool] = lambda: True) -> Result:
    """Do something that may be done twice, again and again while a fault on the way prevents it.

    Parameters
    ----------
    action : callable
        One request.
    path : str
        What it is about, for messages.
    answered : callable
        Whether its endpoint has answered this process before; False makes a refused connection a mistake.

    Raises
    ------
    UserError
        For refused credentials, a missing bucket, a wrong region, an endpoint that nobody answers at.
    StoreError
        When it failed `STORE_ATTEMPTS` times or for `STORE_PATIENCE_SECONDS`; with the path, both figures
        and the last fault. Any other error of `action` passes through.
    """
    started = time.monotonic()
    for attempt in range(1, STORE_ATTEMPTS + 1):
        try:
            return action()
        # Which kinds there are depends on the client; what is not known to pass by is raised at once.
        except Exception as error:
            if not is_transient(error):
                mistake = _mistake(error, path)
                if mistake is None:
                    raise
                raise mistake from None
            waited = time.monotonic() - started
            unreachable = _is_unreachable(error) and not answered()
            if unreachable and attempt >= FIRST_CONTACT_ATTEMPTS:
                raise UserError(
                    f"no object store answers for {path} ({_words(error)}): check AWS_ENDPOINT_URL and the "
                    "network"
                ) from None
            if attempt == STORE_ATTEMPTS or waited > STORE_PATIENCE_SECONDS:
                raise StoreError(
                    f"{path}: gave up after {attempt} attempts in {waited:.0f} s, the last failed with: "
                    f"{_words(error)}"
                ) from None
        # That many workers do not return at once, it need not be unforeseeable.
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
        time.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311
    raise AssertionError("the last attempt returns or raises")


def is_transient(error: BaseException) -> bool:
    """Whether an error is a fault on the way, which the same request may not meet again."""
    for link in _chain(error):
        status, code = _answer(link)
        if code or status:
            return status in TRANSIENT_STATUSES or code in TRANSIENT_CODES
        if isinstance(link, (ConnectionError, TimeoutError)) or _named(link, TRANSIENT_CLASSES):
            return True
        if isinstance(link, OSError) and any(words in str(link) for words in TRANSIENT_WORDS):
            return True
    return False


def error_code(error: BaseException) -> str:
    """The code that an S3 server gave, such as ``"NoSuchKey"``; empty if it was not a server that spoke."""
    return next((code for code in (_answer(link)[1] for link in _chain(error)) if code), "")


def lacks_credentials(error: BaseException) -> bool:
    """Whether a client had no credentials at all to sign its request with."""
    return any(_named(link, frozenset({"NoCredentialsError"})) for link in _chain(error))


def is_refusal(error: BaseException) -> bool:
    """Whether a server refused a request for who sent it."""
    return any(_answer(link)[0] == 403 for link in _chain(error))


def _mistake(error: BaseException, path: str) -> UserError | None:
    """The user's mistake that an answer points to, in words without credentials."""
    for link in _chain(error):
        status, code = _answer(link)
        if code in NO_BUCKET_CODES:
            return UserError(f"no bucket of that name for {path}: check the path, or make the bucket first")
        if code in WRONG_REGION_CODES:
            return UserError(f"{path} lies in another region or store ({code}): set AWS_REGION")
        if status == 403 and (code in CLOCK_CODES or _seconds_off(link) > MOST_SECONDS_OFF):
            return UserError(
                f"the object store refuses {path} for its signature's time: the clock of this machine is not "
                "the store's, set it right"
            )
        if status in (401, 403) or code in REFUSED_CODES:
            return UserError(
                f"the object store refuses {path} ({code or status}): check the credentials in the "
                "environment and what they may do"
            )
        if _named(link, NO_CREDENTIALS):
            return UserError(
                f"no credentials for {path}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        if _named(
            link,
            frozenset({"ParamValidationError", "InvalidRegionError", "UnsupportedSignatureVersionError"}),
        ):
            return UserError(f"cannot use the path {path!r}: {_words(link)}")
        if isinstance(link, ValueError) and "Invalid endpoint" in str(link):
            return UserError(f"cannot use AWS_ENDPOINT_URL: {_words(link)}")
    return None


def _seconds_off(error: BaseException) -> float:
    """By how much the time of an S3 server's answer is not that of this machine; 0 if it does not say."""
    response: Any = getattr(error, "response", None)
    said = isinstance(response, dict) and response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(
        "date"
    )
    try:
        return abs(time.time() - parsedate_to_datetime(said).timestamp()) if said else 0.0
    except ValueError:
        return 0.0


def _is_unreachable(error: BaseException) -> bool:
    return any(
        isinstance(link, ConnectionRefusedError)
        or _named(link, frozenset({"EndpointConnectionError", "ConnectTimeoutError"}))
        for link in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was made from."""
    seen = 0
    while error is not None and seen < 8:
        yield error
        error = error.__cause__
        seen += 1


def _answer(error: BaseException) -> tuple[int, str]:
    """HTTP status and code of an error of botocore, gcsfs or Azure; 0 and empty for others."""
    response: Any = getattr(error, "response", None)
    if _named(error, ANSWERS):
        status = str(getattr(error, "status_code", None) or getattr(error, "code", None))
        code: Any = getattr(error, "error_code", None) or ""
        return int(status) if status.isdigit() else 0, str(getattr(code, "value", code))
    if isinstance(error, OSError) and str(error).startswith("Forbidden: "):
        # All that gcsfs says of it.
        return 403, ""
    if not isinstance(response, dict):
        return 0, ""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status or 0), str(response.get("Error", {}).get("Code", ""))


def _named(error: BaseException, names: frozenset[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _words(error: BaseException) -> str:
    """An error on one line, without what a URL in it may say of its user, or ask."""
    text = words_of(error)
    return re.sub(r"\?[^\s\"']+", "", re.sub(r"//[^/@\s]+@", "//", text))[:300]
