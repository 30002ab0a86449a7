"""The page's server: on this machine only, for those who know its address.

The address has a token of 32 random bytes, without which there is nothing. Browsers are told to load nothing
from elsewhere, and a page elsewhere cannot ask here: its host name would be another one. Reading is by GET,
labels are given by POST, in JSON, which a form of another site cannot send.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from aiohttp import web

from hiwl_core.errors import IncompleteError, UserError
from pipeline import pages
from pipeline.exploring.asked import parse_asked, parse_given
from pipeline.exploring.explorer import Explorer
from pipeline.exploring.labels import export_bytes, exported
from pipeline.pages.cards import Thumbnail
from pipeline.pages.scale_bars import scale_bar

__all__ = ["ADDRESS", "Server"]

Answer = TypeVar("Answer")
ADDRESS = "127.0.0.1"
HOSTS = ("127.0.0.1", "localhost")
FILES = {
    "": ("explore.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "explore.css": ("explore.css", "text/css"),
    "explore.js": ("explore.js", "text/javascript"),
    "explore_planes.js": ("explore_planes.js", "text/javascript"),
}
TEMPLATES = Path(pages.__file__).parent / "templates"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MOST_BYTES = 64 * 1024
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Asker:
    """Questions from the event loop, one after the other in a thread: DuckDB uses all cores for each.

    Parameters
    ----------
    interrupt : callable
        Ends the question that is being answered.
    """

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._thread = ThreadPoolExecutor(1)
        self._running: object | None = None

    async def ask(self, question: Callable[..., Answer], *arguments: Any) -> Answer:
        """The answer to a question. Whoever goes away before it has come ends the question."""
        mine = object()

        def run() -> Answer:
            self._running = mine
            try:
                return question(*arguments)
            finally:
                self._running = None

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, run)
        except asyncio.CancelledError:
            if self._running is mine:
                self._interrupt()
            raise

    def close(self) -> None:
        """End the question that is being answered, and answer no others."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._interrupt()
        self._thread.shutdown()


@dataclass
class Server:
    """The server of an explorer.

    Parameters
    ----------
    explorer : Explorer
    port : int
        0 for any that is free.
    """

    explorer: Explorer
    port: int = 0
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    _first: asyncio.Future[None] | None = field(default=None, init=False)

    async def start(self) -> str:
        """Begin to serve; the address of the page.

        Raises
        ------
        UserError
            If the port is taken.
        """
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BYTES)
        for method, path, handler in (
            ("GET", "api/facts", self._facts),
            ("GET", "api/rows", self._rows),
            ("GET", "api/counts", self._counts),
            ("GET", "api/plane", self._plane),
            ("GET", "api/sql", self._sql),
            ("GET", "api/image", self._image),
            ("GET", "api/scale", self._scale),
            ("GET", "labels.csv", self._export),
            ("POST", "api/label", self._label),
            ("POST", "api/undo", self._undo),
            *(("GET", name, self._file) for name in FILES),
        ):
            app.router.add_route(method, f"/{{token}}/{path}", handler)
        self._asker = _Asker(self.explorer.view.interrupt)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, ADDRESS, self.port)
        try:
            await site.start()
        except OSError as error:
            await self.close()
            raise UserError(
                f"port {self.port} of this machine: {error.strerror}; choose another with --port, 0 for any"
            ) from None
        # While people copy the address.
        self._first = asyncio.ensure_future(self._asker.ask(self.explorer.first_page))
        # What is wrong with it the page is told when it asks itself.
        self._first.add_done_callback(lambda first: first.cancelled() or first.exception())
        port = self._runner.addresses[0][1]
        return f"http://{ADDRESS}:{port}/{self.token}/"

    async def close(self) -> None:
        """End, and whatever is being asked with it."""
        if self._first is not None:
            self._first.cancel()
        await self._runner.cleanup()
        self._asker.close()
        self.explorer.images.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response: web.StreamResponse
        token = request.match_info.get("token", "")
        if not _is_ours(request):
            response = web.Response(status=403, text="this page is for 127.0.0.1")
        elif not secrets.compare_digest(token.encode(errors="replace"), self.token.encode()):
            response = web.Response(status=404, text="there is nothing here")
        else:
            try:
                response = await handler(request)
            except web.HTTPException as error:
                response = web.Response(status=error.status, text=error.reason)
            except (UserError, IncompleteError, OSError) as error:
                response = _said({"error": str(error)}, 400 if isinstance(error, UserError) else 503)
        response.headers.update(HEADERS)
        return response

    async def _file(self, request: web.Request) -> web.Response:
        name, kind = FILES[request.path.rsplit("/", 1)[-1]]
        return web.Response(body=(TEMPLATES / name).read_bytes(), content_type=kind, charset="utf-8")

    async def _facts(self, request: web.Request) -> web.Response:
        return _said(self.explorer.facts())

    async def _rows(self, request: web.Request) -> web.Response:
        asked = parse_asked(request.query.get("asked", ""))
        start, count = (_integer(request, name) for name in ("start", "count"))
        return _said(await self._asker.ask(self.explorer.rows, asked, start, count))

    async def _counts(self, request: web.Request) -> web.Response:
        return _said(await self._asker.ask(self.explorer.counts, parse_asked(request.query.get("asked", ""))))

    async def _plane(self, request: web.Request) -> web.Response:
        asked = parse_asked(request.query.get("asked", ""))
        x, y = (request.query.get(name, "") for name in ("x", "y"))
        ends = (_ends(request.query.get(f"{name}_ends")) for name in ("x", "y"))
        return _said(await self._asker.ask(self.explorer.plane, asked, x, y, *ends))

    async def _sql(self, request: web.Request) -> web.Response:
        return _said(await self._asker.ask(self.explorer.answer, request.query.get("sql", "")))

    async def _image(self, request: web.Request) -> web.Response:
        picture = await self._picture(request)
        if isinstance(picture, str):
            return web.Response(status=404, text=picture)
        return web.Response(body=picture.image, content_type="image/jpeg")

    async def _scale(self, request: web.Request) -> web.Response:
        picture = await self._picture(request)
        bar = None if isinstance(picture, str) else scale_bar(picture.arcsec)
        return _said({"bar": None if bar is None else bar._asdict()})

    async def _picture(self, request: web.Request) -> Thumbnail | str:
        place = self.explorer.place_of(request.query.get("part", ""), request.query.get("id", ""))
        if place is None:
            return "reload the page"
        try:
            return await asyncio.wrap_future(self.explorer.images.picture(place))
        except KeyError:
            return self.explorer.images.why_not or "reload the page"

    async def _export(self, request: web.Request) -> web.Response:
        content = export_bytes(exported(self.explorer.labels), "labels.csv")
        attached = {"Content-Disposition": 'attachment; filename="labels.csv"'}
        return web.Response(body=content, content_type="text/csv", charset="utf-8", headers=attached)

    async def _label(self, request: web.Request) -> web.Response:
        return _said(self.explorer.label(parse_given(await _json(request))))

    async def _undo(self, request: web.Request) -> web.Response:
        await _json(request)
        return _said(self.explorer.undo())


def _is_ours(request: web.Request) -> bool:
    """Whether this machine was asked by its own name, and by no page of another site."""
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    try:
        return urlsplit(f"//{host}").hostname in HOSTS and origin in (None, f"http://{host}")
    except ValueError:
        return False


def _said(answer: dict[str, Any], status: int = 200) -> web.Response:
    text = json.dumps(answer, allow_nan=False)
    return web.Response(text=text, content_type="application/json", status=status)


async def _json(request: web.Request) -> str:
    if request.content_type != "application/json":
        raise UserError("JSON is wanted")
    return await request.text()


def _integer(request: web.Request, name: str) -> int:
    try:
        return int(request.query.get(name, ""))
    except ValueError:
        raise UserError(f"{name} is a whole number") from None


def _ends(text: str | None) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        low, high = sorted(map(float, text.split(",")))
    except ValueError:
        raise UserError(f"ends {text!r}: two numbers are wanted") from None
    if not low < high or not all(map(math.isfinite, (low, high))):
        raise UserError(f"ends {text!r}: two different numbers are wanted")
    return low, high
