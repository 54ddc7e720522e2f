"""The answers that are open now: so that they can be found, and ended when the process stops.

Bound: one entry for each open answer, and one for each that lingers, for at most its second.
"""

import asyncio
from typing import Protocol

from gateway_sse.streaming.reachability import Reachability
from tokenstream_client import AsyncStream, Cancelled, TokenstreamError, Unavailable


class OpenStream(Protocol):
    """An answer, as this list sees it."""

    stream: AsyncStream
    owner: str
    """The key that its client came with; empty: none."""

    def acknowledge(self, next_token_index: int) -> None:
        """Take notice of how far the client has read."""

    def let_go(self) -> None:
        """End now: the process stops."""


class OpenStreams:
    """The answers in progress, and those whose clients have just gone."""

    def __init__(self) -> None:
        self._open: set[OpenStream] = set()
        self._by_id: dict[str, OpenStream] = {}
        self._lingering: dict[AsyncStream, asyncio.TimerHandle] = {}
        self._emptied = asyncio.Event()
        self.draining = False
        """Whether the process is to stop, and says so."""
        self.refusing = False
        """Whether it takes no new ones any more."""
        self.was_cut = asyncio.Event()
        """Set by `cut`."""
        self.upstream = Reachability()
        """Told of each answer's start, and of each failure."""

    def add(self, opened: OpenStream) -> None:
        """Take an answer in, from its beginning."""
        self._open.add(opened)
        if self.was_cut.is_set():
            opened.let_go()

    def started(self, opened: OpenStream, stream_id: str) -> None:
        """Make it findable: the service has taken it."""
        self.upstream.answered()
        self._by_id[stream_id] = opened

    def find(self, stream_id: str) -> OpenStream | None:
        """Return the answer whose connection is here."""
        return self._by_id.get(stream_id)

    def remove(self, opened: OpenStream) -> None:
        """Forget an answer that has come to its end."""
        self._open.discard(opened)
        if not self._open:
            self._emptied.set()
        started = opened.stream.started
        if started is not None and self._by_id.get(started.stream_id) is opened:
            del self._by_id[started.stream_id]

    def linger(self, stream: AsyncStream, seconds: float) -> None:
        """End a stream after so long, unless it has ended or was taken over by then.

        Nobody reads it meanwhile: it goes no further than its window.
        """

        def end() -> None:
            del self._lingering[stream]
            stream.cancel()

        stream.let_be()
        self._lingering[stream] = asyncio.get_running_loop().call_later(seconds, end)

    async def until_empty(self) -> None:
        """Wait until no answer is open."""
        while self._open:
            self._emptied.clear()
            await self._emptied.wait()

    def cut(self) -> None:
        """End all answers, now and from now on: the time to finish has passed."""
        self.was_cut.set()
        for opened in tuple(self._open):
            opened.let_go()

    def close(self) -> None:
        """End what lingers; nobody comes back to this process."""
        for stream, timer in self._lingering.items():
            timer.cancel()
            stream.detach()
        self._lingering.clear()

    def explain(self, error: TokenstreamError) -> TokenstreamError:
        """Return the error as the caller should see it: not as a cancellation if it was a cut."""
        self.upstream.failed(error)
        if self.was_cut.is_set() and isinstance(error, Cancelled):
            return _stopping()
        return error

    def check_open(self) -> None:
        """Raise Unavailable if no new answers are taken."""
        if self.refusing:
            raise _stopping()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def lingering(self) -> int:
        """Streams whose clients have gone less than the grace ago."""
        return len(self._lingering)


def _stopping() -> Unavailable:
    return Unavailable("the gateway is stopping", reason="GATEWAY_STOPPING")
