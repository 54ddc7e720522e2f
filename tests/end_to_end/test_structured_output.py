"""Answers keep to their form on the real engine, and no form ends or stalls it."""

import asyncio
import json
import re
import time
from contextlib import suppress
from typing import Any

import pytest

from tokenstream_client import AsyncStream, Delta, FinishReason, Internal, InvalidRequest

# The fixtures' classes live in conftest, which is no importable module here.
RealService = Any
pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(420),
]

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "number": {"type": "integer", "minimum": 0, "maximum": 1000},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "number", "tags"],
    "additionalProperties": False,
}
LOOP = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}

REFUSED: dict[str, tuple[str, str]] = {
    "not JSON": ("json_schema", '{"type":'),
    "not an object": ("json_schema", "42"),
    "NaN": ("json_schema", '{"const": NaN}'),
    "nested deep": ("json_schema", '{"items":' * 70 + "{}" + "}" * 70),
    "nested very deep": ("json_schema", "[" * 60_000),
    "a type that there is not": ("json_schema", '{"type": "poem"}'),
    "a keyword that is not supported": ("json_schema", '{"type": "array", "uniqueItems": true}'),
    "a reference to elsewhere": ("json_schema", '{"$ref": "http://127.0.0.1:1/schema"}'),
    "nothing satisfies it": ("json_schema", '{"allOf": [{"type": "string"}, {"type": "null"}]}'),
    "only itself satisfies it": ("json_schema", json.dumps(LOOP)),
    "a million items": ("json_schema", '{"type": "array", "minItems": 1000000}'),
    "half a surrogate": ("json_schema", '{"enum": ["\\ud800"]}'),
    "an open group": ("regex", "(("),
    "groups in groups": ("regex", "(" * 2000 + ")" * 2000),
    "a look ahead": ("regex", "(?=a)b"),
    "a reference back": ("regex", r"(a)\1"),
    "no character": ("regex", r"[^\s\S]"),
    "a billion": ("regex", "((a{1000}){1000}){1000}"),
}
ALLOWED = {
    "nested repetitions": ("regex", "(a*)*" * 800),
    "nested plus": ("regex", "(a+)+b"),
    "many states": ("regex", "[ab]*a[ab]{300}c"),
    "more states": ("regex", "(.*a.{200}b.*)|(.*c.{150}d.*)|(.*[e-k].{170}z.*)"),
    "many properties": (
        "json_schema",
        json.dumps(
            {
                "type": "object",
                "properties": {f"p{i}": {"pattern": ".*[a-m].{50}x"} for i in range(200)},
            }
        ),
    ),
    "many branches": (
        "json_schema",
        json.dumps({"anyOf": [{"properties": {f"q{i}": {"type": "null"}}} for i in range(500)]}),
    ),
    "anything for ever": ("regex", ".*"),
}


async def read(stream: AsyncStream) -> str:
    return "".join([event.text async for event in stream if isinstance(event, Delta)])


async def lives(real: RealService) -> None:
    """Generate as anybody would."""
    async with asyncio.timeout(20):
        await read(real.client.generate("What is gRPC?", max_tokens=5))


async def longest_pause(until: "asyncio.Task[Any]") -> float:
    """How long the event loop was away for while a task ran, in seconds."""
    longest, last = 0.0, time.perf_counter()
    while not until.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


async def test_an_answer_to_a_schema_is_json_of_that_schema(real: RealService) -> None:
    stream = real.client.generate(
        "Say it in JSON.", json_schema=json.dumps(SCHEMA), temperature=0, max_tokens=400
    )
    answer = json.loads(await read(stream))

    assert stream.finished.reason is FinishReason.STOP
    assert set(answer) == {"name", "number", "tags"}
    assert len(answer["name"]) <= 20
    assert 0 <= answer["number"] <= 1000
    assert 1 <= len(answer["tags"]) <= 3
    assert set(answer["tags"]) <= {"a", "b"}


async def test_an_answer_to_a_regex_matches_it_as_a_whole(real: RealService) -> None:
    pattern = r"(yes|no), [0-9]{3}-[A-F]{2}\."
    stream = real.client.generate("Well?", regex=pattern, temperature=0.9, seed=3)

    assert re.fullmatch(pattern, await read(stream))
    assert stream.finished.reason is FinishReason.STOP


async def test_a_json_object_begins_as_one(real: RealService) -> None:
    text = await read(real.client.generate("JSON!", json_object=True, temperature=0, max_tokens=64))
    assert text.lstrip().startswith("{")


@pytest.mark.parametrize("name", REFUSED)
async def test_a_form_that_the_engine_cannot_work_with_is_refused_by_name(
    name: str, real: RealService
) -> None:
    kind, form = REFUSED[name]
    began = time.perf_counter()

    task = asyncio.create_task(read(real.client.generate("Hi", max_tokens=5, **{kind: form})))
    pause = await longest_pause(task)

    with pytest.raises(InvalidRequest) as refused:
        await task
    (violation,) = refused.value.field_violations
    assert violation.field == f"sampling.structured_output.{kind}"
    assert 0 < len(violation.description) <= 200
    assert "\n" not in violation.description
    assert time.perf_counter() - began < 5
    assert pause < 0.5
    await lives(real)


@pytest.mark.parametrize("name", ALLOWED)
async def test_a_form_that_is_hard_work_neither_ends_nor_stalls_the_engine(
    name: str, real: RealService
) -> None:
    kind, form = ALLOWED[name]
    task = asyncio.create_task(
        read(
            real.client.generate(
                "Hi", max_tokens=300, temperature=1.5, seed=1, timeout=60, **{kind: form}
            )
        )
    )
    await lives(real)
    with suppress(Internal, InvalidRequest):  # that one request may fail
        await task
    await lives(real)
    await real.until_engine_idle(10)


async def test_an_answer_whose_form_becomes_too_much_work_fails_instead_of_looking_complete(
    real: RealService,
) -> None:
    _, form = ALLOWED["more states"]
    with pytest.raises(Internal):
        await read(real.client.generate("Hi", max_tokens=300, temperature=1.5, seed=1, regex=form))
    await lives(real)


async def test_different_forms_at_once_do_not_meet(real: RealService) -> None:
    forms = [f"(item {i}|thing {i})" for i in range(16)]
    answers = await asyncio.gather(
        *(read(real.client.generate("Hi", regex=form, seed=i)) for i, form in enumerate(forms))
    )
    for form, answer in zip(forms, answers, strict=True):
        assert re.fullmatch(form, answer)


async def test_forms_go_along_with_log_probabilities_and_stop_strings(real: RealService) -> None:
    stream = real.client.generate(
        "Hi", regex="[0-9]{20}", logprobs=2, temperature=0, stop=["999999"], max_tokens=40
    )
    events = [event async for event in stream if isinstance(event, Delta)]
    assert sum(len(e.logprobs) for e in events) == sum(len(e.token_ids) for e in events)
