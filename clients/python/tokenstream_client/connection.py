"""One connection to the service: a channel, the session and the calls on it."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

import grpc

from tokenstream.v1 import generation_pb2_grpc, model_pb2_grpc
from tokenstream_client import health
from tokenstream_client.answer import Answer
from tokenstream_client.errors import TokenstreamError
from tokenstream_client.own_call import OwnCall, Stop
from tokenstream_client.session import Session

Metadata = tuple[tuple[str, str], ...]


class Connection:
    """Connects with its first call. Calls share its HTTP/2 connection, and so a replica."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        elsewhere: Callable[["Connection", Answer, TokenstreamError], bool],
    ) -> None:
        """`elsewhere` is told of an answer that was refused here, before its start, and whether it
        is to be begun again at once.
        """
        self._channel = channel
        self._elsewhere = elsewhere
        self.generation = generation_pb2_grpc.GenerationServiceStub(channel)
        self.models = model_pb2_grpc.ModelServiceStub(channel)
        self.check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            health.CHECK
        )
        self.session: Session | None = None
        self._calls = WeakSet[OwnCall]()
        self._had_calls = False

    def open_session(self, metadata: Metadata, stop: Stop, again: Callable[[Answer], None]) -> None:
        """Have a session on it; see `Session`."""

        def begin(timeout: float | None = None) -> Any:
            return self.generation.Session(timeout=timeout, metadata=metadata)

        self.session = Session(begin, stop, self.elsewhere, again)

    def elsewhere(self, answer: Answer, error: TokenstreamError) -> bool:
        """See `Connections.elsewhere`."""
        return self._elsewhere(self, answer, error)

    def note(self, call: OwnCall) -> None:
        """Know of an answer that has a call of its own on it."""
        self._had_calls = True
        self._calls.add(call)

    def carries(self, answer: Answer) -> bool:
        """Whether its session has the answer."""
        return self.session is not None and answer in self.session

    @property
    def is_busy(self) -> bool:
        """Whether an answer runs on it."""
        if self.session is not None and len(self.session):
            return True
        return any(call.is_on(self) for call in self._calls)

    @property
    def may_be_asked(self) -> bool:
        """Whether streams have begun on it, and the replica is still there: they can be read on."""
        if self.session is not None:
            return self.session.is_open_with_streams
        return self._had_calls and self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def end_session(self) -> None:
        """End the session, if there is one; calls still work."""
        if self.session is not None:
            await self.session.close()

    async def close(self) -> None:
        """End the session, and the channel."""
        await self.end_session()
        await self._channel.close()
