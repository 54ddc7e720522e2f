"""gRPC clients on bare connections: one call for each request, or one for all of them."""

import time
from collections.abc import Callable

from bench.http2 import Connection, request_headers
from bench.wire import Pieces, Record, receive_all


class Unframed:
    """Puts the DATA of a call together to messages, as it comes."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def take(self, piece: bytes) -> list[bytes]:
        """Take a piece and return the messages that are whole now."""
        buffer = self._buffer
        buffer += piece
        found: list[bytes] = []
        start = 0
        while len(buffer) - start >= 5:
            size = int.from_bytes(buffer[start + 1 : start + 5], "big")
            if len(buffer) - start - 5 < size:
                break
            found.append(bytes(buffer[start + 5 : start + 5 + size]))
            start += 5 + size
        del buffer[:start]
        return found


def messages(pieces: Pieces) -> list[tuple[float, bytes]]:
    """Put a call's pieces together to messages; each has the time of its last byte."""
    unframed = Unframed()
    return [(at, message) for at, piece in pieces for message in unframed.take(piece)]


class GrpcWire:
    """A `Wire` with a server-streaming call for each request, spread over the connections."""

    def __init__(self, address: str, path: str, connections: int) -> None:
        self._address = address
        self._headers = request_headers(path, address)
        self._count = connections
        self._connections: list[Connection] = []

    def connect(self) -> None:
        """See `Wire`."""
        self._connections = [Connection(self._address) for _ in range(self._count)]

    def run(self, requests: list[bytes], deadline: float) -> list[Record]:
        """See `Wire`."""
        records = [Record() for _ in requests]
        used = self._connections[: len(requests)]
        for number, (request, record) in enumerate(zip(requests, records, strict=True)):
            connection = used[number % len(used)]
            record.sent_at = time.monotonic()
            stream = connection.open(self._headers, record.pieces)
            connection.send(stream, request, last=True)
            connection.flush()
        receive_all({c.socket: c.receive for c in used}, deadline)
        return records

    def close(self) -> None:
        """See `Wire`."""
        for connection in self._connections:
            connection.close()


class SessionWire(GrpcWire):
    """A `Wire` with one bidirectional call a connection, for all the requests that it carries.

    All requests are sent at once and the sending side closed behind the last, so a call ends when
    its last request has. The records of a call share their pieces. `together` makes one message of
    several requests.
    """

    def __init__(
        self,
        address: str,
        path: str,
        connections: int,
        together: Callable[[list[bytes]], bytes] = b"".join,
        burst: int = 1,
    ) -> None:
        """`burst`: most requests in a message."""
        super().__init__(address, path, connections)
        self._together = together
        self._burst = burst

    def run(self, requests: list[bytes], deadline: float) -> list[Record]:
        """See `Wire`. A request counts as sent when its connection's first is."""
        records = [Record() for _ in requests]
        used = self._connections[: len(requests)]
        for first, connection in enumerate(used):
            pieces: Pieces = []
            stream = connection.open(self._headers, pieces)
            mine = range(first, len(requests), len(used))
            for begin in range(0, len(mine), self._burst):
                some = mine[begin : begin + self._burst]
                message = self._together([requests[number] for number in some])
                connection.send(stream, message, last=some[-1] == mine[-1])
            sent_at = time.monotonic()
            for number in mine:
                records[number].sent_at = sent_at
                records[number].pieces = pieces
            connection.flush()
        receive_all({c.socket: c.receive for c in used}, deadline)
        return records
