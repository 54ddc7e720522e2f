"""A service under load for a while: every token right, and afterwards nothing is left of it.

`SOAK_SECONDS` says for how long (15; `make soak`: 60). All chance is seeded.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from service.telemetry.outcomes import Outcome
from tests.contract.talk import Talk
from tests.service.running import Answer
from tests.soak.call_fates import Caller
from tests.soak.inside import Look, Soaked
from tests.soak.known import Asked, Tally, merged
from tests.soak.looked_into import Lag
from tests.soak.session_fates import SessionCaller
from tests.soak.storm import Storm
from tokenstream.v1 import generation_pb2_grpc

Say = Callable[[str], None]

pytestmark = [pytest.mark.engine, pytest.mark.alone, pytest.mark.timeout(600)]

STREAMS = 256
TOKENS = 200
CALLERS = 128
SESSIONS = 4
MB = 1 << 20
# What a second round of the same load may leave the process larger by: the allocators' own noise.
GROWTH = 12 * MB
CANCELS_PER_S = 500


def nothing(look: Look) -> None:
    """Fail with what is left, if anything is."""
    left = {name: n for name, n in look.left.items() if n}
    assert look.is_quiet, "\n".join((str(left), *look.doing))
    assert look.streams_failed == 0


async def test_256_streams_at_once_by_calls_have_each_token_once_and_in_order(
    service: Soaked, say: Say
) -> None:
    before = await service.look()
    all_asked = [Asked.new(TOKENS) for _ in range(STREAMS)]
    began = time.monotonic()
    async with service.connect() as channel:
        stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)
        answers = await asyncio.gather(
            *(Answer().read(stub.Generate(asked.message())) for asked in all_asked)
        )
    took = time.monotonic() - began
    for asked, got in zip(all_asked, answers, strict=True):
        asked.check_whole(got)
    after = await service.until_quiet()
    nothing(after)
    assert after.ended_since(before) == {Outcome.LENGTH: STREAMS}
    assert after.tokens_routed - before.tokens_routed == STREAMS * TOKENS
    messages = sum(len(got.deltas) for got in answers)
    say(
        f"calls: {STREAMS} streams, {STREAMS * TOKENS} tokens exact in {messages} messages,"
        f" {STREAMS * TOKENS / took:.0f} tokens/s"
    )


async def test_256_streams_at_once_in_a_session_have_each_token_once_and_in_order(
    service: Soaked, say: Say
) -> None:
    before = await service.look()
    all_asked = {number: Asked.new(TOKENS) for number in range(1, STREAMS + 1)}
    began = time.monotonic()
    async with service.connect() as channel:
        talk = Talk.over(channel)
        for number, asked in all_asked.items():
            await talk.start(number, asked.message())
        await talk.end()
    took = time.monotonic() - began
    for number, asked in all_asked.items():
        asked.check_whole(talk.told[number].answer)
    after = await service.until_quiet()
    nothing(after)
    assert after.ended_since(before) == {Outcome.LENGTH: STREAMS}
    assert after.tokens_routed - before.tokens_routed == STREAMS * TOKENS
    say(
        f"session: {STREAMS} streams, {STREAMS * TOKENS} tokens exact in {talk.frames} messages,"
        f" {STREAMS * TOKENS / took:.0f} tokens/s"
    )


async def one_round(service: Soaked, seconds: float) -> Tally:
    """Callers of all kinds for so long, each with a seed of its own, the same in every round."""
    deadline = asyncio.get_running_loop().time() + seconds
    async with service.connect() as near, service.connect() as far, service.connect() as third:
        stubs: list[Any] = [generation_pb2_grpc.GenerationServiceStub(c) for c in (near, far)]
        callers = [
            Caller(f"caller {number}", stubs[0], stubs[1], service.connect, service.time_to_live_s)
            for number in range(CALLERS)
        ]
        sessions = [
            SessionCaller(f"session {number}", third, stubs[1], service.time_to_live_s)
            for number in range(SESSIONS)
        ]
        all_: list[Caller | SessionCaller] = [*callers, *sessions]
        own = Lag()
        probing = asyncio.create_task(own.probe())
        try:
            async with asyncio.TaskGroup() as group:
                for one in all_:
                    group.create_task(one.until(deadline))
        except BaseExceptionGroup as failed:
            look = await service.look()
            failed.add_note(f"lag: {own.most_s:.1f} s here, {look.most_lag_s:.1f} s in the service")
            raise
        finally:
            probing.cancel()
        return merged(one.tally for one in all_)


async def test_readers_of_all_kinds_who_come_and_go_at_random_get_right_tokens_and_leave_nothing(
    service: Soaked, soak_s: float, say: Say
) -> None:
    sizes: list[int] = []
    tasks: list[int] = []
    before = await service.look()
    for number in (1, 2):
        tally = await one_round(service, soak_s / 2)
        after = await service.until_quiet()
        nothing(after)
        ended = after.ended_since(before)
        tally.check(ended)
        sizes.append(after.rss)
        tasks.append(after.tasks)
        told = ", ".join(f"{count} {outcome.value}" for outcome, count in sorted_(ended))
        say(
            f"round {number}: {tally.requests} requests ({told}); {tally.tokens} tokens exact;"
            f" {tally.late} came back too late; afterwards {after.rss / MB:.0f} MB,"
            f" {after.tasks} tasks, nothing else"
        )
        before = after
    assert {Outcome.CANCELLED, Outcome.DISCONNECTED, Outcome.EXPIRED, Outcome.STALLED} <= set(ended)
    assert tasks[1] <= tasks[0]
    assert sizes[1] - sizes[0] <= GROWTH


def sorted_(ended: dict[Outcome, int]) -> list[tuple[Outcome, int]]:
    return sorted(ended.items(), key=lambda end: -end[1])


async def test_500_cancels_a_second_leave_nothing_and_each_is_counted_once(
    service: Soaked, soak_s: float, say: Say
) -> None:
    before = await service.look()
    storm = Storm(CANCELS_PER_S, soak_s)
    began = time.monotonic()
    async with service.connect() as channel, service.connect() as other:
        await storm.run(channel, other)
    took = time.monotonic() - began
    after = await service.until_quiet()
    nothing(after)
    storm.tally.check(after.ended_since(before))
    assert storm.tally.requests == storm.requests
    ended = ", ".join(f"{n} {o.value}" for o, n in sorted_(after.ended_since(before)))
    say(
        f"storm: {storm.requests} requests, {storm.requests / took:.0f} a second ({ended});"
        f" {storm.tally.tokens} tokens exact; {(after.rss - before.rss) / MB:+.0f} MB"
    )
    assert after.rss - before.rss <= 2 * GROWTH
    assert storm.requests / took >= CANCELS_PER_S / 2, "too slow a machine to say anything"
