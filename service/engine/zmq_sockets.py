"""The sockets to vLLM's engine process, without the detours of zmq's asyncio support.

vLLM awaits `zmq.asyncio` sockets. Those poll the socket up to four times a message and make a
future and a handle for each, and there is a message for every engine step (docs/benchmarks.md has
what that costs). Here a message that is there is taken at once, and one that is not is waited
for on the socket's file descriptor, which is all that asyncio needs (ZMQ_FD, `zmq_getsockopt(3)`:
it signals once for any number of messages, so everything is taken until there is nothing).
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import zmq
import zmq.asyncio

# As plain numbers: an enumeration's member costs a call in Python whenever it is combined.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)

_WORTH_NOT_COPYING = 64 * 1024  # bytes; zmq's own threshold


class _Waiting:
    """A receiver's wait for its socket. Apart from it: zmq looks at all that is set on a socket."""

    __slots__ = ("loop", "plain", "waiter")

    def __init__(self, plain: "zmq.Socket[bytes]") -> None:
        self.plain = plain
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waiter: asyncio.Future[None] | None = None

    def begin(self) -> asyncio.Future[None]:
        """A future that is done when the socket has given its signal."""
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            self.loop.add_reader(self.plain.FD, self._wake)
        self.waiter = self.loop.create_future()
        return self.waiter

    def end(self) -> None:
        """Listen no more."""
        if self.loop is not None:
            if not self.loop.is_closed():
                self.loop.remove_reader(self.plain.FD)
            self.loop = None

    def _wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Receiver(zmq.asyncio.Socket):
    """Takes the place of a socket: one task receives, on one event loop."""

    _owner: Any = None
    _plain: Any = None
    _waiting: Any = None

    @classmethod
    def in_place_of(cls, socket: Any) -> "Receiver":
        """Receive what a `zmq.asyncio.Socket` would have; it is closed with this one."""
        receiver = cls.from_socket(socket)
        receiver._owner = socket
        receiver._plain = zmq.Socket.shadow(socket.underlying)
        receiver._waiting = _Waiting(receiver._plain)
        return receiver

    async def recv_multipart(  # type: ignore[override]  # awaited, as its parent's is
        self, flags: int = 0, copy: bool = True, track: bool = False
    ) -> Any:
        """Wait for a message; its frames, as zmq's own method gives them."""
        plain = self._plain
        while not plain.get(_EVENTS) & _POLLIN:  # asked first: `Again` costs more
            await self._waiting.begin()
        frame = plain.recv(zmq.NOBLOCK, copy=False)
        frames = [frame]
        while frame.more:
            frame = plain.recv(zmq.NOBLOCK, copy=False)
            frames.append(frame)
        return [bytes(f) for f in frames] if copy else frames

    def close(self, linger: int | None = None) -> None:
        """Close the socket that it stands for, too."""
        if self._waiting is not None:
            self._waiting.end()
        if self._owner is not None:
            super().close(linger)
            self._owner.close(linger)


class Sender(zmq.asyncio.Socket):
    """Takes the place of a socket without a high-water mark, which vLLM's are: it never waits."""

    _owner: Any = None
    _plain: Any = None

    @classmethod
    def in_place_of(cls, socket: Any) -> "Sender":
        """Send what a `zmq.asyncio.Socket` would have; it is closed with this one."""
        sender = cls.from_socket(socket)
        sender._owner = socket
        sender._plain = zmq.Socket.shadow(socket.underlying)
        return sender

    async def send_multipart(  # type: ignore[override]  # awaited, as its parent's is
        self,
        msg_parts: Sequence[Any],
        flags: int = 0,
        copy: bool = True,
        track: bool = False,
        routing_id: int | None = None,
        group: str | None = None,
    ) -> None:
        """Hand a message to zmq's thread; short frames are copied, because that costs less."""
        short = sum(map(len, msg_parts)) < _WORTH_NOT_COPYING
        self._plain.send_multipart(msg_parts, zmq.NOBLOCK, copy=short)

    def close(self, linger: int | None = None) -> None:
        """Close the socket that it stands for, too."""
        if self._owner is not None:
            super().close(linger)
            self._owner.close(linger)
