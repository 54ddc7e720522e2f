"""What the two raw clients share: what they bring back, and a loop over sockets.

The clients are as cheap as Python allows, so that on a machine with few cores the servers are
measured and not they: one thread, one selector, no objects per message; bytes are kept with their
times and only read when the load is over. Bound: all of a load's bytes are in memory.
"""

import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

_RECEIVE_BYTES = 256 * 1024


class LoadFailed(Exception):
    """The load could not be applied to its end: a connection broke, or time ran out."""


Pieces = list[tuple[float, bytes]]  # as received: monotonic seconds, bytes


@dataclass(slots=True)
class Record:
    """One request: when it was sent, and what came back on the call or connection that had it."""

    sent_at: float = 0.0
    pieces: Pieces = field(default_factory=list)


class Wire(Protocol):
    """Applies a load once: all requests at the same moment."""

    def connect(self) -> None:
        """Open the connections."""

    def run(self, requests: list[bytes], deadline: float) -> list[Record]:
        """Send all requests and read until the last has ended; one record for each, in order.

        Raises `LoadFailed`, also when the monotonic clock passes `deadline`.
        """

    def close(self) -> None:
        """Close the connections."""


def connect(address: str) -> socket.socket:
    """Connect to `host:port`; the socket sends without delay and blocks."""
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def receive_all(
    receivers: dict[socket.socket, Callable[[bytes, float], bool]], deadline: float
) -> None:
    """Hand each socket's bytes to its receiver until every receiver has returned True (ended)."""
    with selectors.DefaultSelector() as selector:
        for connection, receiver in receivers.items():
            selector.register(connection, selectors.EVENT_READ, receiver)
        left = len(receivers)
        while left:
            ready = selector.select(timeout=1)
            now = time.monotonic()
            if now > deadline:
                raise LoadFailed(f"not ended in time: {left} connections still open")
            for key, _ in ready:
                receiving = key.fileobj
                assert isinstance(receiving, socket.socket)
                data = receiving.recv(_RECEIVE_BYTES)
                if not data:
                    raise LoadFailed("the server closed a connection")
                # Read after the receive: what waits while others are read is not yet here.
                if key.data(data, time.monotonic()):
                    selector.unregister(receiving)
                    left -= 1
