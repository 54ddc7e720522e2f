import asyncio
import gc
import random
from collections import Counter
from typing import Any

import grpc
import pytest

from service.engine.scripted import ScriptedEngine
from service.stream.token_stream import TokenStream
from service.telemetry.outcomes import Outcome
from tests.conftest import Serve
from tests.service.running import Answer, RunningService, eventually
from tokenstream.v1 import generation_pb2 as pb
from tokenstream.v1 import generation_pb2_grpc

EXPECTED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
FATES = ("finish", "cancel", "close")


async def live(
    running: RunningService,
    stub: generation_pb2_grpc.GenerationServiceStub,
    prompt: str,
    fate: str,
    after: int,
) -> Outcome:
    """Lead one stream to its fate after so many messages; return how it has to be counted."""
    got = Answer()
    call: Any = stub.Generate(pb.GenerateRequest(text=prompt))
    try:
        async for message in call:
            got.add(message)
            if len(got.deltas) != after or fate == "finish":
                continue
            if fate == "close":
                call.cancel()
            else:
                try:
                    await running.cancel(got.stream_id)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.NOT_FOUND:  # it has ended already
                        raise
    except asyncio.CancelledError:
        assert fate == "close"
        assert prompt.startswith(got.text)
        return Outcome.DISCONNECTED
    if got.end.reason == pb.FINISH_REASON_CANCELLED:
        assert fate == "cancel"
        assert prompt.startswith(got.text)
        return Outcome.CANCELLED
    assert got.text == prompt
    assert got.end.reason == pb.FINISH_REASON_STOP
    return Outcome.STOP


@pytest.mark.parametrize("max_running", [8, 1024])
async def test_two_hundred_streams_with_random_cancels_are_exact_and_leave_nothing(
    serve: Serve, max_running: int
) -> None:
    running = await serve(ScriptedEngine(step_s=0.0, max_running=max_running))
    dice = random.Random(7)
    stubs = [generation_pb2_grpc.GenerationServiceStub(running.connect()) for _ in range(4)]
    prompts = [f"{number}:\u20ac\U0001f600 " * dice.randint(1, 12) for number in range(200)]
    outcomes = Counter(
        await asyncio.gather(
            *(
                live(running, dice.choice(stubs), prompt, dice.choice(FATES), dice.randint(0, 9))
                for prompt in prompts
            )
        )
    )
    await eventually(lambda: running.idle and running.counted == 200)
    census = await running.engine.census()
    assert (census.running, census.waiting) == (0, 0)
    # A stream that its reader closed may have come to its end just before.
    surely = running.count(Outcome.CANCELLED), running.count(Outcome.STOP)
    assert surely[0] == outcomes[Outcome.CANCELLED]
    assert outcomes[Outcome.STOP] <= surely[1]
    assert (
        running.count(Outcome.STOP) + running.count(Outcome.DISCONNECTED)
        == outcomes[Outcome.STOP] + outcomes[Outcome.DISCONNECTED]
    )
    assert min(outcomes.values()) > 0
    assert len(outcomes) == 3


def living_streams() -> set[int]:
    gc.collect()
    return {id(thing) for thing in gc.get_objects() if type(thing) is TokenStream}


async def test_after_three_hundred_streams_of_all_kinds_nothing_is_left(serve: Serve) -> None:
    running = await serve(ScriptedEngine(step_s=0.0, max_running=64), max_streams=150)

    async def of_kind(kind: int) -> None:
        sampling = pb.SamplingOptions(ignore_eos=True, max_tokens=900)
        long = pb.GenerateRequest(text="ab", sampling=sampling)
        try:
            if kind == 0:
                await live(running, running.generation, "abc", "finish", 0)
            elif kind == 1:
                await live(running, running.generation, "x" * 300, "cancel", 3)
            elif kind == 2:
                await live(running, running.generation, "x" * 300, "close", 3)
            elif kind == 3:
                await Answer().read(running.generate(""))
            elif kind == 4:
                await Answer().read(running.generate(long, timeout=0.01))
            elif kind == 5:
                long.sampling.stop.append("bab")
                await Answer().read(running.generate(long))
            else:
                await live(running, running.generation, "x" * 300, "close", 0)
        except grpc.aio.AioRpcError as error:
            if error.code() not in EXPECTED:
                raise

    await of_kind(0)  # whatever a first stream makes for good is there now
    await eventually(lambda: running.idle)
    tasks_before, streams_before = len(asyncio.all_tasks()), living_streams()
    await asyncio.gather(*(of_kind(number % 7) for number in range(300)))
    # A call that is over before the service sees it is counted nowhere.
    await eventually(lambda: running.idle and len(asyncio.all_tasks()) <= tasks_before)
    # A reader that left while its delay ran is forgotten when the delay is over.
    await eventually(lambda: living_streams() <= streams_before)
    assert running.service.demultiplexer._stops == []
    assert running.service.demultiplexer.router.counts.streams_failed == 0
