import asyncio
from typing import Any

import pytest

from service.engine.submissions import WINDOW_S, Submissions


class Engine:
    """Notes what it is sent and in which order."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    async def send(self, request: Any) -> None:
        if request == "bad":
            raise ValueError(request)
        self.got.append(request)


@pytest.fixture
def engine() -> Engine:
    return Engine()


async def test_a_request_by_itself_is_sent_at_once(engine: Engine) -> None:
    await Submissions(engine.send).add("a")
    assert engine.got == ["a"]


async def test_those_that_follow_closely_are_sent_together_and_in_order(engine: Engine) -> None:
    submissions = Submissions(engine.send)
    adding = [asyncio.ensure_future(submissions.add(name)) for name in "abcd"]
    await asyncio.sleep(0)
    assert engine.got == ["a"]
    async with asyncio.timeout(1):
        await asyncio.gather(*adding)
    assert engine.got == ["a", "b", "c", "d"]


async def test_behind_the_window_a_request_is_sent_at_once_again(engine: Engine) -> None:
    submissions = Submissions(engine.send)
    await submissions.add("a")
    loop = asyncio.get_running_loop()
    later: asyncio.Future[None] = loop.create_future()
    loop.call_later(3 * WINDOW_S, later.set_result, None)
    await later
    adding = asyncio.ensure_future(submissions.add("b"))
    await asyncio.sleep(0)
    assert engine.got == ["a", "b"]
    await adding


async def test_what_waits_goes_before_what_is_sent_behind_a_flush(engine: Engine) -> None:
    submissions = Submissions(engine.send)
    await submissions.add("a")
    adding = asyncio.ensure_future(submissions.add("b"))
    await asyncio.sleep(0)
    await submissions.flush()
    await engine.send("stop b")
    assert engine.got == ["a", "b", "stop b"]
    await adding


async def test_one_that_cannot_be_sent_fails_alone(engine: Engine) -> None:
    submissions = Submissions(engine.send)
    adding = [asyncio.ensure_future(submissions.add(name)) for name in ("a", "bad", "c")]
    async with asyncio.timeout(1):
        a, bad, c = await asyncio.gather(*adding, return_exceptions=True)
    assert (a, c, engine.got) == (None, None, ["a", "c"])
    assert isinstance(bad, ValueError)


async def test_one_whose_caller_has_gone_is_sent_all_the_same(engine: Engine) -> None:
    submissions = Submissions(engine.send)
    await submissions.add("a")
    adding = asyncio.ensure_future(submissions.add("b"))
    await asyncio.sleep(0)
    adding.cancel()
    await submissions.flush()
    assert engine.got == ["a", "b"]


async def test_closed_it_keeps_nobody_waiting(engine: Engine) -> None:
    submissions = Submissions(engine.send)
    await submissions.add("a")
    adding = asyncio.ensure_future(submissions.add("b"))
    await asyncio.sleep(0)
    submissions.close()
    async with asyncio.timeout(1):
        await asyncio.wait([adding])
    assert adding.cancelled()
    assert engine.got == ["a"]


async def test_several_that_belong_together_go_together_at_once_or_in_the_window(
    engine: Engine,
) -> None:
    submissions = Submissions(engine.send)
    await submissions.add("a", "b", "c")
    assert engine.got == ["a", "b", "c"]
    adding = [asyncio.ensure_future(submissions.add(*names)) for names in ("de", "f")]
    await asyncio.sleep(0)
    assert engine.got == ["a", "b", "c"]
    await submissions.flush()
    assert engine.got == ["a", "b", "c", "d", "e", "f"]
    await asyncio.gather(*adding)


async def test_if_one_of_several_cannot_be_sent_they_fail_together(engine: Engine) -> None:
    submissions = Submissions(engine.send)
    await submissions.add("a")
    adding = [asyncio.ensure_future(submissions.add(*n)) for n in (("b", "bad", "c"), ("d",))]
    async with asyncio.timeout(1):
        several, alone = await asyncio.gather(*adding, return_exceptions=True)
    assert isinstance(several, ValueError)
    assert alone is None
