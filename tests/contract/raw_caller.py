"""A caller on bare HTTP/2 frames, which decides itself what it reads and what windows it grants."""

import asyncio
import socket
import struct
from collections import Counter
from contextlib import suppress

from bench.http2 import frame, request_headers

GENERATE = "/tokenstream.v1.GenerationService/Generate"
SESSION = "/tokenstream.v1.GenerationService/Session"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_INITIAL_WINDOW_SIZE = 4
_CANCEL = 8


class RawCaller:
    """One connection. It grants nothing by itself beyond `window` bytes a stream.

    The connection's own window is 65,535 bytes, as HTTP/2 has it from the start.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._next_stream = 1
        self._reading: asyncio.Task[None] | None = None
        self.received: Counter[int] = Counter()  # bytes of DATA by stream
        self.ended: set[int] = set()

    @classmethod
    async def connect(cls, target: str, *, window: int = 0, reads: bool = True) -> "RawCaller":
        """`reads`: whether anything is taken off the socket at all."""
        host, _, port = target.rpartition(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
        return await cls.over(connection, window=window, reads=reads)

    @classmethod
    async def over(
        cls, connection: socket.socket, *, window: int = 0, reads: bool = True
    ) -> "RawCaller":
        """The same on a connection that is there."""
        reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
        caller = cls(reader, writer)
        writer.write(
            _PREFACE + frame(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, window))
        )
        # The server's settings are not looked at; what is sent here fits the windows that they
        # could at worst leave.
        writer.write(frame(_SETTINGS, _ACK, 0, b""))
        if reads:
            caller._reading = asyncio.create_task(caller._read())
        return caller

    def open(self, path: str, *messages: bytes, last: bool = True) -> int:
        """Begin a call with these messages; `last`: and close its sending side."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        headers = request_headers(path, "localhost")
        self._writer.write(frame(_HEADERS, _END_HEADERS, stream, headers))
        for message in messages:
            data = b"\x00" + len(message).to_bytes(4, "big") + message
            self._writer.write(frame(_DATA, 0, stream, data))
        if last:
            self._writer.write(frame(_DATA, _END_STREAM, stream, b""))
        return stream

    def grant(self, stream: int, count: int) -> None:
        """Let so many more bytes come, on this stream and on the connection."""
        for number in (0, stream):
            self._writer.write(frame(_WINDOW_UPDATE, 0, number, struct.pack(">I", count)))

    def reset(self, stream: int) -> None:
        """End a call as a client does that cancels it."""
        self._writer.write(frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL)))

    async def take_a_byte(self) -> None:
        """Take one byte off the connection, where nothing else is."""
        await self._reader.readexactly(1)

    async def reset_connection(self) -> None:
        """Close it as a machine does whose program has died: with a reset."""
        linger = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, linger
        )
        self._writer.transport.abort()
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _read(self) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                if kind == _DATA:
                    self.received[stream] += len(payload)
                elif kind == _PING and not flags & _ACK:
                    self._writer.write(frame(_PING, _ACK, 0, payload))
                if kind == _RST_STREAM or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                    self.ended.add(stream)
