"""An event loop in a thread of its own, for callers that have none."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from tokenstream_client.errors import Cancelled

_T = TypeVar("_T")


class LoopThread:
    """Runs coroutines for other threads. The thread is a daemon and starts with the first use.

    May be used by any number of threads.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._closed = False

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine there and return what it returns.

        An interrupt of this thread (KeyboardInterrupt) cancels it. Raises RuntimeError once
        closed, and Cancelled if that happens meanwhile.
        """
        try:
            with self._lock:
                # Within the lock: `close` cancels what was handed over before it, and what came
                # after it would wait for ever.
                future = asyncio.run_coroutine_threadsafe(work, self._started())
        except RuntimeError:
            work.close()
            raise
        try:
            return future.result()
        except CancelledError:
            raise Cancelled("the client was closed") from None
        except BaseException:
            future.cancel()
            raise

    def soon(self, work: Callable[[], object]) -> None:
        """Have something called there; nothing, if the thread has not started or has ended."""
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(work)
            except RuntimeError:
                return  # closed meanwhile

    @property
    def started(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    def close(self) -> None:
        """End the thread; what still runs there is cancelled. Returns when that has happened."""
        with self._lock:
            self._closed = True
            loop, stop, thread = self._loop, self._stop, self._thread
        if loop is None or stop is None or thread is None:
            return
        self.soon(stop.set)
        thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise RuntimeError("the client is closed")
        if self._loop is None:
            ready = threading.Event()
            self._thread = threading.Thread(
                target=self._main, args=(ready,), name=self._name, daemon=True
            )
            self._thread.start()
            ready.wait()
        assert self._loop is not None
        return self._loop

    def _main(self, ready: threading.Event) -> None:
        async def until_stopped() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            ready.set()
            await self._stop.wait()

        asyncio.run(until_stopped())
