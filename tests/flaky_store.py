"""A network between S3 clients and their store that fails by seed: for tests of what survives it.

A proxy that now and then answers 503 or 500, loses a request or its answer, cuts a body in its middle, or is
slow. Clients sign the host that they call, and it is passed on as they sent it, so signatures stay valid.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from yarl import URL

__all__ = ["FlakyStore", "flaky"]

HOP_BY_HOP = frozenset({"connection", "content-length", "expect", "keep-alive", "transfer-encoding"})
ERRORS = ((503, "SlowDown"), (500, "InternalError"))


@dataclass
class FlakyStore:
    """The proxy, and what it did.

    Parameters
    ----------
    endpoint : str
        For ``AWS_ENDPOINT_URL``.
    failing : float
        Share of the requests that are answered with an error; may be changed at any time.
    stale : bool
        Whether a listing is answered as it was when it was first asked for; may be changed at any time.
    requests, errors, cuts, delays : int
        Requests that came, and those of them that were answered with an error, cut off, and made to wait.
    """

    endpoint: str = ""
    failing: float = 0.0
    stale: bool = False
    requests: int = 0
    errors: int = 0
    cuts: int = 0
    delays: int = 0


@contextmanager
def flaky(
    endpoint: str,
    seed: int,
    errors: float = 0.0,
    cuts: float = 0.0,
    delays: float = 0.0,
    delay_seconds: float = 0.05,
    methods: Sequence[str] = (),
) -> Iterator[FlakyStore]:
    """A proxy before a store for the length of a ``with`` block.

    Parameters
    ----------
    endpoint : str
        The store's.
    seed : int
    errors, cuts, delays : float
        Shares of the requests; which ones depends on the seed and on the order in which they come.
    delay_seconds : float
        A delay, at most.
    methods : sequence of str
        Those that fail; default: all.
    """
    store, random_faults = FlakyStore(failing=errors), random.Random(seed)
    loop, started = asyncio.new_event_loop(), threading.Event()
    stop: asyncio.Future[None] = loop.create_future()
    listings: dict[str, tuple[int, dict[str, str], bytes]] = {}

    async def handle(request: web.Request) -> web.StreamResponse:
        store.requests += 1
        fault, delay, kind = (random_faults.random() for _ in range(3))
        if methods and request.method not in methods:
            fault = delay = 1.0
        if delay < delays:
            store.delays += 1
            await asyncio.sleep(delay_seconds * delay / delays)
        body = await request.read()
        if fault < store.failing:
            store.errors += 1
            status, code = ERRORS[int(kind * len(ERRORS))]
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Try again</Message></Error>"
            return web.Response(status=status, text=text, content_type="application/xml")
        cut = fault < store.failing + cuts
        store.cuts += cut
        if cut and kind < 1 / 3:
            return _lost(request)
        kept = listings.get(request.raw_path) if store.stale else None
        try:
            status, headers, content = kept or await _forward(session, endpoint, request, body)
        except aiohttp.ClientError:
            # The store is away.
            return _lost(request)
        if "list-type=" in request.query_string:
            listings.setdefault(request.raw_path, (status, headers, content))
        if cut and (kind < 2 / 3 or len(content) < 2):
            return _lost(request)
        answer = web.StreamResponse(status=status, headers=headers)
        if request.method != "HEAD":
            answer.content_length = len(content)
        await answer.prepare(request)
        if cut:
            await answer.write(content[: len(content) // 2])
            return _lost(request, answer)
        if request.method != "HEAD":
            await answer.write(content)
        await answer.write_eof()
        return answer

    async def serve() -> None:
        nonlocal session
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            # An application answers those who ask whether to go on with a body; a bare server does not.
            application = web.Application(client_max_size=2**30)
            application.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(application, access_log=None, auto_decompress=False, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            store.endpoint = "http://127.0.0.1:{1}".format(*runner.addresses[0])
            started.set()
            await stop
            await runner.cleanup()

    session: aiohttp.ClientSession
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    if not started.wait(10):
        raise TimeoutError("the proxy did not start")
    try:
        yield store
    finally:
        loop.call_soon_threadsafe(stop.set_result, None)
        thread.join(10)
        loop.close()


async def _forward(
    session: aiohttp.ClientSession, endpoint: str, request: web.Request, body: bytes
) -> tuple[int, dict[str, str], bytes]:
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
    async with session.request(
        request.method,
        URL(endpoint + request.raw_path, encoded=True),
        headers=headers,
        data=body,
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        allow_redirects=False,
    ) as answer:
        kept = {"content-length"} if request.method == "HEAD" else set()
        return (
            answer.status,
            {n: v for n, v in answer.headers.items() if n.lower() not in HOP_BY_HOP - kept},
            await answer.read(),
        )


def _lost(request: web.Request, answer: web.StreamResponse | None = None) -> web.StreamResponse:
    """Reset the connection."""
    if request.transport is not None:
        request.transport.abort()
    return answer or web.StreamResponse()
