"""An HTTP/1.1 client of chunked answers: one connection for each request, as browsers have."""

import socket
import time
from collections.abc import Callable

from bench.wire import LoadFailed, Pieces, Record, connect, receive_all

_LAST_CHUNK = b"0\r\n\r\n"


class HttpWire:
    """A `Wire` of POST requests with JSON bodies, as many connections as requests."""

    def __init__(self, address: str, path: str) -> None:
        self._address = address
        self._path = path
        self._sockets: list[socket.socket] = []

    def connect(self) -> None:
        """Nothing: a stream's connection belongs to its cost, so `run` opens it."""

    def run(self, requests: list[bytes], deadline: float) -> list[Record]:
        """See `Wire`. Connections are opened before the first request is sent."""
        records = [Record() for _ in requests]
        used = self._sockets = [connect(self._address) for _ in requests]
        for connection, body, record in zip(used, requests, records, strict=True):
            head = (
                f"POST {self._path} HTTP/1.1\r\nhost: {self._address}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            record.sent_at = time.monotonic()
            connection.sendall(head.encode() + body)
        receive_all(
            {c: _receiver(record) for c, record in zip(used, records, strict=True)}, deadline
        )
        self.close()
        return records

    def close(self) -> None:
        """See `Wire`."""
        for connection in self._sockets:
            connection.close()
        self._sockets = []


def _receiver(record: Record) -> Callable[[bytes, float], bool]:
    pieces = record.pieces

    def receive(data: bytes, at: float) -> bool:
        if not pieces and not data.startswith(b"HTTP/1.1 200"):
            raise LoadFailed(f"the server answered {data[:300]!r}")
        pieces.append((at, data))
        if len(data) >= len(_LAST_CHUNK):
            return data.endswith(_LAST_CHUNK)
        return b"".join(piece for _, piece in pieces[-len(_LAST_CHUNK) :]).endswith(_LAST_CHUNK)

    return receive


def events(pieces: Pieces) -> list[tuple[float, bytes]]:
    """Take an answer's server-sent events apart: the data of each, with its last byte's time."""
    found: list[tuple[float, bytes]] = []
    raw = bytearray()  # as received: head, then chunks
    text = bytearray()  # the body
    in_body = False
    for at, piece in pieces:
        raw += piece
        if not in_body:
            end = raw.find(b"\r\n\r\n")
            if end < 0:
                continue
            in_body = True
            del raw[: end + 4]
        _unchunk(raw, text)
        # Both ends of line are legal; one server of those measured writes the longer one.
        if b"\r" in text:
            text[:] = text.replace(b"\r\n", b"\n")
        while (end := text.find(b"\n\n")) >= 0:
            data = [ln[5:].strip() for ln in text[:end].split(b"\n") if ln.startswith(b"data:")]
            if data:
                found.append((at, b"\n".join(data)))
            del text[: end + 2]
    return found


def _unchunk(raw: bytearray, body: bytearray) -> None:
    """Move complete chunks from `raw` to `body`."""
    while (line := raw.find(b"\r\n")) >= 0:
        size = int(raw[:line], 16)
        if len(raw) < line + 2 + size + 2:
            return
        body += raw[line + 2 : line + 2 + size]
        del raw[: line + 2 + size + 2]
