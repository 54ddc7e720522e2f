"""How many sessions there may be, how long strangers stay, what a withdrawn key still opens."""

from pathlib import Path

import grpc
import pytest

from service.admission.callers import key_line, new_key
from service.transport import session_call
from tests.conftest import Serve
from tests.contract.talk import Talk
from tests.service.running import RunningService, eventually, refusal
from tokenstream.v1 import generation_pb2 as pb

KEY = new_key()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(key_line("acme", KEY) + "\n")
    return path


def open_sessions(service: RunningService) -> int:
    return service.service.generation_servicer.sessions_open


async def test_one_session_too_many_is_refused_and_the_others_go_on(serve: Serve) -> None:
    service = await serve(max_sessions=2)
    talks = [Talk.over(service.channel) for _ in range(2)]
    for talk in talks:
        await talk.start(1, "abc")
        await talk.started(1)
    refused = await refusal(service.generation.Session())
    assert (refused.code, refused.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "TOO_MANY_SESSIONS",
    )
    assert refused.retry_after_s is not None
    for talk in talks:
        assert (await talk.answer(1)).text == "abc"
        await talk.end()
    await eventually(lambda: open_sessions(service) == 0)


async def test_a_session_in_which_no_key_ever_comes_is_ended(
    serve: Serve, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_call, "STRANGERS_STAY_S", 0.05)
    service = await serve(api_keys_file=key_file, stall_limit_s=0.5)
    stranger = service.generation.Session()
    await stranger.write(
        pb.SessionRequest(start=pb.SessionStart(id=1, request=pb.GenerateRequest()))
    )
    refused = await refusal(stranger)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert open_sessions(service) == 0


async def test_a_key_that_is_withdrawn_opens_nothing_more_in_a_session_that_is_open(
    serve: Serve, key_file: Path
) -> None:
    service = await serve(api_keys_file=key_file)
    talk = Talk.over(service.channel, {"authorization": f"Bearer {KEY}"})
    await talk.start(1, "abc")
    assert (await talk.answer(1)).text == "abc"
    key_file.write_text("")
    number = 1

    async def is_refused() -> bool:
        nonlocal number
        number += 1
        await talk.start(number, "abc")
        await talk.until(lambda: talk.told[number].ended)
        return talk.told[number].failed is not None

    while not await is_refused():
        pass
    failure = await talk.failure(number)
    assert failure.code is grpc.StatusCode.UNAUTHENTICATED
    await talk.end()
