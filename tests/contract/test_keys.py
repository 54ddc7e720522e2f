"""With a key file: who has no key gets nothing, and nobody gets at another tenant's streams."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from service.admission.callers import key_line, new_key
from service.engine.scripted import ScriptedEngine
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.contract.talk import Talk
from tests.service.running import (
    PATIENCE_S,
    Answer,
    Refusal,
    RunningService,
    eventually,
    refusal,
    started,
)
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import model_pb2

KEYS = {"acme": new_key(), "research": new_key()}
NOT_FOUND = (grpc.StatusCode.NOT_FOUND, "STREAM_NOT_FOUND")
UNAUTHENTICATED = (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")

Metadata = tuple[tuple[str, str], ...]


def bearer(key: str) -> Metadata:
    return (("authorization", f"Bearer {key}"),)


ACME, RESEARCH = bearer(KEYS["acme"]), bearer(KEYS["research"])

BAD: dict[str, Metadata] = {
    "no key": (),
    "a wrong key": bearer(new_key()),
    "a key that is cut": bearer(KEYS["acme"][:-1]),
    "an empty key": (("authorization", "Bearer "),),
    "no scheme": (("authorization", KEYS["acme"]),),
    "another scheme": (("authorization", f"Basic {KEYS['acme']}"),),
    "two keys": ACME + RESEARCH,
    "the hash of a key": bearer(key_line("acme", KEYS["acme"]).split()[1]),
}

Rpc = Callable[[RunningService, Metadata], Any]
RPCS: dict[str, Rpc] = {
    "Generate": lambda s, m: s.generation.Generate(pb.GenerateRequest(text="abc"), metadata=m),
    "Resume": lambda s, m: s.generation.Resume(pb.ResumeRequest(stream_id="x"), metadata=m),
    "Cancel": lambda s, m: s.generation.Cancel(pb.CancelRequest(stream_id="x"), metadata=m),
    "ListModels": lambda s, m: s.models.ListModels(model_pb2.ListModelsRequest(), metadata=m),
    "GetModel": lambda s, m: s.models.GetModel(model_pb2.GetModelRequest(), metadata=m),
    "Tokenize": lambda s, m: s.models.Tokenize(model_pb2.TokenizeRequest(text="a"), metadata=m),
    "Detokenize": lambda s, m: s.models.Detokenize(
        model_pb2.DetokenizeRequest(token_ids=[97]), metadata=m
    ),
}
UNARY = ("ListModels", "GetModel", "Tokenize", "Detokenize")


def detaching(text: str = "abc") -> pb.GenerateRequest:
    stream = pb.StreamOptions(on_disconnect=pb.ON_DISCONNECT_DETACH)
    return pb.GenerateRequest(text=text, stream=stream)


def seen(why: Refusal) -> tuple[grpc.StatusCode, str]:
    """Code and reason of a refusal, which has to be one of this service's."""
    assert why.domain == "tokenstream"
    return why.code, why.reason


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("".join(f"{key_line(*line)}\n" for line in KEYS.items()))
    path.chmod(0o600)
    return path


@pytest.fixture
async def running(serve: Serve, key_file: Path) -> RunningService:
    return await serve(api_keys_file=key_file)


@pytest.fixture
async def stepped(serve: Serve, key_file: Path) -> RunningService:
    return await serve(ScriptedEngine(step_s=None), api_keys_file=key_file)


def test_every_rpc_of_the_contract_is_tried_here() -> None:
    services = (pb.DESCRIPTOR.services_by_name, model_pb2.DESCRIPTOR.services_by_name)
    methods = {m.name for names in services for s in names.values() for m in s.methods}
    assert methods == {*RPCS, "Session"}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("rpc", RPCS)
async def test_without_a_good_key_no_rpc_answers_and_no_key_is_repeated(
    running: RunningService, rpc: str, bad: str
) -> None:
    why = await refusal(RPCS[rpc](running, BAD[bad]))
    assert seen(why) == UNAUTHENTICATED
    assert not any(key in why.message for key in KEYS.values())
    # Only what would have become a request is one that has ended.
    assert running.count(Outcome.UNAUTHENTICATED) == running.counted == (rpc == "Generate")
    assert running.idle


@pytest.mark.parametrize("rpc", UNARY)
async def test_with_a_key_the_models_answer(running: RunningService, rpc: str) -> None:
    assert (await RPCS[rpc](running, ACME)).ByteSize() > 0


async def test_with_a_key_a_stream_is_answered(running: RunningService) -> None:
    got = await Answer().read(RPCS["Generate"](running, ACME))
    assert got.text == "abc"


@pytest.mark.parametrize("bad", [bad for bad in BAD if bad != "no key"])
async def test_a_session_with_a_wrong_key_is_refused_as_a_call(
    running: RunningService, bad: str
) -> None:
    call = running.generation.Session(metadata=BAD[bad])
    assert seen(await refusal(call)) == UNAUTHENTICATED


async def test_health_and_reflection_answer_everybody(running: RunningService) -> None:
    assert await running.check_health() == health_pb2.HealthCheckResponse.SERVING

    def services() -> list[str]:
        with grpc.insecure_channel(running.target) as channel:
            return list(ProtoReflectionDescriptorDatabase(channel).get_services())

    assert "tokenstream.v1.GenerationService" in await asyncio.to_thread(services)


async def test_in_a_session_without_a_key_each_start_needs_one_of_its_own(
    running: RunningService,
) -> None:
    talk = Talk.over(running.channel)
    await talk.start(1, "without")
    await talk.start(2, "wrong", api_key=new_key())
    await talk.start(3, "acme's", api_key=KEYS["acme"])
    await talk.start(4, "research's", api_key=KEYS["research"])

    assert seen(await talk.failure(1)) == UNAUTHENTICATED
    assert seen(await talk.failure(2)) == UNAUTHENTICATED
    assert (await talk.answer(3)).text == "acme's"
    assert (await talk.answer(4)).text == "research's"
    await talk.end()
    assert running.count(Outcome.UNAUTHENTICATED) == 2
    assert running.count(Outcome.STOP) == 2
    assert running.counted == 4


async def test_in_a_session_with_a_key_a_start_is_its_callers_unless_it_brings_another(
    stepped: RunningService,
) -> None:
    talk = Talk.over(stepped.channel, dict(ACME))
    await talk.start(1, detaching())
    await talk.start(2, detaching(), api_key=KEYS["research"])
    await talk.start(3, detaching(), api_key=new_key())
    ids = [await talk.started(number) for number in (1, 2)]

    assert seen(await talk.failure(3)) == UNAUTHENTICATED
    tenants = [stepped.service.directory._running[stream_id].tenant for stream_id in ids]
    assert tenants == ["acme", "research"]
    for number in (1, 2):
        await talk.cancel(number)
        await talk.answer(number)
    await talk.end()


async def test_an_id_whose_start_was_not_authenticated_is_used_up(running: RunningService) -> None:
    talk = Talk.over(running.channel)
    await talk.start(1, "abc")
    await talk.failure(1)
    await talk.start(1, "abc", api_key=KEYS["acme"], expected=False)
    await talk.settled()
    assert [(number, why.reason) for number, _, why in talk.rejected][:1] == [(1, "ID_NOT_NEW")]
    await talk.end()


Reach = Callable[[RunningService, str, Metadata], Awaitable[Refusal]]


async def by_resume(service: RunningService, stream_id: str, who: Metadata) -> Refusal:
    return await refusal(
        service.generation.Resume(pb.ResumeRequest(stream_id=stream_id), metadata=who)
    )


async def by_cancel(service: RunningService, stream_id: str, who: Metadata) -> Refusal:
    return await refusal(
        service.generation.Cancel(pb.CancelRequest(stream_id=stream_id), metadata=who)
    )


async def by_a_sessions_resume(service: RunningService, stream_id: str, who: Metadata) -> Refusal:
    talk = Talk.over(service.channel, dict(who))
    await talk.resume(1, stream_id)
    why = await talk.failure(1)
    await talk.end()
    return why


async def by_a_resumes_own_key(service: RunningService, stream_id: str, who: Metadata) -> Refusal:
    """In a session of the stream's very tenant, which is not who asks."""
    talk = Talk.over(service.channel, dict(ACME))
    await talk.resume(1, stream_id, api_key=dict(who)["authorization"].removeprefix("Bearer "))
    why = await talk.failure(1)
    await talk.end()
    return why


READERS = [by_resume, by_a_sessions_resume, by_a_resumes_own_key]


@pytest.mark.parametrize("reach", [*READERS, by_cancel])
async def test_a_running_stream_is_not_found_by_another_tenant_and_goes_on(
    stepped: RunningService, reach: Reach
) -> None:
    call = stepped.generation.Generate(detaching(), metadata=ACME)
    stream_id = await started(call)

    async with asyncio.timeout(PATIENCE_S):
        assert seen(await reach(stepped, stream_id, RESEARCH)) == NOT_FOUND

    for _ in range(4):
        stepped.engine.step()
    got = await Answer(started=pb.Started(stream_id=stream_id)).read(call)
    assert got.text == "abc", "its reader is still its reader"
    assert stepped.count(Outcome.STOP) == stepped.counted == 1


@pytest.mark.parametrize("reach", READERS)
async def test_a_stream_that_has_ended_is_not_found_by_another_tenant(
    running: RunningService, reach: Reach
) -> None:
    whole = await Answer().read(running.generation.Generate(detaching(), metadata=ACME))

    other = await reach(running, whole.stream_id, RESEARCH)
    nobodys = await reach(running, "no such stream", RESEARCH)

    assert seen(other) == NOT_FOUND
    assert other == nobodys, "nothing tells that there is such a stream"


async def test_a_stream_is_read_on_and_cancelled_by_its_own_tenant_from_anywhere(
    stepped: RunningService,
) -> None:
    call = stepped.generation.Generate(detaching(), metadata=ACME)
    stream_id = await started(call)
    call.cancel()
    talk = Talk.over(stepped.channel)
    await talk.resume(1, stream_id, api_key=KEYS["acme"])
    await talk.started(1)
    stepped.engine.step()
    await talk.tokens(1, 1)

    await stepped.generation.Cancel(pb.CancelRequest(stream_id=stream_id), metadata=ACME)

    assert (await talk.answer(1)).end.reason == pb.FINISH_REASON_CANCELLED
    await talk.end()


async def test_a_key_that_is_taken_out_of_the_file_is_refused_soon_and_its_streams_go_on(
    stepped: RunningService, key_file: Path
) -> None:
    call = stepped.generation.Generate(detaching(), metadata=ACME)
    stream_id = await started(call)

    key_file.write_text(key_line("research", KEYS["research"]) + "\n")

    refused = False

    async def try_again() -> None:
        nonlocal refused
        try:
            await RPCS["ListModels"](stepped, ACME)
        except grpc.aio.AioRpcError as error:
            refused = error.code() is grpc.StatusCode.UNAUTHENTICATED

    while not refused:  # a second, at most
        await try_again()
    assert (await RPCS["ListModels"](stepped, RESEARCH)).models
    for _ in range(4):
        stepped.engine.step()
    assert (await Answer(started=pb.Started(stream_id=stream_id)).read(call)).text == "abc"
    await eventually(lambda: stepped.nothing_runs)
