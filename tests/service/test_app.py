import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from service.admission.callers import ANONYMOUS
from service.app import ExitStatus, Service, serve
from service.domain import GenerationRequest
from service.engine.protocol import Progress, RenderedRequest
from service.engine.scripted import ScriptedEngine
from service.errors import EngineStartFailed
from service.pipeline import deadline_slack_s
from service.telemetry.outcomes import Outcome
from service.transport.server import CannotListenError
from tests.conftest import Serve
from tests.service.running import (
    Answer,
    Refusal,
    RunningService,
    eventually,
    refusal,
    settings_of,
    started,
)
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

ENDLESS = pb.GenerateRequest(
    text="ab", sampling=pb.SamplingOptions(ignore_eos=True, max_tokens=1000)
)


async def ended(running: RunningService) -> ExitStatus:
    async with asyncio.timeout(10):
        return await running.running


async def test_streams_that_finish_within_the_grace_are_whole_and_new_ones_are_refused(
    serve: Serve,
) -> None:
    running = await serve(ScriptedEngine(step_s=None), drain_grace_s=30)
    call = running.generate("abc")
    got = Answer()
    got.add(await anext(aiter(call)))
    running.service.stop()
    await eventually(lambda: running.service.gate._state.name == "STOPPING")

    refused = await refusal(running.generate("abc"))
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.reason == "SERVICE_STOPPING"
    assert refused.retry_after_s is not None
    assert await running.check_health() == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not running.running.done()

    for _ in range(4):
        running.engine.step()
    await got.read(call)
    assert got.text == "abc"
    assert got.end.reason == pb.FINISH_REASON_STOP
    assert await ended(running) is ExitStatus.OK
    assert running.count(Outcome.STOP) == 1
    assert running.count(Outcome.STOPPING) == 1


async def test_while_endpoints_notice_new_streams_are_still_taken(serve: Serve) -> None:
    running = await serve(drain_wait_s=0.5, drain_grace_s=30)
    running.service.stop()
    await eventually(lambda: not running.service.ready)
    assert await running.check_health() == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await Answer().read(running.generate("abc"))).text == "abc"
    assert running.service.gate._state.name == "OPEN"
    assert await ended(running) is ExitStatus.OK
    assert running.service.gate._state.name == "STOPPING"


async def test_a_second_stop_ends_the_wait_for_endpoints_too(serve: Serve) -> None:
    running = await serve(drain_wait_s=600, drain_grace_s=600)
    call = running.generate(ENDLESS)
    await started(call)
    running.service.stop()
    await eventually(lambda: not running.service.ready)
    running.service.stop()
    assert (await refusal(call)).reason == "SERVICE_STOPPING"
    assert await ended(running) is ExitStatus.OK


async def test_a_session_whose_last_frame_is_being_written_is_not_broken_off_yet(
    serve: Serve,
) -> None:
    running = await serve(drain_grace_s=30)
    session: Any = running.generation.Session()
    await session.write(
        pb.SessionRequest(start=pb.SessionStart(id=1, request=pb.GenerateRequest(text="abc")))
    )
    while not (await session.read()).finished:
        pass
    (call,) = running.service.generation_servicer._sessions
    call._driver.session.sending = True
    running.service.stop()
    await eventually(lambda: running.service.gate._state.name == "STOPPING")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await session.read()
    call._driver.session.sending = False
    assert await ended(running) is ExitStatus.OK


async def test_a_dead_engine_is_not_waited_with(serve: Serve) -> None:
    running = await serve(drain_wait_s=600)
    running.engine.die()
    assert await ended(running) is ExitStatus.ENGINE_DIED


async def cut_off(running: RunningService, call: object, got: Answer) -> Refusal:
    try:
        await got.read(call)  # type: ignore[arg-type]
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    raise AssertionError("the stream was not cut off")


@pytest.mark.parametrize("how", ["the grace is over", "a second stop"])
async def test_streams_that_are_cut_off_get_what_they_had_and_a_reason(
    serve: Serve, how: str
) -> None:
    grace = 0.05 if how == "the grace is over" else 600
    running = await serve(ScriptedEngine(step_s=None), drain_grace_s=grace)
    calls = [running.generate(ENDLESS) for _ in range(3)]
    answers = [Answer() for _ in calls]
    for call, got in zip(calls, answers, strict=True):
        got.add(await anext(aiter(call)))
    for _ in range(3):
        running.engine.step()
    running.service.stop()
    if how == "a second stop":
        running.service.stop()
    for call, got in zip(calls, answers, strict=True):
        refused = await cut_off(running, call, got)
        assert refused.code is grpc.StatusCode.UNAVAILABLE
        assert refused.reason == "SERVICE_STOPPING"
        assert got.text == "aba"
    assert await ended(running) is ExitStatus.OK
    assert running.count(Outcome.STOPPING) == running.counted == 3
    assert running.service.gate.held == 0


async def test_a_reader_that_never_reads_does_not_keep_the_service_from_ending(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.app._LAST_WORDS_S", 0.1)
    engine = ScriptedEngine(step_s=None, context_length=1_000_000)
    running = await serve(engine, drain_grace_s=0.0)
    # Without a probe for the bandwidth a window stays at HTTP/2's 64 KiB.
    channel = running.connect(("grpc.http2.bdp_probe", 0))
    call = generation_pb2_grpc.GenerationServiceStub(channel).Generate(
        pb.GenerateRequest(text="ab", sampling=pb.SamplingOptions(ignore_eos=True))
    )
    stream_id = await started(call)
    demultiplexer = running.service.demultiplexer
    reader = running.service.directory.find_running(stream_id, ANONYMOUS.tenant).reader
    assert reader is not None
    # More than that: the service comes to wait in the middle of a write.
    for burst in range(1, 9):
        for _ in range(10_000):
            engine.step()
        while demultiplexer.router.counts.tokens_routed < burst * 10_000:
            await asyncio.sleep(0.001)
    assert reader.position < 80_000

    running.service.stop()
    assert await ended(running) is ExitStatus.OK
    assert running.counted == 1
    assert (await refusal(call)).code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_without_streams_a_stop_is_immediate_whatever_the_grace(serve: Serve) -> None:
    running = await serve(drain_grace_s=600)
    running.service.stop()
    assert await ended(running) is ExitStatus.OK


async def test_the_engines_death_during_the_drain_ends_it(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=None), drain_grace_s=600)
    call = running.generate(ENDLESS)
    await started(call)
    running.service.stop()
    await eventually(lambda: running.service.gate._state.name == "STOPPING")
    running.engine.die()
    assert (await refusal(call)).reason == "ENGINE_DEAD"
    assert await ended(running) is ExitStatus.ENGINE_DIED


async def test_a_stop_while_the_model_loads_ends_cleanly(serve: Serve) -> None:
    loaded = asyncio.Event()
    running = await serve(ScriptedEngine(loading=loaded), wait=False)
    await asyncio.sleep(0)
    running.service.stop()
    try:
        async with asyncio.timeout(1):
            assert await asyncio.shield(running.running) is ExitStatus.OK
    finally:
        loaded.set()


async def test_a_stop_just_before_the_model_is_loaded_ends_cleanly(serve: Serve) -> None:
    loaded = asyncio.Event()
    running = await serve(ScriptedEngine(loading=loaded), wait=False)
    await asyncio.sleep(0)
    running.service.stop()
    loaded.set()
    assert await ended(running) is ExitStatus.OK


class FailingEngine(ScriptedEngine):
    """Cannot start."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped = False

    async def start(self, progress: Progress) -> None:
        progress("trying")
        raise EngineStartFailed("there is no such model")

    async def stop(self) -> None:
        self.stopped = True
        await super().stop()


async def test_an_engine_that_cannot_start_ends_the_service_and_frees_its_port() -> None:
    engine = FailingEngine()
    service = Service(settings_of(), engine)
    with pytest.raises(EngineStartFailed, match="no such model"):
        await service.run(lambda port: None)
    assert engine.stopped


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that somebody else listens on."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def test_a_port_that_is_taken_is_told_with_its_address(taken: str) -> None:
    service = Service(settings_of(listen=taken), ScriptedEngine())
    with pytest.raises(CannotListenError, match=taken):
        await service.run(lambda port: None)


async def test_two_services_do_not_share_a_port(running: RunningService) -> None:
    service = Service(settings_of(listen=running.target), ScriptedEngine())
    with pytest.raises(CannotListenError):
        await service.run(lambda port: None)


async def test_a_taken_port_is_one_line_and_its_exit_status(
    taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await serve(settings_of(listen=taken), ScriptedEngine()) is ExitStatus.CANNOT_START
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("tokenstream serve: ") and taken in line]


async def test_a_failed_engine_is_one_line_and_its_exit_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert await serve(settings_of(), FailingEngine()) is ExitStatus.CANNOT_START
    assert "tokenstream serve: there is no such model" in capsys.readouterr().err


async def test_a_taken_port_for_metrics_is_one_line_and_its_exit_status(
    taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(metrics_listen=taken)
    assert await serve(settings, ScriptedEngine()) is ExitStatus.CANNOT_START
    assert taken in capsys.readouterr().err


async def test_the_service_tells_its_port_once_it_serves() -> None:
    ports: list[int] = []
    service = Service(settings_of(), ScriptedEngine())

    def ready(port: int) -> None:
        ports.append(port)
        service.stop()

    assert await service.run(ready) is ExitStatus.OK
    assert len(ports) == 1
    assert ports[0] > 0


async def test_a_demultiplexer_that_breaks_ends_the_service(
    stepped: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a bug in the routing")

    call = stepped.generate("ab")
    await started(call)
    monkeypatch.setattr(stepped.service.demultiplexer.router, "route", broken)
    stepped.engine.step()
    async with asyncio.timeout(2):
        refused = await refusal(call)
    assert refused.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
    assert await ended(stepped) is not ExitStatus.OK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_service_well(
    number: signal.Signals,
) -> None:
    loop = asyncio.get_running_loop()

    class SignallingEngine(ScriptedEngine):
        async def start(self, progress: Progress) -> None:
            await super().start(progress)
            loop.call_soon(signal.raise_signal, number)

    try:
        async with asyncio.timeout(10):
            assert await serve(settings_of(), SignallingEngine()) is ExitStatus.OK
    finally:
        for each in signal.SIGTERM, signal.SIGINT:
            loop.remove_signal_handler(each)


async def test_a_request_that_still_renders_when_the_grace_is_over_is_not_started(
    serve: Serve,
) -> None:
    class SlowToRender(ScriptedEngine):
        rendering = asyncio.Event()
        go_on = asyncio.Event()

        async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
            self.rendering.set()
            await self.go_on.wait()
            return await super().render(engine_id, request)

    engine = SlowToRender(step_s=0.001)
    running = await serve(engine, drain_grace_s=0.0)
    call = running.generate("ab")
    refused = asyncio.create_task(refusal(call))
    await engine.rendering.wait()

    running.service.stop()
    await eventually(lambda: running.service.demultiplexer._closed_because is not None)
    engine.go_on.set()

    assert (await refused).reason == "SERVICE_STOPPING"
    assert await ended(running) is ExitStatus.OK
    assert engine.submitted == 0
    assert running.count(Outcome.STOPPING) == running.counted == 1


async def test_a_cancellation_that_is_not_the_callers_is_a_failure_and_not_silence(
    serve: Serve,
) -> None:
    class Cancelling(ScriptedEngine):
        async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
            raise asyncio.CancelledError

    running = await serve(Cancelling())
    refused = await asyncio.wait_for(refusal(running.generate("ab")), 5)
    assert refused.code is grpc.StatusCode.INTERNAL
    assert running.count(Outcome.FAILED) == running.counted == 1


@pytest.mark.parametrize("seconds", [0.11, 0.257, 10.01, 12.34, 101.5])
def test_the_slack_of_a_deadline_covers_what_grpc_rounds_it_up_by(seconds: float) -> None:
    step = 0.01 if seconds < 10 else 0.1 if seconds < 100 else 1.0
    assert deadline_slack_s(seconds) > step
    assert deadline_slack_s(seconds) < 3 * step
