import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration

from service.admission.callers import ANONYMOUS, Caller
from service.errors import ServiceStopping, StreamStalled, Unauthenticated
from service.pipeline import Pipeline
from service.session.session import MOST_NOTICES
from service.transport.authentication import Authenticator
from service.transport.session_call import SessionCall
from tests.conftest import FakeClock
from tests.service.generations import Generations, push, stream_of
from tests.session.test_driver import ScriptedPipeline
from tests.stream.by_hand import STOP
from tests.transport.scripted_call import ScriptedCall
from tokenstream.v1 import generation_pb2 as pb

KEYS = {"key-of-one": Caller("one"), "key-of-two": Caller("two")}


class Keys:
    def identify(self, key: str) -> Caller | None:
        return KEYS.get(key)


class Served:
    """A session call that is served by a task of its own."""

    def __init__(self, clock: FakeClock, *metadata: tuple[str, str], keys: bool = False) -> None:
        self.generations = Generations(clock)
        self.pipeline = ScriptedPipeline(self.generations)
        self.call = ScriptedCall(*metadata)
        self.authenticator = Authenticator(Keys() if keys else None)
        self.begun = asyncio.Event()
        self.task = asyncio.create_task(self._handle())

    async def _handle(self) -> None:
        self.session = SessionCall(
            cast("Pipeline", self.pipeline), self.authenticator, cast("Any", self.call)
        )
        self.begun.set()
        await self.session.run()

    def say(self, **action: Any) -> None:
        self.call.messages.put_nowait(pb.SessionRequest(**action))

    def start(self, request_id: int, **rest: Any) -> None:
        request = pb.GenerateRequest(text="p", client_request_id=str(request_id))
        self.say(start=pb.SessionStart(id=request_id, request=request, **rest))

    async def end(self) -> None:
        async with asyncio.timeout(5):
            await self.task

    def rejected(self) -> list[pb.SessionRejected]:
        return [r for message in self.call.written for r in message.rejected]

    def failed(self) -> list[pb.SessionFailed]:
        return [f for message in self.call.written for f in message.failed]


@pytest.fixture
async def served(clock: FakeClock) -> AsyncIterator[Served]:
    served = Served(clock)
    await served.begun.wait()
    yield served
    served.task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await served.task


async def test_a_session_ends_well_after_its_last_request_once_its_caller_said_all(
    served: Served,
) -> None:
    served.start(1, timeout=Duration(seconds=2))
    opening = served.pipeline.of("1")
    await opening.asked.wait()
    ((_, tenant, timeout_s),) = served.pipeline.asked_for
    assert (tenant, timeout_s) == (ANONYMOUS.tenant, 2.0)
    generation = served.generations.begin("s")
    opening.answer.set_result(generation)
    await served.call.until_written(1)
    served.call.close()
    push(generation, "ab")
    await served.call.until_written(2)
    assert not served.task.done()
    stream_of(generation).push([99], STOP)
    await served.end()
    texts = [text for message in served.call.written for text in message.deltas.texts]
    assert "".join(texts).startswith("ab")
    assert [f.id for message in served.call.written for f in message.finished] == [1]


async def test_a_session_without_requests_ends_when_its_caller_closes_it(served: Served) -> None:
    served.call.close()
    await served.end()
    assert served.call.written == []


async def test_every_kind_of_action_is_followed(served: Served) -> None:
    for action in (
        {"cancel": pb.SessionCancel(id=1)},
        {"credit": pb.SessionCredit(ids=[2], token_limits=[5])},
        {"close": pb.SessionClose(id=3)},
        {},
    ):
        served.say(**action)
    served.say(resume=pb.SessionResume(id=4, request=pb.ResumeRequest(stream_id="none")))
    served.call.close()
    await served.end()
    assert [(r.id, r.action) for r in served.rejected()] == [
        (1, pb.SESSION_ACTION_CANCEL),
        (2, pb.SESSION_ACTION_CREDIT),
        (3, pb.SESSION_ACTION_CLOSE),
        (0, pb.SESSION_ACTION_UNSPECIFIED),
    ]
    assert [f.id for f in served.failed()] == [4]


async def test_a_caller_that_has_gone_leaves_its_requests(served: Served) -> None:
    served.start(1)
    opening = served.pipeline.of("1")
    await opening.asked.wait()
    served.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await served.end()
    assert opening.was_cancelled


async def test_a_session_is_broken_off_with_its_reason_also_while_it_writes(
    served: Served,
) -> None:
    served.call.can_write.clear()
    served.say(cancel=pb.SessionCancel(id=1))
    await served.call.in_write.wait()
    served.session.break_off(ServiceStopping())
    served.session.break_off(StreamStalled(1))
    with pytest.raises(ServiceStopping):
        await served.end()
    assert served.task.cancelling() == 0


async def test_a_caller_that_takes_nothing_for_the_limit_has_stalled_and_a_slow_one_has_not(
    served: Served,
) -> None:
    served.session.sweep(0.0, 5.0)
    served.session.sweep(100.0, 5.0)  # nothing is to be taken
    served.call.can_write.clear()
    served.say(cancel=pb.SessionCancel(id=1))
    await served.call.in_write.wait()
    served.session.sweep(101.0, 5.0)
    served.call.can_write.set()
    await served.call.until_written(1)
    served.call.can_write.clear()
    served.say(cancel=pb.SessionCancel(id=1))
    await served.call.in_write.wait()
    served.session.sweep(105.5, 5.0)
    served.session.sweep(110.0, 5.0)
    await asyncio.sleep(0)
    assert not served.task.done()
    assert served.task.cancelling() == 0
    served.session.sweep(110.6, 5.0)
    with pytest.raises(StreamStalled):
        await served.end()


async def test_a_caller_that_takes_no_notices_is_not_listened_to_until_it_does(
    served: Served,
) -> None:
    served.call.can_write.clear()
    for _ in range(4 * MOST_NOTICES):
        served.say(cancel=pb.SessionCancel(id=1))
    await served.call.in_write.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert served.call.messages.qsize() > MOST_NOTICES
    served.call.can_write.set()
    served.call.close()
    await served.end()
    assert len(served.rejected()) == 4 * MOST_NOTICES


async def test_the_sessions_own_caller_and_keys_that_a_proxy_passes_on(clock: FakeClock) -> None:
    served = Served(clock, ("authorization", "Bearer key-of-one"), keys=True)
    served.start(1)
    served.start(2, api_key="key-of-two")
    served.start(3, api_key="nobody's")
    await served.pipeline.of("2").asked.wait()
    served.task.cancel()
    with suppress(asyncio.CancelledError):
        await served.end()
    assert [tenant for _, tenant, _ in served.pipeline.asked_for] == ["one", "two"]
    assert [type(why) for why in served.pipeline.refusals] == [Unauthenticated]


async def test_without_a_key_of_its_own_each_request_of_a_session_has_to_bring_one(
    clock: FakeClock,
) -> None:
    served = Served(clock, keys=True)
    served.start(1)
    served.say(resume=pb.SessionResume(id=2, request=pb.ResumeRequest(stream_id="s")))
    served.call.close()
    await served.end()
    assert [(f.id, f.failure.code) for f in served.failed()] == [(1, 16), (2, 16)]


async def test_a_session_with_a_wrong_key_is_refused(clock: FakeClock) -> None:
    served = Served(clock, ("authorization", "Bearer wrong"), keys=True)
    with pytest.raises(Unauthenticated):
        await served.end()
