"""A gRPC client of server-streaming calls, on bare HTTP/2 frames (RFC 9113).

Only what a load needs: it sends headers and one message a call, acknowledges SETTINGS and PING,
and keeps the DATA of each stream. Its windows are as wide as they go, so it never has to grant
more. Response headers stay unread: whether a call went well shows in its messages.
"""

import struct
import time

from bench.wire import LoadFailed, Record, connect, receive_all

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WIDEST = 2**31 - 1
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_INITIAL_WINDOW_SIZE = 4
_FRAME_HEADER = struct.Struct(">HBBBI")  # the 24-bit length as 16 + 8 bits
_HEADER_SIZE = 9


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return a frame's bytes."""
    size = len(payload)
    return _FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def request_headers(path: str, authority: str) -> bytes:
    """Return a call's header block: HPACK (RFC 7541) without its dynamic table and Huffman code."""
    return b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http, both in the static table
            b"\x04" + _text(path),
            b"\x01" + _text(authority),
            b"\x0f\x10" + _text("application/grpc"),  # content-type: entry 31
            b"\x00" + _text("te") + _text("trailers"),
        )
    )


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 126:
        raise ValueError("longer than one length byte can tell")
    return bytes([len(raw)]) + raw


def messages(record: Record) -> list[tuple[float, bytes]]:
    """Put a stream's pieces together to messages; each has the time of its last byte."""
    found: list[tuple[float, bytes]] = []
    buffer = bytearray()
    for at, piece in record.pieces:
        buffer += piece
        start = 0
        while len(buffer) - start >= 5:
            size = int.from_bytes(buffer[start + 1 : start + 5], "big")
            if len(buffer) - start - 5 < size:
                break
            found.append((at, bytes(buffer[start + 5 : start + 5 + size])))
            start += 5 + size
        del buffer[:start]
    return found


class _Connection:
    """One HTTP/2 connection."""

    def __init__(self, address: str) -> None:
        self.socket = connect(address)
        settings = struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WIDEST)
        self.socket.sendall(
            _PREFACE
            + frame(_SETTINGS, 0, 0, settings)
            + frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WIDEST - 65_535))
        )
        self._buffer = b""
        self._next_stream = 1
        self._open: dict[int, Record] = {}

    def call(self, headers: bytes, request: bytes, record: Record) -> None:
        """Send a call; its answer goes to the record."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._open[stream] = record
        message = b"\x00" + len(request).to_bytes(4, "big") + request
        record.sent_at = time.monotonic()
        self.socket.sendall(
            frame(_HEADERS, _END_HEADERS, stream, headers)
            + frame(_DATA, _END_STREAM, stream, message)
        )

    def receive(self, data: bytes, at: float) -> bool:
        """Take bytes from the server. True once all calls have ended."""
        data = self._buffer + data if self._buffer else data
        start, end = 0, len(data)
        open_ = self._open
        while end - start >= _HEADER_SIZE:
            high, low, kind, flags, stream = _FRAME_HEADER.unpack_from(data, start)
            begin = start + _HEADER_SIZE
            stop = begin + (high << 8 | low)
            if stop > end:
                break
            start = stop
            if kind == _DATA:
                if flags & _PADDED:
                    raise LoadFailed("the server pads its frames; this client cannot read that")
                open_[stream].pieces.append((at, data[begin:stop]))
            elif kind == _SETTINGS and not flags & _ACK:
                self.socket.sendall(frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                self.socket.sendall(frame(_PING, _ACK, 0, data[begin:stop]))
            elif kind == _GOAWAY:
                raise LoadFailed(f"the server ended a connection: {data[begin + 8 : stop]!r}")
            if (kind in (_DATA, _HEADERS) and flags & _END_STREAM) or kind == _RST_STREAM:
                del open_[stream]
        self._buffer = data[start:]
        return not open_


class GrpcWire:
    """A `Wire`. `path`: the method's; the calls are spread over `connections`."""

    def __init__(self, address: str, path: str, connections: int) -> None:
        self._address = address
        self._headers = request_headers(path, address)
        self._count = connections
        self._connections: list[_Connection] = []

    def connect(self) -> None:
        """See `Wire`."""
        self._connections = [_Connection(self._address) for _ in range(self._count)]

    def run(self, requests: list[bytes], deadline: float) -> list[Record]:
        """See `Wire`."""
        records = [Record() for _ in requests]
        for number, (request, record) in enumerate(zip(requests, records, strict=True)):
            self._connections[number % self._count].call(self._headers, request, record)
        used = self._connections[: len(requests)]
        receive_all({c.socket: c.receive for c in used}, deadline)
        return records

    def close(self) -> None:
        """See `Wire`."""
        for connection in self._connections:
            connection.socket.close()
