"""A bucket that anybody may read, by somebody who has no credentials."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hiwl_core.errors import UserError
from pipeline import storage
from pipeline.shards.cutout_shards import Columns, list_shards, read_columns

PLACE = "s3://public/field/a.parquet"


@contextmanager
def public_store(content: bytes, public: bool = True) -> Iterator[str]:
    """A store of one object that answers unsigned requests to read, and no others; its endpoint."""

    class Handler(BaseHTTPRequestHandler):
        # Clients ask whether to go on before they send anything, which 1.0 does not know.
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes, kind: str = "application/xml") -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            if not public or "Authorization" in self.headers:
                self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
            elif self.path.startswith("/public/field/a.parquet"):
                asked = re.match(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
                if asked is None or self.command == "HEAD":
                    self.answer(200, content, "application/octet-stream")
                    return
                first = int(asked[1]) if asked[1] else len(content) - int(asked[2])
                last = int(asked[2]) + 1 if asked[1] and asked[2] else len(content)
                self.answer(206, content[first:last], "application/octet-stream")
            elif "list-type" in self.path:
                size = len(content)
                found = f"<Contents><Key>field/a.parquet</Key><Size>{size}</Size><ETag>1</ETag></Contents>"
                start = "<ListBucketResult><IsTruncated>false</IsTruncated>"
                self.answer(200, f"{start}{found}</ListBucketResult>".encode())
            else:
                self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

        do_HEAD = do_GET

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("asked", ["", "true"], ids=["no credentials", "AWS_NO_SIGN_REQUEST"])
def test_a_public_bucket_is_read_without_credentials(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"object_id": [1, 2, 3]}), buffer)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    if asked:
        # Whoever asks for it is not signed for, though there are credentials.
        monkeypatch.setenv("AWS_NO_SIGN_REQUEST", asked)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "else")
    with public_store(buffer.getvalue()) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert list_shards("s3://public/field") == [PLACE]
        assert read_columns(PLACE, Columns(), ["object_id"]).num_rows == 3
        filesystem, name = storage.arrow_path(PLACE)
        assert pq.read_table(name, filesystem=filesystem).num_rows == 3
        words = "refuses s3://.*check the credentials" if asked else "no credentials for s3://.* not public"
        with pytest.raises(UserError, match=words):
            storage.write_bytes("s3://public/field/b.parquet", b"x")
    with public_store(b"", public=False) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(UserError, match=words):
            list_shards("s3://public/field")
