"""URLs that hold a password or a signature: refused as paths, and shown without it wherever they come up.

Paths are written into plans, the names of parts, footers, logs and pages. What opens a door must not be.
"""

from __future__ import annotations

import re

from hiwl_core.errors import UserError

__all__ = ["USER", "check_no_secret", "without_secrets"]

URL = r"[A-Za-z][A-Za-z0-9+.-]*://"
USER = re.compile(rf"({URL})[^/@\s?#'\"]*@")
QUERY = re.compile(rf"({URL}[^\s?#'\"]*)\?[^\s'\"]*")
# Of presigned URLs of Amazon, Google and Azure, and of web services. A glob has no equals sign behind `?`.
SECRET = re.compile(
    r"[?&](x-amz-[a-z-]+|x-goog-[a-z-]+|awsaccesskeyid|signature|sig|token|[a-z_]*access_token|key|api_?key|"
    r"password|passwd|pwd|secret|auth|authorization|credential)=",
    re.IGNORECASE,
)


def check_no_secret(path: str) -> None:
    """Check that a path is none that must not be written down.

    Raises
    ------
    UserError
        If it is a URL with a user or a password before its host, or with a signature or a key behind it.
    """
    if "://" not in path:
        return
    what = "a user or password" if USER.search(path) else "a signature or key" if SECRET.search(path) else ""
    if what:
        raise UserError(
            f"{without_secrets(path)} was given with {what}, which would be written into plans, names and "
            "logs: give credentials in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE), or download the file"
        )


def without_secrets(text: str) -> str:
    """A text in which URLs have neither a user before their host nor a query with a key behind them."""

    def bare(found: re.Match[str]) -> str:
        return found[1] if SECRET.search(found[0]) else found[0]

    return QUERY.sub(bare, USER.sub(r"\1", text))
