# ruff: noqa: N802  # gRPC names its methods so
"""A service that plays a script, behind a real gRPC server; for the client and the bridge."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_status import rpc_status

from tests.clients.script import NO_SUCH_STREAM, STREAM_ID, Fail, Script, Step, reason
from tests.clients.scripted_session import ScriptedSession
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc

GENERATION = "tokenstream.v1.GenerationService"


@dataclass
class ScriptedService(generation_pb2_grpc.GenerationServiceServicer):
    """Plays `script` to every request, by Generate or in a session, and tells what it saw.

    An Event in the script holds the stream until the test sets it. A stream that has started can
    be resumed for as long as the service lives: its script is played again from the index.
    """

    target: str = ""
    script: Script = ()
    knows_sessions: bool = True
    requests: list[pb.GenerateRequest] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    resumed: list[pb.ResumeRequest] = field(default_factory=list)
    cancelled_ids: list[str] = field(default_factory=list)
    """Stream ids that unary Cancel named."""
    keys: list[str] = field(default_factory=list)
    """What each call but Session had for `authorization`, and each request in one for its key."""
    session_keys: list[str] = field(default_factory=list)
    frames: list[pb.SessionRequest] = field(default_factory=list)
    """What sessions were sent."""
    calls: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """The caller left a request before its script ended."""
    stream_cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    """The caller cancelled a stream by its id."""
    session_refusal: Fail | None = None
    sessions: list[ScriptedSession] = field(default_factory=list)
    streams: dict[str, list[Step]] = field(default_factory=dict)
    """What was started, by stream id."""
    health: Any = None

    def steps(self, request: pb.GenerateRequest) -> list[Step]:
        steps = list(self.script(request) if callable(self.script) else self.script)
        for step in steps:
            if isinstance(step, pb.GenerateResponse) and step.HasField("started"):
                self.streams[step.started.stream_id] = steps
        return steps

    def note_request(
        self, request: pb.GenerateRequest, remaining: float | None, key: str
    ) -> list[Step]:
        """Return what to play for it."""
        self.requests.append(request)
        self.deadlines.append(remaining)
        self.keys.append(key)
        steps = self.steps(request)
        self.arrived.set()
        return steps

    def note_resume(self, request: pb.ResumeRequest, key: str) -> list[Step]:
        """Return what to play for it: what it has not had yet."""
        self.resumed.append(request)
        self.keys.append(key)
        if request.stream_id not in self.streams:
            return [NO_SUCH_STREAM]
        return [
            step
            for step in self.streams[request.stream_id]
            if not (
                isinstance(step, pb.GenerateResponse)
                and step.HasField("delta")
                and step.delta.token_ids
                and step.delta.first_token_index < request.next_token_index
            )
        ]

    async def Generate(
        self, request: pb.GenerateRequest, context: Any
    ) -> AsyncIterator[pb.GenerateResponse]:
        self.calls.append("Generate")
        steps = self.note_request(request, context.time_remaining(), _key(context))
        async for message in self._play(steps, context):
            yield message

    async def Resume(
        self, request: pb.ResumeRequest, context: Any
    ) -> AsyncIterator[pb.ResumeResponse]:
        self.calls.append("Resume")
        async for message in self._play(self.note_resume(request, _key(context)), context):
            yield pb.ResumeResponse.FromString(message.SerializeToString())

    async def _play(self, steps: list[Step], context: Any) -> AsyncIterator[pb.GenerateResponse]:
        try:
            for step in steps:
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

    async def Session(
        self, request_iterator: AsyncIterator[pb.SessionRequest], context: Any
    ) -> AsyncIterator[pb.SessionResponse]:
        self.calls.append("Session")
        if not self.knows_sessions:
            await abort(context, Fail(grpc.StatusCode.UNIMPLEMENTED, "no such call"))
        if self.session_refusal is not None:
            await abort(context, self.session_refusal)
        self.session_keys.append(_key(context))
        session = ScriptedSession(self)
        self.sessions.append(session)
        async for message in session.serve(request_iterator):
            yield message

    async def Cancel(self, request: pb.CancelRequest, context: Any) -> pb.CancelResponse:
        self.keys.append(_key(context))
        if request.stream_id != STREAM_ID and request.stream_id not in self.streams:
            await abort(context, NO_SUCH_STREAM)
        self.cancelled_ids.append(request.stream_id)
        self.stream_cancelled.set()
        return pb.CancelResponse()

    async def set_serving(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse
        await self.health.set(GENERATION, status.SERVING if serving else status.NOT_SERVING)


def _key(context: Any) -> str:
    metadata = dict(context.invocation_metadata() or ())
    return str(metadata.get("authorization", "")).removeprefix("Bearer ")


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
async def scripted_service(
    credentials: grpc.ServerCredentials | None = None,
) -> AsyncIterator[ScriptedService]:
    """Serve on a free port of this machine."""
    service = ScriptedService(health=health_aio.HealthServicer())
    server = grpc.aio.server()
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
    model_pb2_grpc.add_ModelServiceServicer_to_server(ScriptedModels(), server)
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    service.target = f"127.0.0.1:{port}"
    await service.set_serving(True)
    await server.start()
    try:
        yield service
    finally:
        await server.stop(None)
