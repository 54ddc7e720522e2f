"""The client for threads: the calls of `AsyncClient`, blocking. May be shared by threads."""

from collections.abc import Generator, Sequence
from contextlib import closing
from types import TracebackType
from typing import Self, Unpack

import grpc

from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc
from tokenstream_client import health, requests
from tokenstream_client.channel import ClientOptions, channel_arguments
from tokenstream_client.errors import TokenstreamError
from tokenstream_client.events import Delta, Event
from tokenstream_client.models import Model, model_from_message
from tokenstream_client.reading import Reading
from tokenstream_client.requests import GenerateOptions
from tokenstream_client.status import own_errors


class Stream(Reading):
    """One answer while it is being generated. Iterate over it once, or over its `text()`.

    The call is open from the start, and it is cancelled on the service by whatever ends the
    reading: leaving the ``with`` block or the loop, or `cancel()`, also from another thread.
    """

    def __init__(self, call: "grpc._CallIterator[pb.GenerateResponse]") -> None:
        super().__init__()
        self._call = call

    def __iter__(self) -> Generator[Event, None, None]:
        """Yield the stream's events as they come. Raises TokenstreamError."""
        try:
            with own_errors():
                for message in self._call:
                    event = self._take(message)
                    if event is not None:
                        yield event
        finally:
            self._call.cancel()

    def text(self) -> Generator[str, None, None]:
        """Yield only the answer's text, piece by piece, none empty. Raises TokenstreamError."""
        with closing(iter(self)) as events:
            for event in events:
                if isinstance(event, Delta) and event.text:
                    yield event.text

    def cancel(self) -> None:
        """Close the call; the service ends the decoding. The reader gets `Cancelled`."""
        self._call.cancel()

    def close(self) -> None:
        """Close the call, as `cancel` does."""
        self.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()


class Client:
    """A connection to a tokenstream service, for any number of threads and calls.

    It connects with its first call, and again by itself after the connection is lost. Closing it
    cancels its calls. Timeouts are in seconds; None: no limit. All calls raise TokenstreamError.
    """

    def __init__(self, target: str, *, options: ClientOptions | None = None) -> None:
        """`target` is ``host:port`` or another gRPC name."""
        arguments = channel_arguments(options or ClientOptions())
        self._channel = grpc.insecure_channel(target, options=arguments)
        self._generation = generation_pb2_grpc.GenerationServiceStub(self._channel)
        self._models = model_pb2_grpc.ModelServiceStub(self._channel)
        self._check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            health.CHECK
        )

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        timeout: float | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Stream:
        """Begin an answer, as `AsyncClient.generate`."""
        request = requests.generate_request(prompt, **options)
        return Stream(self._generation.Generate(request, timeout=timeout))

    def cancel(self, stream_id: str, *, timeout: float | None = None) -> None:
        """End a running stream, as `AsyncClient.cancel`."""
        request = requests.cancel_request(stream_id)
        with own_errors():
            self._generation.Cancel(request, timeout=timeout)

    def list_models(self, *, timeout: float | None = None) -> tuple[Model, ...]:
        """Return the models that the service serves."""
        with own_errors():
            response = self._models.ListModels(model_pb2.ListModelsRequest(), timeout=timeout)
        return tuple(map(model_from_message, response.models))

    def get_model(self, model: str = "", *, timeout: float | None = None) -> Model:
        """Return one model, as `AsyncClient.get_model`."""
        request = requests.get_model_request(model)
        with own_errors():
            response = self._models.GetModel(request, timeout=timeout)
        return model_from_message(response.model)

    def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        add_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> tuple[int, ...]:
        """Return a text's token ids, as `AsyncClient.tokenize`."""
        request = requests.tokenize_request(text, model, add_special_tokens)
        with own_errors():
            response = self._models.Tokenize(request, timeout=timeout)
        return tuple(response.token_ids)

    def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        """Return the text of token ids, as `AsyncClient.detokenize`."""
        request = requests.detokenize_request(token_ids, model, skip_special_tokens)
        with own_errors():
            response = self._models.Detokenize(request, timeout=timeout)
        return response.text

    def is_ready(self, *, timeout: float | None = 1.0) -> bool:
        """Tell whether the service takes requests now; no answer in time is a no."""
        try:
            with own_errors():
                response = self._check(health.check_request(), timeout=timeout)
        except TokenstreamError:
            return False
        return health.is_serving(response)

    def close(self) -> None:
        """Close the connection; open streams fail with `Cancelled`."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
