"""OpenAI's official clients, for Python and for Node, against a bridge over a scripted service."""

import json
import time

from tests.clients.script import (
    STREAM_ID,
    Step,
    answer,
    deltas,
    finished,
    started,
)
from tests.clients.scripted import ScriptedService
from tests.gateway_sse.openai_clients.bodies import CHAT, COMPLETION
from tests.gateway_sse.openai_clients.callers import Caller
from tests.gateway_sse.openai_clients.scripts import logprobs_answer, of_choice
from tokenstream.v1 import generation_pb2 as pb

USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 0},
}
TWO_CHOICES: list[Step] = [
    started(),
    of_choice(deltas("b")[0], 1),
    deltas("a")[0],
    of_choice(finished(1, pb.FINISH_REASON_STOP), 1),
    finished(1),
]


async def test_a_chat_in_one_piece(service: ScriptedService, caller: Caller) -> None:
    service.script = answer("Hel", "lo")
    result = await caller("chat", CHAT)
    assert result.error is None
    got = result.answer
    assert got["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert got["usage"] == USAGE
    assert (got["id"], got["object"], got["model"]) == (
        f"chatcmpl-{STREAM_ID}",
        "chat.completion",
        "demo",
    )
    assert abs(got["created"] - time.time()) < 60
    assert [(m.role, m.content) for m in service.requests[0].chat.messages] == [("user", "Hi")]


async def test_a_completion_in_one_piece(service: ScriptedService, caller: Caller) -> None:
    service.script = answer("Hel", "lo")
    got = (await caller("completion", COMPLETION)).answer
    assert got["choices"] == [
        {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "length"}
    ]
    assert got["usage"] == USAGE
    assert (got["id"], got["object"]) == (f"cmpl-{STREAM_ID}", "text_completion")
    assert service.requests[0].text == "Hi"
    assert service.requests[0].sampling.max_tokens == 16


async def test_a_streamed_chat_begins_with_the_role_and_ends_with_the_reason(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = [started(), *deltas("Hel", "", "lo"), finished(3, pb.FINISH_REASON_STOP)]
    result = await caller("chat", {**CHAT, "stream": True})
    assert result.error is None
    assert [chunk["choices"][0]["delta"].get("content") for chunk in result.chunks] == [
        "",
        "Hel",
        "lo",
        None,
    ]
    assert result.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert result.reasons() == {0: "stop"}
    assert all("usage" not in chunk for chunk in result.chunks)
    assert service.requests[0].stream.max_delay_ms == 50


async def test_a_streamed_completion(service: ScriptedService, caller: Caller) -> None:
    service.script = answer("Hel", "lo")
    result = await caller("completion", {**COMPLETION, "stream": True})
    assert result.error is None
    assert (result.texts(), result.reasons()) == ({0: "Hello"}, {0: "length"})


async def test_the_usage_comes_last_if_it_is_asked_for(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = answer("Hel", "lo")
    options = {"stream": True, "stream_options": {"include_usage": True}}
    for call, body in (("chat", CHAT), ("completion", COMPLETION)):
        *chunks, last = (await caller(call, {**body, **options})).chunks
        assert (last["choices"], last["usage"]) == ([], USAGE)
        assert all(chunk["usage"] is None for chunk in chunks)


async def test_two_choices_in_one_piece(service: ScriptedService, caller: Caller) -> None:
    service.knows_sessions = False  # scripted sessions have no columns for it
    service.script = TWO_CHOICES
    got = (await caller("chat", {**CHAT, "n": 2})).answer
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in got["choices"]] == [
        (0, "a", "length"),
        (1, "b", "stop"),
    ]
    assert got["usage"] == USAGE
    assert service.requests[0].sampling.n == 2


async def test_two_choices_streamed(service: ScriptedService, caller: Caller) -> None:
    service.knows_sessions = False  # scripted sessions have no columns for it
    service.script = TWO_CHOICES
    for call, body in (("chat", CHAT), ("completion", COMPLETION)):
        result = await caller(call, {**body, "n": 2, "stream": True})
        assert result.error is None
        assert result.texts() == {0: "a", 1: "b"}
        assert result.reasons() == {0: "length", 1: "stop"}


async def test_log_probabilities_of_a_chat(service: ScriptedService, caller: Caller) -> None:
    service.knows_sessions = False  # scripted sessions have no columns for it
    service.script = logprobs_answer()
    options = {"logprobs": True, "top_logprobs": 2}
    content = (await caller("chat", {**CHAT, **options})).answer["choices"][0]["logprobs"][
        "content"
    ]
    assert [entry["token"] for entry in content] == ["Hel", "lo", "é"]
    assert content[2] == {
        "token": "é",
        "logprob": -0.25,
        "bytes": [0xC3, 0xA9],
        "top_logprobs": [
            {"token": "é", "logprob": -0.25, "bytes": [0xC3, 0xA9]},
            {"token": "?", "logprob": -2.0, "bytes": [63]},
        ],
    }
    assert service.requests[0].sampling.logprobs == 2
    streamed = await caller("chat", {**CHAT, **options, "stream": True})
    assert [
        entry
        for chunk in streamed.chunks
        for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ] == content


async def test_log_probabilities_of_a_completion(service: ScriptedService, caller: Caller) -> None:
    service.knows_sessions = False  # scripted sessions have no columns for it
    service.script = logprobs_answer()
    got = (await caller("completion", {**COMPLETION, "logprobs": 2})).answer
    assert got["choices"][0]["logprobs"] == {
        "tokens": ["Hel", "lo", "é"],
        "token_logprobs": [-0.25, -0.25, -0.25],
        "top_logprobs": [
            {"Hel": -0.25, "?": -2.0},
            {"lo": -0.25, "?": -2.0},
            {"é": -0.25, "?": -2.0},
        ],
        "text_offset": [0, 3, 5],
    }


async def test_sampling_goes_to_the_service_as_it_was_asked_for(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = answer("a")
    body = {
        **CHAT,
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "stop": ["\n", "END"],
        "seed": 42,
        "logit_bias": {"5": -100, "6": 1},
    }
    assert (await caller("chat", body)).error is None
    sampling = service.requests[0].sampling
    assert sampling == pb.SamplingOptions(
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=-0.1,
        stop=["\n", "END"],
        seed=42,
        logit_bias={5: -100, 6: 1},
    )


async def test_a_schema_for_the_answer_goes_to_the_service(
    service: ScriptedService, caller: Caller
) -> None:
    service.script = answer('{"a":', " 1}")
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    got = (await caller("chat", {**CHAT, "response_format": wanted})).answer
    assert json.loads(got["choices"][0]["message"]["content"]) == {"a": 1}
    assert json.loads(service.requests[0].sampling.structured_output.json_schema) == schema


async def test_the_key_goes_to_the_service(service: ScriptedService, caller: Caller) -> None:
    service.script = answer("a")
    await caller("chat", CHAT, api_key="my-key")
    await caller("models", api_key="my-key")
    assert service.keys == ["my-key"]


async def test_the_models_are_listed_and_found(service: ScriptedService, caller: Caller) -> None:
    listed = (await caller("models")).answer
    [model] = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("demo", "model", "tokenstream")
    assert (model["context_length"], model["vocab_size"]) == (2048, 512)
    assert (await caller("model", {"model": "demo"})).answer["id"] == "demo"
    error = (await caller("model", {"model": "org/other"})).error
    assert error is not None
    assert (error["name"], error["code"]) == ("NotFoundError", "model_not_found")


async def test_difficult_text_arrives_as_it_was(service: ScriptedService, caller: Caller) -> None:
    texts = [
        "a\r\nb\n",
        "\x00\x1b",
        "data: [DONE]\n\n",
        "\u2028\u2029\x85",
        "é日本🙂",
        '"\\',
        "\u007f",
    ]
    service.script = answer(*texts)
    assert (await caller("chat", {**CHAT, "stream": True})).texts() == {0: "".join(texts)}
    got = (await caller("chat", CHAT)).answer
    assert got["choices"][0]["message"]["content"] == "".join(texts)
