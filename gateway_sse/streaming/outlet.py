"""The way out to one HTTP client: its bytes, one write in flight, and what a slow one means.

Written by hand past aiohttp's `write`, on its own transport: a coroutine for each event would cost
a third of it (docs/bridge.md). aiohttp still makes the head, and the end.

Bound: `set_write_buffer_limits(0)` makes a transport say at once that the kernel takes no more.
Then nothing is written until all is gone, so what waits here is at most the last write; the
kernel's own buffer is bounded by the listening socket's option (`server.bind`).
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gateway_sse.streaming.write_buffer import say_at_once_when_full

# A client that takes something, however little, is looked at again after so long.
_LOOKS: int = 10


class ClientStalled(Exception):
    """The client took nothing for the limit. Expected; the connection is to be dropped."""


class _HeadWithFirstBytes(web.StreamResponse):
    """Waits with its head for the first bytes: one write less (aiohttp's Response does so too)."""

    _send_headers_immediately = False


async def until_taken(
    transport: asyncio.Transport, taking: Coroutine[Any, Any, None], stall_limit_s: float
) -> None:
    """Wait in `taking` until the kernel has taken all that was written. Raises ClientStalled, and
    what `taking` does.
    """
    left, looks = transport.get_write_buffer_size(), 0
    # In a task of its own, which no look may cancel: aiohttp keeps the future that it waits for,
    # and whoever waited for a cancelled one would be cancelled, too.
    taken = asyncio.ensure_future(taking)
    try:
        while not (await asyncio.wait((taken,), timeout=stall_limit_s / _LOOKS))[0]:
            now_left = transport.get_write_buffer_size()
            looks = looks + 1 if now_left == left else 0
            left = now_left
            if looks >= _LOOKS:
                raise ClientStalled
        await taken
    finally:
        taken.cancel()


class Outlet:
    """One answer's bytes. `write` never waits; `blocked` says to wait in `drained` before more."""

    __slots__ = ("_chunked", "_response", "_transport", "_writer", "last_write_at")

    def __init__(
        self,
        response: web.StreamResponse,
        transport: asyncio.Transport,
        writer: AbstractStreamWriter,
        now: float,
    ) -> None:
        self._response = response
        self._transport = transport
        self._writer = writer
        self._chunked = response.chunked
        self.last_write_at = now

    @classmethod
    async def open(
        cls, request: web.Request, content_type: str, first: bytes, now: float
    ) -> "Outlet":
        """Send the head and the first bytes. Raises ConnectionResetError if the client has gone."""
        response = _HeadWithFirstBytes(
            headers={
                "content-type": content_type,
                "cache-control": "no-cache, no-transform",
                "x-accel-buffering": "no",
                "x-content-type-options": "nosniff",
            }
        )
        if request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        else:
            response.force_close()  # nothing else says where the body ends
        writer = await response.prepare(request)
        transport = request.transport
        if transport is None or writer is None:
            raise ConnectionResetError("the client has gone")
        say_at_once_when_full(transport)
        if first:
            await response.write(first)
        else:
            writer.send_headers()
        return cls(response, transport, writer, now)

    @property
    def response(self) -> web.StreamResponse:
        """What a handler returns."""
        return self._response

    @property
    def blocked(self) -> bool:
        """Whether the kernel has not taken all of it yet."""
        return self._transport.get_write_buffer_size() > 0

    def write(self, data: bytes, now: float) -> bool:
        """Send, and tell whether it is `blocked` now; what a client that has gone would get is
        dropped.
        """
        transport = self._transport
        if transport.is_closing():
            return False
        self.last_write_at = now
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        transport.write(data)
        return transport.get_write_buffer_size() > 0

    async def drained(self, stall_limit_s: float) -> None:
        """Wait until the kernel has taken it all. Raises ClientStalled."""
        await until_taken(self._transport, self._writer.drain(), stall_limit_s)

    async def close(self, last: bytes, stall_limit_s: float) -> None:
        """Send the last bytes and the end of the body. Raises ClientStalled, ConnectionError."""
        if self._transport.is_closing():
            raise ConnectionResetError("the client has gone")
        await until_taken(self._transport, self._response.write_eof(last), stall_limit_s)

    def abort(self) -> None:
        """Drop the connection, so that a cut answer does not look like a whole one."""
        self._transport.abort()
