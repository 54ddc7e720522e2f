"""Chats, log-probabilities and biases are what vLLM's offline API says."""

import asyncio
import math
from typing import Any

import pytest

from tests.end_to_end.known_requests import CHATS, QUESTIONS, TOLD_MORE, Answers
from tokenstream_client import (
    AsyncStream,
    Chat,
    ChatMessage,
    Delta,
    FinishReason,
    InvalidRequest,
    TokenLogprobs,
)

# The fixtures' classes live in conftest, which is no importable module here.
RealService = Any
pytestmark = [
    pytest.mark.engine,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(420),
]

END = "<|end|>"
ENDS = (0, 5)  # <|endoftext|> and <|end|>


def chat_of(messages: list[dict[str, str]]) -> Chat:
    return Chat(tuple(ChatMessage(m["role"], m["content"]) for m in messages))


async def read(stream: AsyncStream) -> tuple[list[int], str, list[TokenLogprobs]]:
    token_ids: list[int] = []
    texts: list[str] = []
    logprobs: list[TokenLogprobs] = []
    async for event in stream:
        if isinstance(event, Delta):
            token_ids += event.token_ids
            texts.append(event.text)
            logprobs += event.logprobs
    return token_ids, "".join(texts), logprobs


async def test_a_chat_is_answered_as_vllm_answers_it_and_ends_with_its_turn(
    offline: dict[str, Answers], real: RealService
) -> None:
    for chat, vllms in zip(CHATS, offline["chats"], strict=True):
        stream = real.client.generate(chat_of(chat["messages"]), **chat["params"])
        token_ids, text, _ = await read(stream)

        assert (token_ids, text) == (vllms["token_ids"], vllms["text"])
        assert stream.started.prompt_tokens == vllms["prompt_tokens"]
        if stream.finished.reason is FinishReason.STOP:
            assert token_ids[-1] in ENDS
            assert END not in text
    assert offline["chats"][0]["finish_reason"] == "stop", "no turn came to its end"


async def test_what_a_template_refuses_is_a_bad_chat(real: RealService) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await read(real.client.generate(Chat((ChatMessage("critic", "secret"),))))

    (violation,) = refused.value.field_violations
    assert violation.field == "chat"
    assert violation.description == "The roles are system, user and assistant."


async def test_a_chat_that_does_not_fit_is_a_bad_chat(real: RealService) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await read(real.client.generate(Chat((ChatMessage("user", "so many " * 3000),))))

    (violation,) = refused.value.field_violations
    assert violation.field == "chat"


async def test_log_probabilities_are_vllms_own(
    offline: dict[str, Answers], real: RealService
) -> None:
    ours = await asyncio.gather(
        *(read(real.client.generate(text["prompt"], **text["params"])) for text in TOLD_MORE[:3])
    )

    for (token_ids, _, logprobs), text, vllms in zip(
        ours, TOLD_MORE, offline["told more"], strict=False
    ):
        likeliest = text["params"]["logprobs"]
        assert token_ids == vllms["token_ids"]
        assert len(logprobs) == len(token_ids)
        for token_id, place, vllms_place in zip(
            token_ids, logprobs, vllms["logprobs"], strict=True
        ):
            by_token = {i: logprob for i, _, logprob in vllms_place}
            by_rank = {rank: i for i, rank, _ in vllms_place}
            assert math.isclose(place.logprob, by_token[token_id], abs_tol=1e-4)
            assert [t.token_id for t in place.likeliest] == [
                by_rank[rank] for rank in range(1, likeliest + 1)
            ]
            for likely in place.likeliest:
                assert math.isclose(likely.logprob, by_token[likely.token_id], abs_tol=1e-4)


async def test_tokens_bytes_make_the_text_also_where_a_character_is_spread(
    real: RealService,
) -> None:
    token_ids, text, logprobs = await read(
        real.client.generate(
            QUESTIONS[7], temperature=1.6, seed=7, max_tokens=200, ignore_eos=True, logprobs=1,
            skip_special_tokens=False,
        )
    )  # fmt: skip

    joined = b"".join(place.token for place in logprobs)
    # What never became a character is left out of the text, and U+FFFD stands for it inside.
    assert joined.decode(errors="replace").rstrip("\ufffd").startswith(text.rstrip("\ufffd"))
    assert len(token_ids) == 200


async def test_a_bias_is_vllms_own(offline: dict[str, Answers], real: RealService) -> None:
    text = TOLD_MORE[3]
    token_ids, _, logprobs = await read(
        real.client.generate(
            text["prompt"], logit_bias={300: 100.0, 301: -100.0}, temperature=0.0, max_tokens=40
        )
    )

    assert token_ids == offline["told more"][3]["token_ids"]
    assert 300 in token_ids
    assert not logprobs


async def test_log_probabilities_come_again_when_a_stream_is_read_again(
    real: RealService,
) -> None:
    stream = real.client.generate(
        QUESTIONS[2], temperature=0.0, max_tokens=40, ignore_eos=True, logprobs=3,
        on_disconnect="detach",
    )  # fmt: skip
    token_ids, _, logprobs = await read(stream)

    again = await read(real.client.resume(stream.started.stream_id, next_token_index=7))

    assert again[0] == token_ids[7:]
    assert again[2] == logprobs[7:]
