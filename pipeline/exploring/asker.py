"""Questions to a catalog from an event loop, one after the other in a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["Asker"]

Answer = TypeVar("Answer")


class Asker:
    """One thread that asks: DuckDB uses all cores for each question as it is.

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
