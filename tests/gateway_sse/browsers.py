"""What a browser does with the bridge: read an answer's events, leave, and come back."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse

PATH = "/v1/completions/stream"


@asynccontextmanager
async def reading(
    url: str, *, method: str = "POST", last_event_id: str | None = None, **request: Any
) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
    """An answer's events while they come; leaving closes the connection. httpx-sse parses."""
    headers = {} if last_event_id is None else {"last-event-id": last_event_id}
    asked: dict[str, Any] = {"params": request} if method == "GET" else {"json": request}
    async with (
        httpx.AsyncClient(base_url=url, timeout=10) as http,
        aconnect_sse(http, method, PATH, headers=headers, **asked) as source,
    ):
        yield source.aiter_sse()


async def read(url: str, **request: Any) -> list[ServerSentEvent]:
    """All events of an answer."""
    async with reading(url, **request) as events:
        return [event async for event in events]


async def read_some(events: AsyncIterator[ServerSentEvent], count: int) -> list[ServerSentEvent]:
    """The next so many events."""
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


def text_of(events: Iterable[ServerSentEvent]) -> str:
    """What a page shows."""
    return "".join(
        event.json()["token"]
        for event in events
        if event.event == "message" and event.data != "[DONE]"
    )


async def slow_connection(port: int, receive_buffer: int = 2048) -> socket.socket:
    """A connection for which the kernel holds little that was not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return connection


async def ask(connection: socket.socket, query: str, *headers: str) -> None:
    """Send a GET for an answer; nothing is read of it."""
    lines = "".join(f"{header}\r\n" for header in ("Host: x", *headers))
    request = f"GET {PATH}?{query} HTTP/1.1\r\n{lines}\r\n"
    await asyncio.get_running_loop().sock_sendall(connection, request.encode())
