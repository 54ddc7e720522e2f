"""The client for threads: `AsyncClient` on an event loop of its own, and calls that block."""

from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import closing
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, TypeVar, Unpack

from tokenstream_client.aio import AsyncClient
from tokenstream_client.channel import ClientOptions, Tls, check_key
from tokenstream_client.events import Delta, Event
from tokenstream_client.loop_thread import LoopThread
from tokenstream_client.models import Model
from tokenstream_client.prompts import Prompt
from tokenstream_client.reading import Reading
from tokenstream_client.requests import GenerateOptions
from tokenstream_client.stream import AsyncStream

_T = TypeVar("_T")

REPORT_EVERY_S: Final = 1.0
"""Time after which a slow reader's progress is told before its batch is at its end."""


class Stream(Reading):
    """One answer while it is being generated. Iterate over it once, or over its `text()`.

    It has begun already, and it is ended on the service by whatever ends the reading: leaving the
    ``with`` block or the loop, an interrupt, or `cancel()`, also from another thread. Only with
    ``on_disconnect="detach"`` it goes on there. What waits here is bounded as in `AsyncStream`.
    """

    def __init__(self, stream: AsyncStream, loop: LoopThread) -> None:
        """Not to be made by hand: `Client.generate` and `resume` return it."""
        super().__init__(stream.next_token_index)
        self._stream = stream
        self._loop = loop

    def __iter__(self) -> Generator[Event, None, None]:
        """Yield the stream's events as they come. Raises TokenstreamError."""
        try:
            read = 0  # tokens that the loop has not been told of
            while batch := self._loop.run(self._stream.take_batch(read)):
                read, told_at = 0, monotonic()
                for event in batch:
                    self._note(event)
                    if type(event) is Delta:
                        read += len(event.token_ids)
                        if (now := monotonic()) - told_at >= REPORT_EVERY_S:
                            self._loop.soon(partial(self._stream.note_read, read))
                            read, told_at = 0, now
                    yield event
        finally:
            self.cancel()

    def text(self) -> Generator[str, None, None]:
        """Yield only the answer's text, piece by piece, none empty. Raises TokenstreamError."""
        with closing(iter(self)) as events:
            for event in events:
                if isinstance(event, Delta) and event.text:
                    yield event.text

    def stop(self) -> None:
        """Ask the service to end the answer now, as `AsyncStream.stop`."""
        self._loop.run(self._stream.stop())

    def cancel(self) -> None:
        """Close the stream from this side. A reader that waits gets `Cancelled`."""
        self._loop.soon(self._stream.cancel)

    def close(self) -> None:
        """Close the stream, as `cancel` does."""
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
    """A connection to a tokenstream service, for any number of threads and requests.

    It connects with its first call, and again by itself after the connection is lost. Closing it
    ends its streams. Timeouts are in seconds; None: no limit. All calls raise TokenstreamError.
    It has one thread of its own, which starts with the first call and ends with `close`.
    """

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        tls: Tls | bool = False,
        options: ClientOptions | None = None,
    ) -> None:
        """Take what `AsyncClient` takes."""
        own_tls = (Tls() if tls else None) if isinstance(tls, bool) else tls
        own_options = options or ClientOptions()
        check_key(api_key, target, own_tls, own_options)
        self._loop = LoopThread(f"tokenstream-client {target}")
        self._client: AsyncClient | None = None
        self._make: Callable[[], AsyncClient] = lambda: AsyncClient(
            target, api_key=api_key, tls=tls, options=own_options
        )

    def generate(
        self,
        prompt: Prompt,
        *,
        timeout: float | None = None,
        api_key: str | None = None,
        traceparent: str = "",
        tracestate: str = "",
        **options: Unpack[GenerateOptions],
    ) -> Stream:
        """Begin an answer, as `AsyncClient.generate`."""

        async def begin(client: AsyncClient) -> AsyncStream:
            return client.generate(
                prompt,
                timeout=timeout,
                api_key=api_key,
                traceparent=traceparent,
                tracestate=tracestate,
                **options,
            )

        return Stream(self._run(begin), self._loop)

    def resume(
        self,
        stream_id: str,
        *,
        next_token_index: int = 0,
        timeout: float | None = None,
        api_key: str | None = None,
        max_delay_ms: int | None = None,
        max_tokens_per_message: int | None = None,
    ) -> Stream:
        """Read a stream on, as `AsyncClient.resume`."""

        async def begin(client: AsyncClient) -> AsyncStream:
            return client.resume(
                stream_id,
                next_token_index=next_token_index,
                timeout=timeout,
                api_key=api_key,
                max_delay_ms=max_delay_ms,
                max_tokens_per_message=max_tokens_per_message,
            )

        return Stream(self._run(begin), self._loop)

    def cancel(
        self, stream_id: str, *, timeout: float | None = None, api_key: str | None = None
    ) -> None:
        """End a running stream, as `AsyncClient.cancel`."""
        self._run(lambda client: client.cancel(stream_id, timeout=timeout, api_key=api_key))

    def list_models(
        self, *, timeout: float | None = None, api_key: str | None = None
    ) -> tuple[Model, ...]:
        """Return the models that the service serves."""
        return self._run(lambda client: client.list_models(timeout=timeout, api_key=api_key))

    def get_model(self, model: str = "", *, timeout: float | None = None) -> Model:
        """Return one model, as `AsyncClient.get_model`."""
        return self._run(lambda client: client.get_model(model, timeout=timeout))

    def tokenize(
        self,
        text: str,
        *,
        model: str = "",
        add_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> tuple[int, ...]:
        """Return a text's token ids, as `AsyncClient.tokenize`."""
        return self._run(
            lambda client: client.tokenize(
                text, model=model, add_special_tokens=add_special_tokens, timeout=timeout
            )
        )

    def detokenize(
        self,
        token_ids: Sequence[int],
        *,
        model: str = "",
        skip_special_tokens: bool | None = None,
        timeout: float | None = None,
    ) -> str:
        """Return the text of token ids, as `AsyncClient.detokenize`."""
        return self._run(
            lambda client: client.detokenize(
                token_ids, model=model, skip_special_tokens=skip_special_tokens, timeout=timeout
            )
        )

    def is_ready(self, *, timeout: float | None = 1.0) -> bool:
        """Tell whether the service takes requests now; no answer in time is a no."""
        return self._run(lambda client: client.is_ready(timeout=timeout))

    def close(self) -> None:
        """End the open streams, which fail with `Cancelled`, and close the connection."""
        if self._client is not None:
            try:
                self._loop.run(self._client.close())
            except RuntimeError:
                return  # it was closed before
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, work: Callable[[AsyncClient], Coroutine[Any, Any, _T]]) -> _T:
        async def run() -> _T:
            # Made in the loop that it is for, and there by one call after the other.
            if self._client is None:
                self._client = self._make()
            return await work(self._client)

        return self._loop.run(run())
