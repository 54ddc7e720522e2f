"""The client's side of an HTTP/2 connection to a gRPC server, on bare frames (RFC 9113).

Only what a load needs: it sends headers and messages, acknowledges SETTINGS and PING, and hands on
the DATA of each stream. Rules:

1. What is sent keeps to the server's windows; what they have no room for waits here, in order, and
   without a bound: a load's requests are small.
2. What is received is granted for good at the beginning (2 GiB a connection), never again.
3. Response headers stay unread: whether a call went well shows in its messages.
"""

import struct
from collections import deque

from bench.wire import LoadFailed, Pieces, connect

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_WIDEST = 2**31 - 1
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_INITIAL_WINDOW_SIZE = 4
_FRAME_HEADER = struct.Struct(">HBBBI")  # the 24-bit length as 16 + 8 bits
_HEADER_SIZE = 9
_SETTING = struct.Struct(">HI")
_WINDOW = 65_535  # of a connection, and of a stream until the server's SETTINGS
_LARGEST_FRAME = 16_384


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


class Connection:
    """One connection. What it sends waits for `flush`."""

    def __init__(self, address: str) -> None:
        self.socket = connect(address)
        self._out = bytearray(
            _PREFACE
            + frame(_SETTINGS, 0, 0, _SETTING.pack(_INITIAL_WINDOW_SIZE, _WIDEST))
            + frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WIDEST - _WINDOW))
        )
        self._waiting: deque[tuple[int, bytes, bool]] = deque()  # stream, data, is it the last
        self._window = _WINDOW
        self._stream_window = _WINDOW  # of a stream that begins now
        self._windows: dict[int, int] = {}
        self._buffer = b""
        self._next_stream = 1
        self._open: dict[int, Pieces] = {}
        self.flush()

    @property
    def is_idle(self) -> bool:
        """Whether all calls have ended."""
        return not self._open

    def open(self, headers: bytes, pieces: Pieces) -> int:
        """Begin a call and return its stream; its DATA goes to `pieces` as it comes."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._open[stream] = pieces
        self._windows[stream] = self._stream_window
        self._out += frame(_HEADERS, _END_HEADERS, stream, headers)
        return stream

    def send(self, stream: int, message: bytes, *, last: bool = False) -> None:
        """Send a gRPC message; `last` closes the call's sending side behind it."""
        data = b"\x00" + len(message).to_bytes(4, "big") + message
        for start in range(0, len(data), _LARGEST_FRAME):
            part = data[start : start + _LARGEST_FRAME]
            self._waiting.append((stream, part, last and start + len(part) == len(data)))

    def flush(self) -> None:
        """Write what the server's windows have room for."""
        waiting, windows = self._waiting, self._windows
        while waiting:
            stream, data, last = waiting[0]
            size = len(data)
            if stream not in windows:  # it has ended: nobody reads this any more
                waiting.popleft()
                continue
            if size > self._window or size > windows[stream]:
                break
            self._window -= size
            windows[stream] -= size
            self._out += frame(_DATA, _END_STREAM if last else 0, stream, data)
            waiting.popleft()
        if self._out:
            self.socket.sendall(self._out)
            self._out.clear()

    def receive(self, data: bytes, at: float) -> bool:
        """Take bytes from the server, come at this time. True once all calls have ended."""
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
                open_[stream].append((at, data[begin:stop]))
            elif kind != _HEADERS:
                self._control(kind, flags, stream, data[begin:stop])
            if (kind in (_DATA, _HEADERS) and flags & _END_STREAM) or kind == _RST_STREAM:
                # A server that ends a call early does both: END_STREAM and then RST_STREAM.
                open_.pop(stream, None)
                self._windows.pop(stream, None)
        self._buffer = data[start:]
        if self._waiting or self._out:
            self.flush()
        return not open_

    def close(self) -> None:
        """Close it, with all its calls."""
        self.socket.close()

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _WINDOW_UPDATE:
            more = int.from_bytes(payload, "big")
            if stream == 0:
                self._window += more
            elif stream in self._windows:
                self._windows[stream] += more
        elif kind == _SETTINGS and not flags & _ACK:
            for name, value in _SETTING.iter_unpack(payload):
                if name == _INITIAL_WINDOW_SIZE:
                    for open_stream in self._windows:
                        self._windows[open_stream] += value - self._stream_window
                    self._stream_window = value
            self._out += frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._out += frame(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY:
            raise LoadFailed(f"the server ended a connection: {payload[8:]!r}")
