"""A stand-in for the Hugging Face Hub on this machine: as much of it as one needs to read and push files.

What the client asks and gets is as in https://huggingface.co/docs/hub/api. All files go with the commit; of
large ones the Hub itself is told by a protocol of the client's own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

__all__ = ["TOKEN", "Hub", "serve_hub"]

TOKEN = "hf_of_the_tests"


@dataclass
class Hub:
    """Repositories: of each its commits, the newest last, and of each commit its files."""

    url: str = ""
    commits: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    down: bool = False

    @staticmethod
    def oid(number: int) -> str:
        """Of a commit."""
        return hashlib.sha1(str(number).encode()).hexdigest()

    def at(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit and its files."""
        for number, files in enumerate(self.commits[repository]):
            if self.oid(number) == revision:
                return revision, files
        newest = len(self.commits[repository]) - 1
        return (self.oid(newest), self.commits[repository][newest]) if revision == "main" else None


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Tests have nothing to read here."""

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        self._resolve()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if self._refused():
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid credentials"})
        elif parts == ["api", "repos", "create"]:
            said = json.loads(body)
            name = "/".join(filter(None, (said.get("organization"), said["name"])))
            there = name in self.hub.commits
            self.hub.commits.setdefault(name, [{}])
            if said.get("private") and not there:
                self.hub.private.add(name)
            self._answer(409 if there else 200, {"url": f"{self.hub.url}/{name}"})
        elif parts == ["api", "validate-yaml"]:
            self._answer(200, {"errors": [], "warnings": []})
        elif parts[4:5] == ["preupload"]:
            found = [
                {
                    "path": one["path"],
                    "uploadMode": "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": found})
        elif parts[4:5] == ["commit"]:
            repository = "/".join(parts[2:4])
            files = dict(self.hub.commits[repository][-1])
            for line in body.splitlines():
                said = json.loads(line)
                if said["key"] == "file":
                    files[said["value"]["path"]] = base64.b64decode(said["value"]["content"])
            self.hub.commits[repository].append(files)
            oid = self.hub.oid(len(self.hub.commits[repository]) - 1)
            answer = {
                "commitUrl": f"{self.hub.url}/{repository}/commit/{oid}",
                "commitOid": oid,
                "success": True,
            }
            self._answer(200, answer)
        else:
            self._answer(404, {"error": f"nothing at {self.path}"})

    def _resolve(self) -> None:
        """OWNER/NAME/resolve/REVISION/FILE."""
        owner, name, _, revision, *rest = unquote(urlsplit(self.path).path).strip("/").split("/") + [""] * 4
        repository, file = f"{owner}/{name}", "/".join(filter(None, rest))
        mine = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if self._refused():
            return
        if repository not in self.hub.commits or (repository in self.hub.private and not mine):
            self._answer(401 if not mine else 404, {}, {"X-Error-Code": "RepoNotFound"})
            return
        found = self.hub.at(repository, revision)
        if found is None:
            self._answer(404, {}, {"X-Error-Code": "RevisionNotFound"})
        elif file not in found[1]:
            self._answer(404, {}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": found[0]})
        else:
            content = found[1][file]
            mark = f'"{hashlib.sha256(content).hexdigest()}"'
            self._send(200, content, {"X-Repo-Commit": found[0], "ETag": mark})

    def _refused(self) -> bool:
        if self.hub.down:
            self._answer(503, {"error": "down"})
        return self.hub.down

    def _answer(self, status: int, said: dict[str, object], headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(said).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """The stand-in for the length of a ``with`` block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
