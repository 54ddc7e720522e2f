"""What a client of the socket does: say and hear messages, or nothing but bytes."""

import asyncio
import json
import socket
from typing import Any

from websockets.asyncio.client import ClientConnection

from tests.gateway_sse.conftest import Gateway

PATH = "/v1/completions/ws"


def url_of(gateway: Gateway) -> str:
    return f"ws://127.0.0.1:{gateway.port}{PATH}"


async def say(ws: ClientConnection, kind: str, **values: Any) -> None:
    await ws.send(json.dumps({"type": kind, **values}))


async def hear(ws: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(5):
        said: dict[str, Any] = json.loads(await ws.recv())
    return said


async def hear_to_the_end(ws: ClientConnection) -> list[dict[str, Any]]:
    said = [await hear(ws)]
    while said[-1]["type"] not in ("finished", "error"):
        said.append(await hear(ws))
    return said


async def raw_socket(gateway: Gateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection after its upgrade, which takes only what a test reads of it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
    writer.write(
        f"GET {PATH} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def frame(text: str) -> bytes:
    """A client's text message of less than 64 KiB, masked by zeros (RFC 6455, 5.2)."""
    data = text.encode()
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + data
