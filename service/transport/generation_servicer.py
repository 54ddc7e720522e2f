"""`tokenstream.v1.GenerationService` over the pipeline: convert, pass on, write."""

import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import grpc

from service.pipeline import Pipeline
from service.transport.convert import from_event, to_request
from service.transport.status import StatusError, status_boundary
from tokenstream.v1 import generation_pb2, generation_pb2_grpc


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """At most one message of a stream is being written; gRPC's flow control sets the pace."""

    def __init__(self, pipeline: Pipeline, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipeline = pipeline
        self._clock = clock

    async def Generate(  # type: ignore[override]  # the stubs know handlers that yield only
        self, request: generation_pb2.GenerateRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        """One request, one stream.

        Writes itself instead of yielding, so that a cancellation arrives here, where the
        pipeline's generator is closed at once, and not in gRPC's loop over it.
        """
        remaining = context.time_remaining()
        deadline = None if remaining is None else self._clock() + remaining
        try:
            with status_boundary():
                async with aclosing(
                    self._pipeline.generate(to_request(request), deadline)
                ) as events:
                    async for event in events:
                        await context.write(from_event(event))
        except StatusError as error:
            await context.abort_with_status(error.status)

    async def Cancel(
        self, request: generation_pb2.CancelRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> generation_pb2.CancelResponse:
        """End a running stream."""
        try:
            with status_boundary():
                self._pipeline.cancel(request.stream_id)
        except StatusError as error:
            await context.abort_with_status(error.status)
        return generation_pb2.CancelResponse()
