# ruff: noqa: ASYNC109  # a call's timeout is its gRPC deadline, which the service must see
"""The client for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Self, Unpack

import grpc

from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc
from tokenstream_client import health, requests
from tokenstream_client.channel import ClientOptions, channel_arguments
from tokenstream_client.errors import Cancelled, TokenstreamError
from tokenstream_client.events import Delta, Event
from tokenstream_client.models import Model, model_from_message
from tokenstream_client.reading import Reading
from tokenstream_client.requests import GenerateOptions
from tokenstream_client.status import own_errors


class AsyncStream(Reading):
    """One answer while it is being generated. Iterate over it once, or over its `text()`.

    The call is open from the start, and it is cancelled on the service by whatever ends the
    reading: leaving the ``async with`` block or the loop, `cancel()`, a cancelled task. Nothing is
    buffered here but what gRPC's flow control window lets through (64 KiB, more on fast links);
    the rest waits in the service while nobody reads.
    """

    def __init__(self, call: "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]"):
        super().__init__()
        self._call = call

    async def __aiter__(self) -> AsyncGenerator[Event, None]:
        """Yield the stream's events as they come. Raises TokenstreamError."""
        try:
            with own_errors():
                async for message in self._call:
                    event = self._take(message)
                    if event is not None:
                        yield event
        except asyncio.CancelledError:
            # gRPC raises this both when the task is cancelled and when the call is. Only the
            # first may go on as it is: a task that nobody cancelled must not look as if.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise Cancelled("the call was closed from this side") from None
        finally:
            self._call.cancel()

    async def text(self) -> AsyncGenerator[str, None]:
        """Yield only the answer's text, piece by piece, none empty. Raises TokenstreamError."""
        async with aclosing(aiter(self)) as events:
            async for event in events:
                if isinstance(event, Delta) and event.text:
                    yield event.text

    def cancel(self) -> None:
        """Close the call; the service ends the decoding. The reader gets `Cancelled`."""
        self._call.cancel()

    async def aclose(self) -> None:
        """Close the call, as `cancel` does."""
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()


class AsyncClient:
    """A connection to a tokenstream service, for one event loop and any number of calls.

    It connects with its first call, and again by itself after the connection is lost. Closing it
    cancels its calls. Timeouts are in seconds; None: no limit. All calls raise TokenstreamError.
    """

    def __init__(self, target: str, *, options: ClientOptions | None = None) -> None:
        """`target` is ``host:port`` or another gRPC name. Needs a running event loop."""
        asyncio.get_running_loop()  # without one, gRPC would bind the channel to some other loop
        arguments = channel_arguments(options or ClientOptions())
        self._channel = grpc.aio.insecure_channel(target, options=arguments)
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            health.CHECK
        )

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        timeout: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncStream:
        """Begin an answer to a text, or to token ids that are used as they are.

        `options` are those of `GenerateOptions`. `timeout` covers the whole answer, the time in
        the service's queue included. Raises InvalidRequest for a value that does not fit its
        field; everything else is raised by reading.
        """
        request = requests.generate_request(prompt, **options)
        return AsyncStream(self._generation.Generate(request, timeout=timeout))

    async def cancel(self, stream_id: str, *, timeout: float | None = None) -> None:
        """End a running stream, from anywhere: its reader gets a `Finished`.

        Raises NotFound if no stream of that id is running.
        """
        request = requests.cancel_request(stream_id)
        with own_errors():
            await self._generation.Cancel(request, timeout=timeout)

    async def list_models(self, *, timeout: float | None = None) -> tuple[Model, ...]:
        """Return the models that the service serves."""
        with own_errors():
            response = await self._models.ListModels(model_pb2.ListModelsRequest(), timeout=timeout)
        return tuple(map(model_from_message, response.models))

    async def get_model(self, model: str = "", *, timeout: float | None = None) -> Model:
        """Return one model; without a name, the one that is served. Raises NotFound."""
        request = requests.get_model_request(model)
        with own_errors():
            response = await self._models.GetModel(request, timeout=timeout)
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
        with own_errors():
            response = await self._models.Tokenize(request, timeout=timeout)
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
        with own_errors():
            response = await self._models.Detokenize(request, timeout=timeout)
        return response.text

    async def is_ready(self, *, timeout: float | None = 1.0) -> bool:
        """Tell whether the service takes requests now; no answer in time is a no."""
        try:
            with own_errors():
                response = await self._check(health.check_request(), timeout=timeout)
        except TokenstreamError:
            return False
        return health.is_serving(response)

    async def close(self) -> None:
        """Close the connection; open streams fail with `Cancelled`."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
