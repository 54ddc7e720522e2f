"""The official clients against a bridge over the service itself, with keys; its engine says back
what it is told, byte by byte (`service/engine/scripted.py`).
"""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway_sse.config import GatewaySettings
from service.admission.callers import key_line, new_key
from service.engine.scripted import ScriptedEngine
from tests.conftest import Serve
from tests.gateway_sse.openai_clients.callers import Caller, PythonCaller, still_works
from tests.service.running import RunningService, eventually

MODEL = "scripted"
KEY = new_key()


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def prompt(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": text, **fields}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{key_line('acme', KEY)}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
async def running(serve: Serve, key_file: Path) -> RunningService:
    """Its steps take a while, so that an answer can be left in the middle."""
    return await serve(ScriptedEngine(step_s=0.002), api_keys_file=key_file, max_streams=4)


@pytest.fixture
def settings(running: RunningService) -> GatewaySettings:
    return GatewaySettings(upstream=running.target, listen="127.0.0.1:0", drain_grace_s=5)


async def test_an_answer_is_the_same_in_chunks_and_in_one_piece(caller: Caller) -> None:
    text = "Grüße, 日本 🙂\r\n"
    size = len(text.encode())
    whole = (await caller("chat", chat(text), api_key=KEY)).answer
    assert whole["choices"][0]["message"]["content"] == text
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["usage"]["prompt_tokens"] == size
    body = chat(text, stream=True, stream_options={"include_usage": True})
    streamed = await caller("chat", body, api_key=KEY)
    assert streamed.error is None
    assert (streamed.texts(), streamed.reasons()) == ({0: text}, {0: "stop"})
    assert streamed.chunks[-1]["usage"] == whole["usage"]


async def test_choices_are_answers_of_their_own(caller: Caller) -> None:
    whole = (await caller("chat", chat("abcdef", n=3), api_key=KEY)).answer
    assert [choice["message"]["content"] for choice in whole["choices"]] == [
        "abcdef",
        "bcdef",
        "cdef",
    ]
    assert whole["usage"]["completion_tokens"] == 7 + 6 + 5
    streamed = await caller("completion", prompt("abcdef", n=3, stream=True), api_key=KEY)
    assert streamed.texts() == {0: "abcdef", 1: "bcdef", 2: "cdef"}
    assert streamed.reasons() == {0: "stop", 1: "stop", 2: "stop"}


async def test_a_stop_string_ends_the_text_before_it(caller: Caller) -> None:
    for stop in ("d", ["x", "de"]):
        streamed = await caller("chat", chat("abcdef", stop=stop, stream=True), api_key=KEY)
        assert (streamed.texts(), streamed.reasons()) == ({0: "abc"}, {0: "stop"})


async def test_a_limit_of_tokens_is_kept(caller: Caller) -> None:
    whole = (await caller("chat", chat("abcdef", max_completion_tokens=2), api_key=KEY)).answer
    assert whole["choices"][0]["message"]["content"] == "ab"
    assert whole["choices"][0]["finish_reason"] == "length"
    by_default = (await caller("completion", prompt("a" * 40), api_key=KEY)).answer
    assert by_default["choices"][0]["text"] == "a" * 16


async def test_log_probabilities_are_the_engines(caller: Caller) -> None:
    options = {"logprobs": True, "top_logprobs": 2, "max_tokens": 2}
    whole = (await caller("chat", chat("dé", **options), api_key=KEY)).answer
    first, second = whole["choices"][0]["logprobs"]["content"]
    own = -ord("d") / 1024
    assert (first["token"], first["bytes"], first["logprob"]) == ("d", [100], own)
    assert [(top["token"], top["logprob"]) for top in first["top_logprobs"]] == [
        ("d", own),
        ("c", own - 1),
    ]
    assert (second["token"], second["bytes"]) == ("\\xc3", [0xC3])
    completion = (await caller("completion", prompt("abc", logprobs=0), api_key=KEY)).answer
    logprobs = completion["choices"][0]["logprobs"]
    assert (logprobs["tokens"][:3], logprobs["text_offset"][:3]) == (["a", "b", "c"], [0, 1, 2])


async def test_token_ids_are_a_prompt_as_they_are(caller: Caller) -> None:
    body = {"model": MODEL, "prompt": [104, 105]}
    assert (await caller("completion", body, api_key=KEY)).answer["choices"][0]["text"] == "hi"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (chat("a", model="other"), 404, "model"),
        (chat("a", temperature=3), 400, "temperature"),
        (chat("a", top_p=0), 400, "top_p"),
        (chat("a", n=17), 400, "n"),
        (chat("a", n=0), 400, "n"),
        (chat("a", max_tokens=0), 400, "max_tokens"),
        (chat("a", max_tokens=-1), 400, "max_tokens"),
        (chat("a", seed=-1), 400, "seed"),
        (chat("a", seed=2**63), 400, "seed"),
        (chat("a", stop=[""]), 400, "stop[0]"),
        (chat("a", stop=["a"] * 17), 400, "stop"),
        (chat("a", logit_bias={"9999999999": 1}), 400, "logit_bias"),
        (chat("a", logit_bias={"5": 101}), 400, "logit_bias[5]"),
        (chat("a\0"), 400, "messages[0].content"),
        (prompt(""), 400, "prompt"),
        (prompt("a" * 2000), 400, "prompt"),
        ({"model": MODEL, "prompt": [1, 2**40]}, 400, "prompt"),
        ({"model": MODEL, "prompt": [-1]}, 400, "prompt"),
    ],
)
async def test_what_the_service_does_not_take_is_told_by_openais_names(
    caller: Caller, body: dict[str, Any], status: int, param: str
) -> None:
    call = "chat" if "messages" in body else "completion"
    for stream in (False, True):
        error = (await caller(call, {**body, "stream": stream}, api_key=KEY)).error
        assert error is not None
        assert (error["status"], error["param"]) == (status, param)


async def test_a_wrong_key_is_an_authentication_error(caller: Caller) -> None:
    for call, body in (("chat", chat("a")), ("models", None)):
        error = (await caller(call, body, api_key="wrong")).error
        assert error is not None
        assert (error["name"], error["code"]) == ("AuthenticationError", "invalid_api_key")


async def test_the_models_are_the_services(caller: Caller) -> None:
    [model] = (await caller("models", api_key=KEY)).answer["data"]
    assert (model["id"], model["context_length"]) == (MODEL, 1024)
    assert "chat" in model["capabilities"]


async def test_a_stream_that_is_left_ends_in_the_engine_within_a_second(
    caller: Caller, running: RunningService
) -> None:
    body = chat("abc", stream=True, ignore_eos=True)
    if "Python" in type(caller).__name__:
        body["extra_body"] = {"ignore_eos": body.pop("ignore_eos")}
    result = await caller("chat", body, api_key=KEY, abort_after=3)
    assert result.error is None
    await eventually(lambda: running.engine.running_ids == [], within_s=1)
    await still_works(caller, KEY)


async def test_a_full_service_is_a_rate_limit(
    caller: Caller, base_url: str, running: RunningService
) -> None:
    body = prompt("a" * 500, n=4, max_tokens=500)
    asking = asyncio.create_task(PythonCaller(base_url)("completion", body, api_key=KEY))
    await eventually(lambda: len(running.engine.running_ids) == 4)
    error = (await caller("chat", chat("a"), api_key=KEY)).error
    assert error is not None
    assert (error["name"], error["status"]) == ("RateLimitError", 429)
    assert error["code"] == "rate_limit_exceeded"
    asking.cancel()
    await asyncio.wait([asking])
    await eventually(lambda: running.engine.running_ids == [], within_s=1)
