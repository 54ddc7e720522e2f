"""Our stop-string search and vLLM's own, held against each other on anything."""

from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.stream.text import StopRules, TextAssembler

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

ALPHABET = "abc é🙂"
EVERYTHING = 1 << 30


class PiecesDecoder:
    """Token ids are places in a list of texts."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def decode(self, token_id: int) -> str:
        return self._pieces[token_id]


def vllms_answer(pieces: list[str], rules: StopRules) -> tuple[str, int, str | None]:
    """Text, tokens and stop string by vLLM's own detokenizer, one token a step."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer

    class Pieces(BaseIncrementalDetokenizer):  # type: ignore[misc]  # vLLM is not followed
        def decode_next(self, next_token_id: int) -> str:
            return pieces[next_token_id]

    request = EngineCoreRequest(
        request_id="",
        prompt_token_ids=[0],
        mm_features=None,
        sampling_params=SamplingParams(
            stop=list(rules.strings),
            min_tokens=rules.min_tokens,
            include_stop_str_in_output=rules.include_stop,
            max_tokens=1000,
        ),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    detokenizer = Pieces(request)
    for token_id in range(len(pieces)):
        stop = detokenizer.update([token_id], stop_terminated=False)
        if stop is not None:
            return cast(str, detokenizer.output_text), token_id + 1, stop
    return cast(str, detokenizer.output_text), len(pieces), None


def our_answer(
    pieces: list[str], rules: StopRules, takes: list[bool]
) -> tuple[str, int, str | None]:
    """The same by ours, with text taken here and there on the way."""
    text = TextAssembler(PiecesDecoder(pieces), rules)
    out = ""
    for token_id in range(len(pieces)):
        match = text.feed([token_id])
        if match is not None:
            return out + text.take(EVERYTHING, final=True), token_id + 1, match.string
        if takes[token_id % len(takes)]:
            out += text.take(EVERYTHING, final=False)
    return out + text.take(EVERYTHING, final=True), len(pieces), None


@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(st.text(ALPHABET, max_size=4), max_size=30),
    strings=st.lists(st.text(ALPHABET, min_size=1, max_size=5), max_size=4, unique=True),
    min_tokens=st.integers(0, 10),
    include_stop=st.booleans(),
    takes=st.lists(st.booleans(), min_size=1, max_size=7),
)
def test_any_tokens_with_any_stop_strings_end_where_vllm_ends_them(
    pieces: list[str],
    strings: list[str],
    min_tokens: int,
    include_stop: bool,
    takes: list[bool],
) -> None:
    rules = StopRules(tuple(strings), min_tokens, include_stop)

    assert our_answer(pieces, rules, takes) == vllms_answer(pieces, rules)
