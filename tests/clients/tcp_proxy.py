"""A connection that can be cut: a TCP proxy between a client and a service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class TcpProxy:
    """Passes bytes on, until it is told to cut, to hold, or to take no connections."""

    def __init__(self, target: str) -> None:
        self.redirect(target)
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._stranded: list[asyncio.Event] = []
        self.target = ""
        self.refusing = False
        self.connections = 0

    def redirect(self, target: str) -> None:
        """Lead new connections there."""
        host, _, port = target.rpartition(":")
        self._upstream = (host, int(port))

    def cut(self) -> None:
        """Break all connections, as a crash would."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def hold(self) -> None:
        """Swallow everything from now on, without a word."""
        self._flowing.clear()

    def release(self) -> None:
        """Pass on what was held, and go on."""
        self._flowing.set()

    def strand(self) -> None:
        """Swallow everything on the connections that there are, for good; new ones work."""
        self._flowing.clear()
        self._stranded.append(self._flowing)
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            writer.transport.abort()
            return
        self._writers.add(up_writer)
        await asyncio.gather(self._pipe(reader, up_writer), self._pipe(up_reader, writer))

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flowing = self._flowing
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def tcp_proxy(target: str) -> AsyncIterator[TcpProxy]:
    """Listen on a free port of this machine."""
    proxy = TcpProxy(target)
    server = await asyncio.start_server(proxy._accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy.target = f"127.0.0.1:{port}"
    try:
        yield proxy
    finally:
        for flowing in (proxy._flowing, *proxy._stranded):
            flowing.set()
        proxy.cut()
        server.close()
        await server.wait_closed()
