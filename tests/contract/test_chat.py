"""Chats, over the scripted engine: it answers with the last message's content."""

import pytest
from structlog.testing import capture_logs

from service.telemetry.outcomes import Outcome
from tests.contract.talk import Talk
from tests.service.running import Answer, RunningService, eventually, refusal
from tokenstream.v1 import generation_pb2 as pb

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def chat(*contents: str, role: str = "user") -> pb.GenerateRequest:
    return pb.GenerateRequest(
        chat=pb.Chat(messages=[pb.ChatMessage(role=role, content=text) for text in contents])
    )


async def test_a_chat_is_answered(running: RunningService) -> None:
    answer = await Answer().read(running.generate(chat("first", "\u4f60\u597d")))
    assert answer.text == "\u4f60\u597d"


async def test_a_chat_in_a_session_is_answered(running: RunningService) -> None:
    talk = Talk.over(running.channel)
    await talk.start(1, chat("first", "last"))
    assert (await talk.answer(1)).text == "last"
    await talk.end()


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (pb.GenerateRequest(chat=pb.Chat()), "chat.messages"),
        (chat("a\0b"), "chat.messages[0].content"),
        (chat("a", role=""), "chat.messages[0].role"),
        (chat("x" * 3000), "chat"),
        (chat("a", role="nobody"), "chat"),
    ],
)
async def test_a_bad_chat_is_refused_by_name(
    running: RunningService, request_: pb.GenerateRequest, path: str
) -> None:
    refused = await refusal(running.generate(request_))
    assert refused.reason == "INVALID_REQUEST"
    assert list(refused.fields) == [path]
    await eventually(lambda: running.idle)
    assert running.count(Outcome.REFUSED) == 1


@pytest.mark.parametrize(("parent", "logged"), [(PARENT, TRACE), ("00-nonsense", "")])
async def test_a_calls_trace_is_logged_with_its_end(
    running: RunningService, parent: str, logged: str
) -> None:
    with capture_logs() as log:
        call = running.generation.Generate(
            pb.GenerateRequest(text="a"), metadata=(("traceparent", parent),)
        )
        assert [message async for message in call]
        await eventually(lambda: running.counted == 1)
    (entry,) = [entry for entry in log if entry["event"] == "request_ended"]
    assert entry["trace_id"] == logged


async def test_a_trace_in_a_session_is_its_requests_own(running: RunningService) -> None:
    with capture_logs() as log:
        talk = Talk.over(running.channel)
        await talk.start(1, "a", traceparent=PARENT)
        await talk.start(2, "b")
        await talk.end()
        await eventually(lambda: running.counted == 2)
    ends = [entry["trace_id"] for entry in log if entry["event"] == "request_ended"]
    assert sorted(ends) == ["", TRACE]
