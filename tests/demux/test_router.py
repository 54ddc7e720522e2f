from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.demux.router import Routed, Router
from service.domain import EngineAccount, EngineFinish, EngineOutput, FinishReason
from service.engine.scripted import ScriptedBatch, ScriptedOutput
from service.errors import DeadlineExceeded, EngineDead, RequestFailed, ServiceStopping
from tests.demux.scripted_source import (
    BrokenDecoder,
    batch,
    new_stream,
    so_far,
    text_of,
    tokens,
)


def ended(engine_id: str, text: str = "") -> ScriptedOutput:
    return ScriptedOutput(engine_id, tuple(text.encode()), FinishReason.LENGTH)


async def test_each_output_goes_to_its_own_stream() -> None:
    router = Router()
    streams = {engine_id: new_stream() for engine_id in "abc"}
    for engine_id, stream in streams.items():
        router.add(engine_id, stream)
    assert router.route(batch(tokens("c", "3"), tokens("a", "1"))) == Routed([], [])
    assert router.route(batch(ended("a", "!"), ended("b"), ended("c", "?"))) == Routed([], [])
    assert {i: await text_of(s) for i, s in streams.items()} == {"a": "1!", "b": "", "c": "3?"}
    assert router.counts.tokens_routed == 4
    assert router.counts.tokens_for_nobody == 0


@given(
    st.lists(st.lists(st.tuples(st.sampled_from("abcdx"), st.binary(max_size=3)), max_size=6)),
)
def test_every_token_is_routed_or_counted_as_lost(
    steps: list[list[tuple[str, bytes]]],
) -> None:
    router = Router()
    for engine_id in "abcd":
        router.add(engine_id, new_stream())
    for step in steps:
        router.route(batch(*(ScriptedOutput(i, tuple(ids)) for i, ids in step)))
    sent = [(i, len(ids)) for step in steps for i, ids in step]
    assert router.counts.tokens_for_nobody == sum(n for i, n in sent if i == "x")
    assert router.counts.tokens_routed == sum(n for i, n in sent if i != "x")


class GaveUp(ScriptedBatch):
    """An engine's batch in which a request was ended for its deadline."""

    def explain(self, output: EngineOutput) -> EngineFinish | None:
        return None

    def given_up(self, output: EngineOutput) -> bool:
        return output.request_id == "late"


async def test_a_request_that_the_engine_gives_up_for_its_deadline_ends_with_that() -> None:
    router, late, broken = Router(), new_stream(), new_stream()
    router.add("late", late)
    router.add("broken", broken)
    routed = router.route(GaveUp([ended("late"), ended("broken")]))
    assert isinstance(late.failure, DeadlineExceeded)
    assert isinstance(broken.failure, RequestFailed)
    assert routed.stop == []
    assert [engine_id for engine_id, _ in routed.failures] == ["broken"]


class Accounted(ScriptedBatch):
    """A batch of an engine that tells where the time went."""

    def account(self, output: EngineOutput) -> EngineAccount | None:
        return ACCOUNT


ACCOUNT = EngineAccount(1.0, 2.0, 3.0, 4.0, 5)


async def test_the_engines_account_of_a_request_comes_with_its_end() -> None:
    router, stream = Router(), new_stream()
    router.add("a", stream)
    router.route(Accounted([tokens("a", "1")]))
    assert stream.engine_account is None
    router.route(Accounted([ended("a")]))
    assert stream.engine_account == ACCOUNT


class CountingDict(dict[str, Any]):
    """Counts look-ups, and refuses to be walked."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)

    def __iter__(self) -> Any:
        raise AssertionError("a step must not walk the table")

    items = values = keys = __iter__


def test_a_step_costs_one_look_up_an_output_however_many_streams_there_are() -> None:
    router = Router()
    for number in range(1000):
        router.add(str(number), new_stream())
    table = router._routes = CountingDict(router._routes)
    router.route(batch(tokens("1", "a"), tokens("999", "b"), tokens("gone", "c")))
    assert table.looks == 3


def test_an_unknown_id_is_counted_and_disturbs_nobody() -> None:
    router = Router()
    router.add("a", new_stream())
    assert router.route(batch(tokens("gone", "xyz"), tokens("a", "1"))).stop == []
    assert router.counts.tokens_for_nobody == 3
    assert router.counts.tokens_routed == 1


def test_an_id_is_taken_once() -> None:
    router = Router()
    router.add("a", new_stream())
    with pytest.raises(ValueError, match="in use"):
        router.add("a", new_stream())
    assert len(router) == 1


async def test_a_stream_that_cannot_decode_fails_alone_and_its_engine_work_stops() -> None:
    router = Router()
    broken, whole = new_stream("stop", decoder=BrokenDecoder()), new_stream("stop")
    router.add("broken", broken)
    router.add("whole", whole)
    routed = router.route(batch(tokens("broken", "a"), tokens("whole", "b")))
    assert routed.stop == ["broken"]
    assert [(i, type(cause)) for i, cause in routed.failures] == [("broken", RuntimeError)]
    assert router.counts.streams_failed == 1
    router.route(batch(ended("whole", "c")))
    assert await text_of(whole) == "bc"
    with pytest.raises(RequestFailed):
        await text_of(broken)


async def test_a_stream_that_cannot_decode_its_last_token_needs_no_stop() -> None:
    router = Router()
    router.add("broken", new_stream("stop", decoder=BrokenDecoder()))
    assert router.route(batch(ended("broken", "a"))).stop == []
    assert router.release("broken") == []


async def test_a_request_that_the_engine_failed_fails_its_stream() -> None:
    router = Router()
    stream = new_stream()
    router.add("a", stream)
    failed = ScriptedOutput("a", (), FinishReason.STOP, broken=True)
    assert router.route(batch(failed)) == Routed(stop=[], failures=[("a", None)])
    assert router.counts.streams_failed == 1
    assert router.release("a") == []
    with pytest.raises(RequestFailed):
        await text_of(stream)


def test_a_stop_string_names_the_id_that_the_engine_must_stop() -> None:
    router = Router()
    for engine_id in "abc":
        router.add(engine_id, new_stream("END"))
    stop = router.route(batch(tokens("a", "xEND"), tokens("b", "x"), tokens("c", "END"))).stop
    assert stop == ["a", "c"]
    assert router.route(batch(tokens("a", "more"))).stop == []
    assert router.release("a") == [], "it is being stopped already"


@pytest.mark.parametrize(
    ("last", "engine_still_works"), [(tokens("a", "x"), True), (ended("a", "x"), False)]
)
def test_a_release_says_whether_the_engine_may_still_be_at_work(
    last: ScriptedOutput, engine_still_works: bool
) -> None:
    router = Router()
    router.add("a", new_stream())
    router.route(batch(last))
    assert router.release("a") == (["a"] if engine_still_works else [])
    assert len(router) == 0
    assert router.cancel("a") is None


def test_a_release_of_an_unknown_id_asks_for_nothing() -> None:
    assert Router().release("a") == []


async def test_all_fail_except_those_that_have_ended() -> None:
    router = Router()
    ended_stream, running = new_stream(), new_stream()
    router.add("ended", ended_stream)
    router.add("running", running)
    router.route(batch(ended("ended", "x"), tokens("running", "y")))
    assert router.fail_all(ServiceStopping) == ["running"]
    assert router.fail_all(EngineDead) == []
    assert await text_of(ended_stream) == "x"
    with pytest.raises(ServiceStopping):
        await text_of(running)


@dataclass
class CachingBatch(ScriptedBatch):
    """Tells the prompt tokens found in the cache for each output that is a first one."""

    outputs: Sequence[ScriptedOutput]
    cached: dict[str, int] = field(default_factory=dict)

    def cached_prompt_tokens(self, output: Any) -> int | None:
        return self.cached.get(output.request_id)


def test_the_cached_prompt_tokens_of_the_first_output_are_kept() -> None:
    router, stream = Router(), new_stream()
    router.add("a", stream)
    router.route(CachingBatch([tokens("a", "x")], {"a": 16}))
    router.route(CachingBatch([tokens("a", "y")]))
    router.route(CachingBatch([tokens("a", "z")], {"a": 7}))
    assert stream.cached_prompt_tokens == 16


async def test_the_end_is_the_engines_own() -> None:
    router = Router()
    stream = new_stream()
    router.add("a", stream)
    router.route(batch(ScriptedOutput("a", (7,), FinishReason.STOP, 7)))
    assert stream.finish == EngineFinish(FinishReason.STOP, 7)


@pytest.mark.parametrize("end", ["engine", "stop string", "cancel", "fail", "bug"])
def test_a_stream_that_is_released_as_it_ends_is_stopped_once_and_only_if_it_has_to_be(
    end: str,
) -> None:
    router = Router()
    stops: list[str] = []
    decoder = BrokenDecoder() if end == "bug" else None
    ending = new_stream("END", decoder=decoder, on_end=lambda: stops.extend(router.release("a")))
    other = new_stream()
    router.add("a", ending)
    router.add("b", other)
    if end == "cancel":
        stops += router.cancel("a") or []
    elif end == "fail":
        stops += router.fail_all(ServiceStopping)
        stops.remove("b")
    else:
        last = ended("a", "x") if end == "engine" else tokens("a", "xEND")
        stops += router.route(batch(last, tokens("b", "y"))).stop
        assert so_far(other) == "y"
    assert stops == ([] if end == "engine" else ["a"])
    assert ending.ended
    assert len(router) == 1
