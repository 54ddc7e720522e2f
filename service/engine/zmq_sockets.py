"""The sockets to vLLM's engine process, without the detours of zmq's asyncio support.

vLLM awaits `zmq.asyncio` sockets. Those poll the socket up to four times a message and make a
future and a handle for each, and there is a message for every engine step (docs/benchmarks.md has
what that costs). Here a message that is there is taken at once, and one that is not is waited
for on the socket's file descriptor, which is all that asyncio needs (ZMQ_FD, `zmq_getsockopt(3)`:
it signals once for any number of messages, so everything is taken until there is nothing).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq
import zmq.asyncio

# As plain numbers: an enumeration's member costs a call in Python whenever it is combined.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)

_WORTH_NOT_COPYING = 64 * 1024  # bytes; zmq's own threshold


class Inbox:
    """The messages of a socket, each a list of frames, in the order in which they come.

    `take`, if there is one, is asked first, in a callback of the event loop. What it does not want
    (it returns False) is kept for `next`, without bound, as zmq's own queue behind it is.
    """

    def __init__(self, plain: Any) -> None:
        self.take: Callable[[Sequence[Any]], bool] | None = None
        self._plain = plain
        self._file = int(plain.FD)  # asked for now: of a socket that broke it cannot be
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kept: deque[Sequence[Any] | zmq.ZMQError] = deque()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_waited_for(self) -> bool:
        """Whether there is nothing, and somebody waits."""
        return self._waiter is not None and not self._kept

    async def next(self) -> Sequence[Any]:
        """Wait for the next message; one task only, on one event loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._file, self._read)
            self._read()  # what is there has given its signal already
        while not self._kept:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._kept.popleft()
        if isinstance(message, zmq.ZMQError):
            raise message
        return message

    def close(self) -> None:
        """Read no more."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._file)

    def _read(self) -> None:
        """Read one message; if there is another, the event loop has its turn first."""
        assert self._loop is not None
        try:
            frame = self._plain.recv(zmq.NOBLOCK, copy=False)
            frames = [frame]
            while frame.more:
                frame = self._plain.recv(zmq.NOBLOCK, copy=False)
                frames.append(frame)
        except zmq.Again:
            return
        except zmq.ZMQError as error:  # for good, and its descriptor would say so for ever
            self.close()
            self._keep(error)
            return
        if self.take is None or not self.take(frames):
            self._keep(frames)
        if self._plain.get(_EVENTS) & _POLLIN:  # asked, because `Again` costs more
            self._loop.call_soon(self._read)

    def _keep(self, message: Sequence[Any] | zmq.ZMQError) -> None:
        self._kept.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Receiver(zmq.asyncio.Socket):
    """Takes the place of a socket. `inbox` has what comes, apart from it: zmq looks at all that is
    set on a socket, which costs as much as a message.
    """

    inbox: Inbox
    _owner: Any = None

    @classmethod
    def in_place_of(cls, socket: Any) -> "Receiver":
        """Receive what a `zmq.asyncio.Socket` would have; it is closed with this one."""
        receiver = cls.from_socket(socket)
        receiver._owner = socket
        receiver.inbox = Inbox(zmq.Socket.shadow(socket.underlying))
        return receiver

    async def recv_multipart(  # type: ignore[override]  # awaited, as its parent's is
        self, flags: int = 0, copy: bool = True, track: bool = False
    ) -> Any:
        """Wait for a message; its frames, as zmq's own method gives them."""
        frames = await self.inbox.next()
        return [bytes(f) for f in frames] if copy else frames

    def close(self, linger: int | None = None) -> None:
        """Close the socket that it stands for, too."""
        if self._owner is not None:
            self.inbox.close()
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
