"""Every outcome at debug level, with words in prompts, answers and keys that must be in no line."""

import asyncio
import json
import logging as stdlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from service.admission.callers import key_line, new_key
from service.domain import GenerationRequest
from service.engine.protocol import RenderedRequest
from service.engine.scripted import ScriptedEngine
from service.telemetry import logging
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.contract.talk import Talk
from tests.service.running import Answer, RunningService, eventually, refusal, started
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

CANARY = "canary-4c1f"  # in every prompt, and so in every answer of the scripted engine
UNREACHED = {Outcome.REPETITION}  # vLLM's alone


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    configure = structlog.configure

    def without_cache(**how: Any) -> None:  # or loggers would keep this test's standard error
        configure(**how | {"cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", without_cache)
    root = stdlib.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []  # or they would be closed
    yield
    structlog.reset_defaults()
    root.handlers, root.level = handlers, level


class FailingRenderer(ScriptedEngine):
    """Says what it was given when it fails, as chat templates do."""

    async def render(self, engine_id: str, request: GenerationRequest) -> RenderedRequest:
        raise ValueError(f"cannot render {request.prompt!r}")


def asking(*, endless: bool = False, **fields: Any) -> pb.GenerateRequest:
    sampling = fields.pop("sampling", {})
    if endless:
        sampling |= {"ignore_eos": True}
    return pb.GenerateRequest(text=CANARY, sampling=pb.SamplingOptions(**sampling), **fields)


async def end(running: RunningService) -> None:
    running.service.stop()
    running.service.stop()
    await running.running


async def ends_of_running_streams(running: RunningService) -> None:
    await Answer().read(running.generate(asking()))
    await Answer().read(running.generate(asking(sampling={"stop": ["4c"]})))
    await Answer().read(running.generate(asking(sampling={"max_tokens": 3})))
    call = running.generate(asking(endless=True))
    await running.cancel(await started(call))
    await Answer().read(running.generate(asking(sampling={"logprobs": 2})))
    left = running.generate(asking(endless=True))
    await started(left)
    left.cancel()
    await refusal(running.generate(asking(endless=True), timeout=0.05))
    await refusal(running.generate(asking(model=CANARY)))
    await refusal(running.generate(asking(sampling={"top_p": 7.0})))
    stream = pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DETACH, time_to_live_ms=100)
    detached = running.generate(asking(endless=True, stream=stream))
    await started(detached)
    detached.cancel()
    broken = running.generate(asking(endless=True))
    running.engine.break_request(await started(broken))
    await refusal(broken)
    talk = Talk.over(running.channel)
    await talk.start(1, asking(stream=pb.StreamOptions(credit=2)))  # and grants no more
    await talk.failure(1)
    await talk.start(2, CANARY)
    await talk.answer(2)
    await talk.end()
    await eventually(lambda: running.nothing_runs)


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_line_of_any_outcome_has_a_prompt_an_answer_or_a_key(
    form: Any,
    serve: Serve,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logging.configure(form, "debug")
    asyncio.get_running_loop().set_exception_handler(logging.unexpected)
    engine = ScriptedEngine(step_s=0.002, context_length=100_000)
    running = await serve(engine, stall_limit_s=0.3, max_streams=1000)
    await ends_of_running_streams(running)
    cut_off = running.generate(asking(endless=True))
    await started(cut_off)
    await end(running)

    full = await serve(ScriptedEngine(step_s=None), max_streams=1)
    await started(full.generate(asking(endless=True)))
    await refusal(full.generate(asking()))
    full.engine.die()
    await full.running

    loading = await serve(ScriptedEngine(loading=asyncio.Event()), wait=False)
    await refusal(loading.generate(asking()))
    await end(loading)

    failing = await serve(FailingRenderer())
    assert (await refusal(failing.generate(asking()))).reason == "ENGINE_FAILED"
    await end(failing)

    key = new_key()
    (tmp_path / "keys").write_text(key_line("acme", key) + "\n")
    locked = await serve(api_keys_file=tmp_path / "keys")
    stub = generation_pb2_grpc.GenerationServiceStub(locked.connect())
    for sent in (f"Bearer {key}", f"Bearer {CANARY}", key, f"Basic {key}"):
        call = stub.Generate(asking(), metadata=(("authorization", sent),))
        if sent == f"Bearer {key}":
            await Answer().read(call)
        else:
            assert (await refusal(call)).reason == "UNAUTHENTICATED"

    def broken(*_: object) -> None:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(locked.service.demultiplexer.router, "route", broken)
    call = stub.Generate(asking(), metadata=(("authorization", f"Bearer {key}"),))
    await refusal(call)
    # What nobody catches: asyncio's own words would quote it.
    task = asyncio.create_task(_failing(CANARY))
    await asyncio.wait([task])
    del task
    stdlib.getLogger("grpc").error("of a library", exc_info=RuntimeError(CANARY))
    await locked.running

    out, err = capsys.readouterr()
    for word in (CANARY, key, CANARY[:6]):
        assert word not in out + err
    assert "RuntimeError" in err
    if form == "json":
        lines = [json.loads(line) for line in err.splitlines()]
        ended = [line for line in lines if line["event"] == "request_ended"]
        assert {line["outcome"] for line in ended} == {
            outcome.value for outcome in set(Outcome) - UNREACHED
        }
        for line in ended:
            if line["outcome"] == "unauthenticated":
                assert line["reason"] == "UNAUTHENTICATED"
                continue
            assert {
                "stream",
                "tenant",
                "client_request_id",
                "trace_id",
                "prompt_tokens",
                "output_tokens",
                "delivered_tokens",
                "messages",
                "first_token_s",
                "inter_token_s",
                "total_s",
            } <= line.keys()


async def _failing(words: str) -> None:
    raise RuntimeError(words)
