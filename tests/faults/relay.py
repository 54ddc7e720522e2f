"""A gRPC client here whose connection begins in the other namespace.

The relay stands for the client's machine: what it has taken off its socket there, the client gets.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc

from tests.faults.network import Elsewhere

# Of the client's HTTP/2 window; small, so that a service notices soon that nothing is taken.
SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024))


@asynccontextmanager
async def channel_from(
    there: Elsewhere, port: int, *options: tuple[str, int]
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel over one connection from there to a port here."""
    pipes: list[asyncio.Task[None]] = []
    writers: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await asyncio.open_connection(sock=there.connect(port))
        writers.extend((writer, far[1]))
        pipes.append(asyncio.create_task(_pipe(reader, far[1])))
        pipes.append(asyncio.create_task(_pipe(far[0], writer)))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with grpc.aio.insecure_channel(
        address, options=[("grpc.use_local_subchannel_pool", 1), *options]
    ) as channel:
        try:
            yield channel
        finally:
            server.close()
            for pipe in pipes:
                pipe.cancel()
            await asyncio.gather(*pipes, return_exceptions=True)
            for writer in writers:
                writer.transport.abort()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
