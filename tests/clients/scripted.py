# ruff: noqa: N802  # gRPC names its methods so
"""A service that plays a script, behind a real gRPC server; for the client and the bridge."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import (
    error_details_pb2,
    status_pb2,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_status import rpc_status

from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc

GENERATION = "tokenstream.v1.GenerationService"
STREAM_ID = "stream-1"


@dataclass(frozen=True)
class Fail:
    """A step of a script: end with this status."""

    code: grpc.StatusCode
    message: str = "it failed"
    details: Sequence[Message] = ()


Step = pb.GenerateResponse | asyncio.Event | Fail


def reason(name: str) -> Message:
    info: Message = error_details_pb2.ErrorInfo(reason=name, domain="tokenstream")
    return info


def retry_in(seconds: float) -> Message:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(round(seconds * 1000))
    retry: Message = info
    return retry


def bad_fields(**violations: str) -> Message:
    """Double underscores stand for dots."""
    bad: Message = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=path.replace("__", "."), description=description
            )
            for path, description in violations.items()
        ]
    )
    return bad


def started(prompt_tokens: int = 3) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        started=pb.Started(stream_id=STREAM_ID, model="demo", prompt_tokens=prompt_tokens)
    )


def deltas(*texts: str) -> list[pb.GenerateResponse]:
    """One token each, numbered from 0."""
    return [
        pb.GenerateResponse(
            delta=pb.Delta(first_token_index=index, token_ids=[100 + index], text=text)
        )
        for index, text in enumerate(texts)
    ]


def finished(
    completion_tokens: int = 2, reason: pb.FinishReason.ValueType = pb.FINISH_REASON_LENGTH
) -> pb.GenerateResponse:
    message = pb.GenerateResponse()
    message.finished.reason = reason
    message.finished.usage.prompt_tokens = 3
    message.finished.usage.completion_tokens = completion_tokens
    message.finished.timings.time_to_first_token.FromMilliseconds(25)
    message.finished.timings.total.FromMilliseconds(1500)
    return message


def answer(*texts: str) -> list[Step]:
    return [started(), *deltas(*texts), finished(len(texts))]


@dataclass
class ScriptedService(generation_pb2_grpc.GenerationServiceServicer):
    """Plays `script` to every Generate, and tells what it saw.

    An Event in the script holds the stream until the test sets it.
    """

    target: str = ""
    script: Iterable[Step] = ()
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    cancelled_ids: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """The caller closed a Generate before its script ended."""
    health: Any = None

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        self.arrived.set()
        try:
            for step in self.script:
                match step:
                    case asyncio.Event():
                        await step.wait()
                    case Fail():
                        await abort(context, step)
                    case _:
                        yield step
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        if request.stream_id != STREAM_ID:
            await abort(
                context,
                Fail(
                    grpc.StatusCode.NOT_FOUND,
                    "no running stream has this id",
                    [reason("STREAM_NOT_FOUND")],
                ),
            )
        self.cancelled_ids.append(request.stream_id)
        return pb.CancelResponse()

    async def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.health.set(GENERATION, status.SERVING if serving else status.NOT_SERVING)


class ScriptedModels(model_pb2_grpc.ModelServiceServicer):
    """One model, "demo"; a token is a character's code."""

    MODEL = model_pb2.Model(
        id="demo",
        context_length=2048,
        vocab_size=512,
        capabilities=[
            model_pb2.CAPABILITY_TEXT_PROMPT,
            99,  # type: ignore[list-item]  # one that the client does not know yet
        ],
    )

    async def ListModels(
        self, request: model_pb2.ListModelsRequest, context: Any
    ) -> model_pb2.ListModelsResponse:
        return model_pb2.ListModelsResponse(models=[self.MODEL])

    async def GetModel(
        self, request: model_pb2.GetModelRequest, context: Any
    ) -> model_pb2.GetModelResponse:
        if request.model not in ("", "demo"):
            await abort(
                context,
                Fail(
                    grpc.StatusCode.NOT_FOUND,
                    f"model {request.model!r} is not served here",
                    [reason("MODEL_NOT_FOUND")],
                ),
            )
        return model_pb2.GetModelResponse(model=self.MODEL)

    async def Tokenize(
        self, request: model_pb2.TokenizeRequest, context: Any
    ) -> model_pb2.TokenizeResponse:
        special = not request.HasField("add_special_tokens") or request.add_special_tokens
        return model_pb2.TokenizeResponse(token_ids=[1] * special + [ord(c) for c in request.text])

    async def Detokenize(
        self, request: model_pb2.DetokenizeRequest, context: Any
    ) -> model_pb2.DetokenizeResponse:
        return model_pb2.DetokenizeResponse(text="".join(chr(i) for i in request.token_ids))


async def abort(context: Any, failure: Fail) -> None:
    status = status_pb2.Status(code=failure.code.value[0], message=failure.message)
    for detail in failure.details:
        status.details.add().Pack(detail)
    await context.abort_with_status(rpc_status.to_status(status))


@asynccontextmanager
async def scripted_service() -> AsyncIterator[ScriptedService]:
    """Serve on a free port of this machine."""
    service = ScriptedService(health=health_aio.HealthServicer())
    server = grpc.aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(ScriptedModels(), server)
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    service.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await service.set_serving(True)
    await server.start()
    try:
        yield service
    finally:
        await server.stop(None)
