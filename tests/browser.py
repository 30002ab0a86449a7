"""A headless Chromium that opens pages and says what a reader would notice.

It is spoken to by the DevTools protocol over a pipe (https://chromedevtools.github.io/devtools-protocol/),
which needs no driver and no port.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Browser", "Page", "chromium", "open_browser"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_SECONDS = 120.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
# What a reader would notice: text that is cut off, pictures that are not there, a page that slides sideways.
LOOK = """(() => {
  for (const fold of document.querySelectorAll('details')) fold.open = true;
  const root = document.documentElement, name = e => e.tagName + '.' + e.className + ' ' +
    e.textContent.trim().slice(0, 40);
  const cut = e => e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1;
  const all = [...document.body.querySelectorAll('*')];
  const scrolls = e => e.closest('.scroll') !== null;
  return {
    overflow: root.scrollWidth - root.clientWidth,
    wide: all.filter(e => !scrolls(e) && e.getBoundingClientRect().right > root.clientWidth + 1).map(name),
    clipped: all.filter(e => getComputedStyle(e).overflowX === 'hidden' && cut(e))
      .map(name),
    images: document.images.length,
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt),
    headings: [...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1])),
    height: root.scrollHeight,
  };
})()"""
# The lowest ratio of contrast of any text with what lies under it, as WCAG 2 defines it, and where that is.
CONTRAST = """(() => {
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const channel = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
  const ground = e => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  let worst = [99, ''];
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const e = words.currentNode.parentElement, text = words.currentNode.textContent.trim();
    if (!text || e.matches('style')) continue;
    const under = ground(e), a = light(over(parse(getComputedStyle(e).color), under)), b = light(under);
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, e.tagName + ': ' + text.slice(0, 40)];
  }
  return worst;
})()"""


def chromium() -> str | None:
    """Where Chromium is; None if it is not installed."""
    return next((found for found in map(shutil.which, NAMES) if found), None)


@dataclass
class Page:
    """A page that was opened.

    Parameters
    ----------
    browser : Browser
    session : str
    messages : list of str
        What it wrote on the console, and what went wrong.
    requests : list of str
        URLs that it asked for, besides what is inside it.
    """

    browser: Browser
    session: str
    messages: list[str]
    requests: list[str]

    def run(self, script: str) -> Any:
        """The value of a script."""
        answer = self.browser.call("Runtime.evaluate", self.session, expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def news(self) -> None:
        """Take down what it has written and asked for since."""
        for event in self.browser.events(self.session):
            said = event.get("params", {})
            if event["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
                self.messages.append(json.dumps(said)[:500])
            if event["method"] == "Network.requestWillBeSent":
                url = said["request"]["url"]
                self.requests += [] if url.startswith("data:") else [url]

    def wait(self, condition: str) -> None:
        """Wait until a script's value is true."""
        until = time.monotonic() + ANSWER_SECONDS
        while not self.run(condition):
            assert time.monotonic() < until, condition
            time.sleep(0.05)

    def press(self, key: str, **event: Any) -> None:
        """Strike a key, as the page is told of it."""
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            given = {**event, **(text if kind == "keyDown" else {})}
            self.browser.call("Input.dispatchKeyEvent", self.session, type=kind, key=key, **given)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw the mouse with its button down from one point of the window to another."""
        for kind, (x, y) in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self.browser.call(
                "Input.dispatchMouseEvent",
                self.session,
                type=kind,
                x=x,
                y=y,
                button="left",
                buttons=0 if kind == "mouseReleased" else 1,
                clickCount=1,
            )

    def look(self) -> dict[str, Any]:
        """See `LOOK`."""
        found: dict[str, Any] = self.run(LOOK)
        return found

    def contrast(self) -> tuple[float, str]:
        """See `CONTRAST`."""
        ratio, where = self.run(CONTRAST)
        return float(ratio), str(where)

    def screenshot(self, path: Path) -> None:
        """The whole page as a PNG file."""
        answer = self.browser.call("Page.captureScreenshot", self.session, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(answer["data"]))


class Browser:
    """A browser at the other end of two pipes; messages end in a zero byte."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = os.fdopen(to, "wb"), os.fdopen(back, "rb")
        self._inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self._events: list[dict[str, Any]] = []
        self._last = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        buffer = b""
        while piece := self._back.read1(1 << 20):  # type: ignore[attr-defined]
            *whole, buffer = (buffer + piece).split(b"\0")
            for message in whole:
                self._inbox.put(json.loads(message))

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Ask for something and wait for the answer; events that come before it are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        self._to.write(
            json.dumps({**message, **({"sessionId": session} if session else {})}).encode() + b"\0"
        )
        self._to.flush()
        while True:
            answer = self._inbox.get(timeout=ANSWER_SECONDS)
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _wait(self, method: str, session: str) -> None:
        while not any(e.get("method") == method and e.get("sessionId") == session for e in self._events):
            self._events.append(self._inbox.get(timeout=ANSWER_SECONDS))

    def open(self, page: Path | str, width: int, dark: bool = False, height: int = 800) -> Page:
        """Open a page, a file or a URL, as on a screen of so many pixels."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable", session)
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", session, **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", session, features=[scheme])
        self._events.clear()
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self.call("Page.navigate", session, url=url)
        self._wait("Page.loadEventFired", session)
        opened = Page(self, session, [], [])
        opened.news()
        return opened

    def events(self, session: str) -> list[dict[str, Any]]:
        """What has happened on a page since this was asked last."""
        while not self._inbox.empty():
            self._events.append(self._inbox.get())
        mine = [event for event in self._events if event.get("sessionId") == session]
        self._events = [event for event in self._events if event.get("sessionId") != session]
        return mine


@contextmanager
def open_browser(folder: Path) -> Iterator[Browser]:
    """A browser for the length of a ``with`` block.

    Parameters
    ----------
    folder : Path
        Empty, for its profile.
    """
    own: list[int] = []
    for end in (*os.pipe(), *os.pipe()):
        # Out of the way of 3 and 4, which the browser reads and writes.
        own.append(fcntl.fcntl(end, fcntl.F_DUPFD, 10))
        os.close(end)
    its_read, our_write, our_read, its_write = own
    program = chromium()
    assert program, "no Chromium"
    flags = [*FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{its_read} 4>&{its_write}', "bash", program, *flags],
        pass_fds=(its_read, its_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_read)
    os.close(its_write)
    browser = Browser(our_write, our_read)
    try:
        yield browser
        browser.call("Browser.close")
    finally:
        process.kill()
        process.wait()
