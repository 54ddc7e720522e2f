# ruff: noqa: ASYNC109  # a call's timeout is its gRPC deadline, which the service must see
"""The client for asyncio."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeVar, Unpack
from weakref import WeakSet

import grpc

from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import model_pb2
from tokenstream_client import health, requests
from tokenstream_client.answer import Answer, Terms
from tokenstream_client.channel import (
    ClientOptions,
    Tls,
    check_key,
    key_metadata,
    open_channel,
    trace_metadata,
)
from tokenstream_client.choices import ChoicesAnswer
from tokenstream_client.connection import Connection
from tokenstream_client.connections import Connections
from tokenstream_client.delivery import Delivery
from tokenstream_client.errors import Cancelled, TokenstreamError
from tokenstream_client.models import Model, model_from_message
from tokenstream_client.own_call import OwnCall
from tokenstream_client.prompts import Prompt
from tokenstream_client.requests import GenerateOptions, OnDisconnect
from tokenstream_client.status import own_errors
from tokenstream_client.stream import AsyncStream

# A larger request gets a call of its own: it would hold up the others, and where it is over some
# limit in between, gRPC would end the whole session.
_LARGEST_IN_SESSION: Final = 256 * 1024
_BACKGROUND_PATIENCE_S: Final = 5.0
_CLOSING_PATIENCE_S: Final = 1.0

_R = TypeVar("_R")


class AsyncClient:
    """A connection to a tokenstream service, for one event loop and any number of requests.

    It connects with its first call, and again by itself after the connection is lost. Closing it
    ends its streams. Timeouts are in seconds; None: no limit. All calls raise TokenstreamError.
    """

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        tls: Tls | bool = False,
        options: ClientOptions | None = None,
    ) -> None:
        """`target` is ``host:port`` or another gRPC name. Needs a running event loop.

        `api_key` goes with every call. `tls` encrypts: True trusts the usual roots. Raises
        ValueError for a key that would go to another machine unencrypted, or is not printable
        ASCII.
        """
        asyncio.get_running_loop()  # without one, gRPC would bind the channel to some other loop
        self._options = options or ClientOptions()
        self._target = target
        self._tls = (Tls() if tls else None) if isinstance(tls, bool) else tls
        check_key(api_key, target, self._tls, self._options)
        self._api_key = api_key
        self._metadata = key_metadata(api_key)
        self._connections = Connections(self._connect)
        self._streams = WeakSet[AsyncStream]()
        self._background = set[asyncio.Task[None]]()
        self._closed = False

    def generate(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,
        api_key: str | None = None,
        traceparent: str = "",
        tracestate: str = "",
        **options: Unpack[GenerateOptions],
    ) -> AsyncStream:
        """Begin an answer to a text, to token ids that are used as they are, or to a `Chat`.

        `options` are those of `GenerateOptions`. `timeout` covers the whole answer, retries and
        the time in the service's queue included. `api_key` is for this request alone, and so is
        its W3C trace context: the two headers; what is not well-formed is ignored. Raises
        InvalidRequest for a value that does not fit its field, ValueError as the constructor;
        everything else is raised by reading. With ``n`` above 1 nothing is resumed: a connection
        that is lost after the start is an error.
        """
        request = requests.generate_request(prompt, **options)
        stream, mine = request.stream, self._options
        resumable = mine.resume and request.sampling.n <= 1
        if stream.on_disconnect == pb.ON_DISCONNECT_UNSPECIFIED and resumable:
            stream.on_disconnect = pb.ON_DISCONNECT_DETACH
        if stream.on_disconnect != pb.ON_DISCONNECT_DETACH:
            stream.ClearField("time_to_live_ms")
        elif not stream.HasField("time_to_live_ms"):
            stream.time_to_live_ms = max(1, round(mine.time_to_live * 1000))
        stops = options.get("on_disconnect") != "detach"
        return self._begin(
            request,
            timeout,
            api_key,
            stops=stops,
            time_to_live=stream.time_to_live_ms / 1000,
            trace=trace_metadata(traceparent, tracestate),
        )

    def resume(
        self,
        stream_id: str,
        *,
        next_token_index: int = 0,
        timeout: float | None = None,
        api_key: str | None = None,
        max_delay_ms: int | None = None,
        max_tokens_per_message: int | None = None,
        on_disconnect: OnDisconnect = "detach",
    ) -> AsyncStream:
        """Read a stream on that was begun with ``on_disconnect="detach"``, here or elsewhere.

        `next_token_index` is how many tokens the caller has: `AsyncStream.next_token_index`. A
        reader that was there before gets `Aborted`. Leaving this one detaches the stream again,
        or ends it with `on_disconnect` "end"; `AsyncStream.stop` or `cancel` ends it anyhow. A
        delta without token ids is the stream's last: drop it if you had it before. `timeout` is for
        the reading alone. Reading raises NotFound if there is no such stream any more,
        InvalidRequest if it has not come so far.
        """
        request = requests.resume_request(
            stream_id, next_token_index, max_delay_ms, max_tokens_per_message
        )
        ttl = self._options.time_to_live
        stops = on_disconnect == "end"
        return self._begin(request, timeout, api_key, stops=stops, time_to_live=ttl)

    async def cancel(
        self, stream_id: str, *, timeout: float | None = None, api_key: str | None = None
    ) -> None:
        """End a running stream, from anywhere: its reader gets a `Finished`.

        Raises NotFound if no stream of that id is running.
        """
        request = requests.cancel_request(stream_id)
        metadata = self._metadata_for(api_key)
        *stopping, current = reversed(tuple(self._connections))
        for connection in stopping:  # first, as in reading on; they may be gone
            with suppress(TokenstreamError), own_errors():
                await connection.generation.Cancel(request, timeout=timeout, metadata=metadata)
                return
        with own_errors():
            await current.generation.Cancel(request, timeout=timeout, metadata=metadata)

    async def list_models(
        self, *, timeout: float | None = None, api_key: str | None = None
    ) -> tuple[Model, ...]:
        """Return the models that the service serves."""
        request, metadata = model_pb2.ListModelsRequest(), self._metadata_for(api_key)
        response = await self._ask(
            lambda place: place.models.ListModels(request, timeout=timeout, metadata=metadata)
        )
        return tuple(map(model_from_message, response.models))

    async def get_model(self, model: str = "", *, timeout: float | None = None) -> Model:
        """Return one model; without a name, the one that is served. Raises NotFound."""
        request = requests.get_model_request(model)
        response = await self._ask(
            lambda place: place.models.GetModel(request, timeout=timeout, metadata=self._metadata)
        )
        return model_from_message(response.model)

    async def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        add_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> tuple[int, ...]:
        """Return a text's token ids, with the special tokens of a prompt unless told otherwise."""
        request = requests.tokenize_request(text, model, add_special_tokens)
        response = await self._ask(
            lambda place: place.models.Tokenize(request, timeout=timeout, metadata=self._metadata)
        )
        return tuple(response.token_ids)

    async def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        """Return the text of token ids, without special tokens unless told otherwise."""
        request = requests.detokenize_request(token_ids, model, skip_special_tokens)
        response = await self._ask(
            lambda place: place.models.Detokenize(request, timeout=timeout, metadata=self._metadata)
        )
        return response.text

    async def is_ready(self, *, timeout: float | None = 1.0) -> bool:
        """Tell whether the service takes requests now; no answer in time is a no."""
        try:
            with own_errors():
                response = await self._connections.current.check(
                    health.check_request(), timeout=timeout, metadata=self._metadata
                )
        except TokenstreamError:
            return False
        return health.is_serving(response)

    async def close(self) -> None:
        """End the open streams, which fail with `Cancelled`, and close the connection.

        Takes at most some seconds, and that only if the service does not answer.
        """
        if self._closed:
            return
        self._closed = True
        for stream in tuple(self._streams):
            stream.close_with(Cancelled("the client was closed"))
        await self._connections.end_sessions()
        if self._background:
            await asyncio.wait(self._background, timeout=_CLOSING_PATIENCE_S)
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _begin(
        self,
        opening: pb.GenerateRequest | pb.ResumeRequest,
        timeout: float | None,
        api_key: str | None,
        *,
        stops: bool,
        time_to_live: float,
        trace: tuple[tuple[str, str], ...] = (),
    ) -> AsyncStream:
        if self._closed:
            raise RuntimeError("the client is closed")
        check_key(api_key, self._target, self._tls, self._options)
        mine = self._options
        now = asyncio.get_running_loop().time()
        terms = Terms(
            window=mine.window_tokens,
            deadline=None if timeout is None else now + timeout,
            max_attempts=mine.max_attempts,
            resumes=mine.resume,
            stops_when_left=stops,
            time_to_live=time_to_live,
            longest_wait=mine.max_reconnect_delay,
            api_key=api_key or "",
            **dict(trace),
        )
        answer, session = _answer(opening, terms), self._connections.current.session
        carrier: Connections | None = self._connections
        if session is None:
            carrier = None
        elif session.unimplemented:
            answer.not_detachable()
            carrier = None
        elif opening.ByteSize() > min(_LARGEST_IN_SESSION, mine.max_message_bytes // 2):
            carrier = None
        stream = AsyncStream(Delivery(answer, carrier, self._own_call))
        self._streams.add(stream)
        return stream

    def _own_call(self, answer: Answer) -> OwnCall:
        return OwnCall(answer, self._connections.place_of, self._api_key, self._stop_quietly)

    def _connect(self, connections: Connections) -> Connection:
        channel = open_channel(self._target, self._tls, self._options)
        connection = Connection(channel, connections.elsewhere)
        if self._options.use_sessions:
            connection.open_session(self._metadata, self._stop_quietly, connections.add)
        return connection

    async def _ask(self, call: Callable[[Connection], Awaitable[_R]]) -> _R:
        """Make a call, once more elsewhere where the replica refuses it because it stops."""
        place = self._connections.current
        try:
            with own_errors():
                return await call(place)
        except TokenstreamError as refused:
            if not self._connections.moves_from(place, refused):
                raise
        with own_errors():
            return await call(self._connections.current)

    def _metadata_for(self, api_key: str | None) -> tuple[tuple[str, str], ...]:
        check_key(api_key, self._target, self._tls, self._options)
        return key_metadata(api_key) or self._metadata

    def _stop_quietly(self, stream_id: str, api_key: str) -> None:
        """End a stream that was left, wherever it is: now or, if the connection is down, when it is
        back.
        """

        async def stop(connection: Connection) -> None:
            with suppress(grpc.RpcError, asyncio.CancelledError):
                await connection.generation.Cancel(
                    pb.CancelRequest(stream_id=stream_id),
                    timeout=_BACKGROUND_PATIENCE_S,
                    metadata=key_metadata(api_key) or self._metadata,
                    wait_for_ready=True,
                )

        for connection in self._connections:
            task = asyncio.get_running_loop().create_task(stop(connection))
            self._background.add(task)
            task.add_done_callback(self._background.discard)


def _answer(opening: pb.GenerateRequest | pb.ResumeRequest, terms: Terms) -> Answer:
    if isinstance(opening, pb.GenerateRequest) and opening.sampling.n > 1:
        return ChoicesAnswer(opening, terms)
    return Answer(opening, terms)
