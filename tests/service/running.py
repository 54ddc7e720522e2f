"""A whole service over a scripted engine, in the test's event loop, behind a real socket."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from service.app import ExitStatus, Service
from service.config import ServiceSettings
from service.engine.protocol import EngineClient
from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from service.transport.tls import TlsFiles
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc, model_pb2_grpc

PATIENCE_S = 10.0  # far more than anything here takes; what waits so long has failed


async def eventually(condition: Callable[[], bool], *, within_s: float = PATIENCE_S) -> None:
    """Wait until something that has no event of its own is true."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.001)


class RunningService:
    """The service, its engine, a channel to it and stubs on that channel."""

    def __init__(self, service: Service, engine: EngineClient, port: int) -> None:
        self.service = service
        self._engine = engine
        self.target = f"127.0.0.1:{port}"
        self._channels: list[grpc.aio.Channel] = []
        self.channel = self.connect()
        self.generation = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.models = model_pb2_grpc.ModelServiceStub(self.channel)
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)  # published without types
        self.running: asyncio.Task[ExitStatus]

    @property
    def engine(self) -> ScriptedEngine:
        """The engine, where it is the scripted one."""
        assert isinstance(self._engine, ScriptedEngine)
        return self._engine

    def connect(self, *options: tuple[str, int]) -> grpc.aio.Channel:
        """Open a connection of its own."""
        channel = grpc.aio.insecure_channel(
            self.target,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_send_message_length", -1),
                # A connection refused while the service starts is tried again at once.
                ("grpc.initial_reconnect_backoff_ms", 100),
                *options,
            ],
        )
        self._channels.append(channel)
        return channel

    async def disconnect(self) -> None:
        """Close all connections."""
        for channel in self._channels:
            await channel.close()
        self._channels.clear()

    def generate(
        self, request: pb.GenerateRequest | str, *, timeout: float | None = None
    ) -> "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]":
        """Begin a stream; a string is a text prompt."""
        if isinstance(request, str):
            request = pb.GenerateRequest(text=request)
        call: grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]
        call = self.generation.Generate(request, timeout=timeout)
        return call

    def resume(
        self, stream_id: str, next_token_index: int = 0, **stream: Any
    ) -> "grpc.aio.UnaryStreamCall[pb.ResumeRequest, pb.ResumeResponse]":
        """Read a stream on; `stream`: its StreamOptions."""
        request = pb.ResumeRequest(stream_id=stream_id, next_token_index=next_token_index)
        if stream:
            request.stream.CopyFrom(pb.StreamOptions(**stream))
        call: grpc.aio.UnaryStreamCall[pb.ResumeRequest, pb.ResumeResponse]
        call = self.generation.Resume(request)
        return call

    async def cancel(self, stream_id: str) -> None:
        """End a stream by its id."""
        await self.generation.Cancel(pb.CancelRequest(stream_id=stream_id))

    async def check_health(self, name: str = "") -> int:
        """Ask the standard health service."""
        response = await self.health.Check(health_pb2.HealthCheckRequest(service=name))
        return int(response.status)

    def count(self, outcome: Outcome) -> int:
        """How many requests ended so."""
        return self.service.metrics.count(outcome)

    @property
    def counted(self) -> int:
        """How many requests ended in any way."""
        return sum(map(self.count, Outcome))

    @property
    def tokens_routed(self) -> int:
        """Tokens that have come as far as their streams."""
        return self.service.demultiplexer.router.counts.tokens_routed

    @property
    def idle(self) -> bool:
        """Whether nothing of any request is left anywhere."""
        return self.nothing_runs and len(self.service.directory) == 0

    @property
    def nothing_runs(self) -> bool:
        """Whether no request holds anything; streams that have ended may still be readable."""
        return (
            self.service.gate.held == 0
            and len(self.service.demultiplexer.router) == 0
            and len(self.service.directory) == self.service.directory.retained
            and not self.engine.running_ids
        )


Response = pb.GenerateResponse | pb.ResumeResponse


@dataclass
class Answer:
    """What came of one stream, from a token index on; checks the grammar while it reads."""

    first: int = 0
    started: pb.Started | None = None
    deltas: list[pb.Delta] = field(default_factory=list)
    finished: pb.Finished | None = None
    count: int = 0  # of the tokens in `deltas`

    async def read(self, call: AsyncIterable[Response]) -> "Answer":
        """Read to the end; raises what the call raises."""
        async for message in call:
            self.add(message)
        return self

    async def read_tokens(self, call: AsyncIterable[Response], count: int) -> "Answer":
        """Read until there are so many tokens, or the end."""
        if not self.started or self.count < count:
            async for message in call:
                self.add(message)
                if self.count >= count:
                    break
        return self

    def add(self, message: Response) -> None:
        """Take one message that must be allowed here."""
        assert self.finished is None, "something came after the end"
        match message.WhichOneof("event"):
            case "started":
                assert self.started is None
                assert not self.deltas
                self.started = message.started
            case "delta":
                assert self.started is not None
                assert message.delta.first_token_index == self.first + self.count
                assert message.delta.token_ids or message.delta.text
                self.deltas.append(message.delta)
                self.count += len(message.delta.token_ids)
            case "finished":
                assert self.started is not None
                self.finished = message.finished
            case _:
                raise AssertionError("an empty message")

    @property
    def token_ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def stream_id(self) -> str:
        assert self.started is not None
        return self.started.stream_id

    @property
    def end(self) -> pb.Finished:
        assert self.finished is not None, "the stream has no end"
        return self.finished


@dataclass(frozen=True)
class Refusal:
    """The rich status of a failed call, or of a failed request of a session."""

    code: grpc.StatusCode
    message: str
    reason: str
    domain: str
    fields: tuple[str, ...]
    retry_after_s: float | None

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> "Refusal":
        """Unpack the details; their own code and message must be those of the call."""
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it has all that is read
        if status is not None:
            assert status.message == error.details()
        details = () if status is None else status.details
        return cls._of(error.code(), error.details() or "", details)

    @classmethod
    def of_failure(cls, failure: pb.Failure) -> "Refusal":
        """Unpack the status of one request of a session."""
        code = next(code for code in grpc.StatusCode if code.value[0] == failure.code)
        return cls._of(code, failure.message, failure.details)

    @classmethod
    def _of(cls, code: grpc.StatusCode, message: str, details: Iterable[Any]) -> "Refusal":
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        retry_after_s: float | None = None
        for detail in details:
            known = detail.Unpack(info) or detail.Unpack(bad)
            if not known:
                assert detail.Unpack(retry)
                retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
        return cls(
            code,
            message,
            info.reason,
            info.domain,
            tuple(violation.field for violation in bad.field_violations),
            retry_after_s,
        )


async def refusal(call: Any) -> Refusal:
    """Read a stream, or await an answer, that has to fail."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    raise AssertionError("the call did not fail")


async def started(call: AsyncIterable[Response]) -> str:
    """Read a stream's first event; return its id."""
    async for message in call:
        return message.started.stream_id
    raise AssertionError("the stream ended before it started")


def settings_of(**settings: Any) -> ServiceSettings:
    """Settings that listen on a free port."""
    chosen: dict[str, Any] = {"listen": "127.0.0.1:0", "drain_grace_s": 5.0} | settings
    return ServiceSettings(**chosen)


@asynccontextmanager
async def running_service(
    engine: EngineClient | None = None, *, wait: bool = True, **settings: Any
) -> AsyncIterator[RunningService]:
    """Run a service; with `wait=False` only until it listens, not until it serves."""
    if engine is None:
        engine = ScriptedEngine()
    service = Service(settings_of(**settings), engine)
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ready = asyncio.Event()
    start = service.server.start

    async def start_and_tell(address: str, tls: TlsFiles | None = None) -> int:
        port = await start(address, tls)
        listening.set_result(port)
        return port

    service.server.start = start_and_tell  # type: ignore[method-assign]
    task = asyncio.create_task(service.run(lambda port: ready.set()))
    running = RunningService(service, engine, await listening)
    running.running = task
    if wait:
        async with asyncio.timeout(PATIENCE_S):
            await ready.wait()
    try:
        yield running
    finally:
        await running.disconnect()
        service.stop()
        service.stop()
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.done(), "the service does not end"
